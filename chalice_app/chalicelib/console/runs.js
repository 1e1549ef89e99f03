// Runs: the newest first.

import { call, poll } from "./api.js";
import { h, problem, show, table } from "./dom.js";
import { duration, moment, percent, secondsBetween } from "./format.js";

const LIMIT = 50;

/** A run's status in one word, with a colour that only repeats it. */
export function badge(run) {
  const [word, look] = run.status === "RUNNING" ? ["running", "active"]
    : run.status !== "SUCCEEDED" ? [run.status === "FAILED" ? "failed" : run.status.toLowerCase().replace("_", " "), "bad"]
      : run.verdict === "promoted" ? ["promoted", "good"]
        : run.verdict === "rejected" ? ["not better", "plain"]
          : run.verdict === "unchanged" ? ["unchanged", "plain"] : ["succeeded", "good"];
  return h("span", { class: `badge ${look}` }, word);
}

/** A table of runs. */
export function runTable(runs) {
  const heads = ["Run", "Status", { value: "Accuracy", class: "number" }, { value: "Model", class: "number wide" }, { value: "Took", class: "number wide" }];
  return table("Runs", heads, runs.map((run) => [
    [h("a", { href: `#/runs/${encodeURIComponent(run.id)}`, "data-focus": run.id, class: "run-id" }, run.id),
      h("span", { class: "below" }, h("a", { href: `#/datasets/${encodeURIComponent(run.dataset)}` }, run.dataset), `, ${moment(run.started_at)}`)],
    badge(run),
    { value: percent(run.accuracy), class: "number" },
    { value: run.model_version ?? "–", class: "number wide" },
    { value: run.status === "RUNNING" ? "–" : duration(secondsBetween(run.started_at, run.ended_at)), class: "number wide" },
  ]));
}

export function runsView(signal) {
  const list = h("div", {}, h("p", { class: "muted" }, "Loading …"));
  const trouble = h("div", {});
  poll(async () => {
    const { runs } = await call(`runs?limit=${LIMIT}`, { signal });
    show(list, runs.length ? runTable(runs) : h("p", { class: "notice" }, "There is no run yet. It begins by itself after ", h("a", { href: "#/upload" }, "an upload"), "."));
    return JSON.stringify(runs);
  }, signal, (error) => show(trouble, error && problem(error)), { fastest: 3000, slowest: 20000 });
  return { title: "Runs", element: h("div", {}, h("h1", {}, "Runs"), trouble, list) };
}
