// Line charts as SVG. Each has its numbers in a table beside it; the picture is for the eye only.

import { h, svg } from "./dom.js";
import { number } from "./format.js";

const [WIDTH, HEIGHT] = [420, 230];
const AREA = { left: 52, right: 12, top: 12, bottom: 40 };

/**
 * A chart of some series over one axis.
 * @param {string} title
 * @param {{ name: string, points: [number, number][], look: string, dots?: boolean, line?: boolean, steps?: boolean }[]} series
 *   `look` is a class of the style sheet: `one` or `two`
 * @param {{ xName: string, yName: string, marked?: number }} names `marked` is an x that a line marks
 */
export function lineChart(title, series, { xName, yName, marked = null }) {
  const points = series.flatMap((one) => one.points);
  if (points.length === 0) return null;
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const xTicks = ticks(Math.min(...xs), Math.max(...xs), 6, true);
  const yTicks = ticks(Math.min(...ys), Math.max(...ys), 5, false);
  const [xLow, xHigh] = [Math.min(xTicks[0], ...xs), Math.max(xTicks.at(-1), ...xs)];
  const [yLow, yHigh] = [Math.min(yTicks[0], ...ys), Math.max(yTicks.at(-1), ...ys)];
  const x = (value) => AREA.left + ((value - xLow) / (xHigh - xLow || 1)) * (WIDTH - AREA.left - AREA.right);
  const y = (value) => HEIGHT - AREA.bottom - ((value - yLow) / (yHigh - yLow || 1)) * (HEIGHT - AREA.top - AREA.bottom);
  const first = series[0].points;
  const image = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "chart", "aria-label": `${title}: ${series.map((one) => `${one.name} from ${number(one.points[0]?.[1])} to ${number(one.points.at(-1)?.[1])}`).join(", ")}; ${first.length} points.` },
    yTicks.map((value) => [
      svg("line", { class: "grid", x1: AREA.left, x2: WIDTH - AREA.right, y1: y(value), y2: y(value) }),
      svg("text", { x: AREA.left - 7, y: y(value) + 4, "text-anchor": "end" }, number(+value.toPrecision(6))),
    ]),
    xTicks.map((value) => svg("text", { x: x(value), y: HEIGHT - AREA.bottom + 17, "text-anchor": "middle" }, value)),
    svg("text", { x: (AREA.left + WIDTH - AREA.right) / 2, y: HEIGHT - 5, "text-anchor": "middle", class: "axis" }, xName),
    svg("text", { transform: `translate(12 ${(AREA.top + HEIGHT - AREA.bottom) / 2}) rotate(-90)`, "text-anchor": "middle", class: "axis" }, yName),
    marked !== null && svg("line", { class: "mark", x1: x(marked), x2: x(marked), y1: AREA.top, y2: HEIGHT - AREA.bottom }),
    series.map((one) => [
      one.line !== false && svg("path", { class: `line ${one.look}`, d: path(one.points, x, y, one.steps) }),
      one.dots && one.points.map(([px, py]) => svg("circle", { class: `dot ${one.look}`, cx: x(px), cy: y(py), r: 4 }, svg("title", {}, `${xName} ${px}: ${number(py)}`))),
    ]));
  return h("figure", { class: "chart-figure" },
    h("figcaption", {}, h("strong", {}, title), h("span", { class: "legend" }, series.map((one) => h("span", { class: `key ${one.look}${one.line === false ? " dots" : ""}` }, one.name)))),
    image);
}

function path(points, x, y, steps) {
  return points.map(([px, py], index) => {
    if (index === 0) return `M${x(px).toFixed(1)} ${y(py).toFixed(1)}`;
    return steps ? `H${x(px).toFixed(1)}V${y(py).toFixed(1)}` : `L${x(px).toFixed(1)} ${y(py).toFixed(1)}`;
  }).join("");
}

/** Round values that cover a range: steps of 1, 2 or 5 times a power of ten. */
function ticks(low, high, wanted, whole) {
  const span = high - low || Math.abs(high) || 1;
  const raw = span / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  if (whole) step = Math.max(1, Math.round(step));
  // Trials and epochs begin at 1, whatever the step.
  const start = whole ? low : Math.floor(low / step + 1e-9) * step;
  const found = [];
  for (let value = start; value < high + (whole ? 1e-9 : step * (1 - 1e-9)); value += step) found.push(+value.toPrecision(12));
  return found;
}
