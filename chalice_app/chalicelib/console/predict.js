// Predict: an image in, labels out, and the parts of the image that spoke for the best one.

import { ApiError, call, listDatasets } from "./api.js";
import { announce, h, problem, show } from "./dom.js";
import { bytes, percent } from "./format.js";
import { sendable } from "./images.js";

// As many bars are shown; the other labels are for those who say the right one.
const BARS = 5;
const TOP_K = 100;
// Base64 makes a third more of it, and the API takes 4.5 MB.
const MAX_FEEDBACK_BYTES = 3_000_000;

export function predictView(signal, wanted) {
  const chooser = h("select", { id: "dataset", disabled: true }, h("option", {}, "Loading …"));
  const files = h("input", { type: "file", accept: "image/*", id: "image-file", class: "visually-hidden", onchange: () => take(files.files) });
  const camera = h("input", { type: "file", accept: "image/*", capture: "environment", id: "camera-file", class: "visually-hidden", onchange: () => take(camera.files) });
  const picture = h("div", { class: "picture" });
  const drop = h("div", { class: "drop" },
    picture,
    h("p", {}, "Drop an image here, paste one, or"),
    h("p", { class: "buttons" },
      h("label", { for: "image-file", class: "button primary" }, "Choose an image"),
      h("label", { for: "camera-file", class: "button touch-only" }, "Take a photo"),
      files, camera));
  const result = h("section", { class: "result", "aria-labelledby": "answer-title", "aria-live": "polite" });
  const empty = () => show(result, h("h2", { id: "answer-title" }, "Answer"), h("p", { class: "muted" }, "The labels of your image will stand here."));
  const above = h("div", {});
  let preview = null;
  let latest = 0;

  empty();
  fill();
  acceptDrops(drop, take);
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take(event.clipboardData.files);
  }, { signal });
  signal.addEventListener("abort", () => preview && URL.revokeObjectURL(preview));

  async function fill() {
    let found;
    try {
      found = await listDatasets(signal);
    } catch (error) {
      if (!signal.aborted) show(above, problem(error));
      return;
    }
    const live = found.filter((dataset) => dataset.live_version !== null);
    if (live.length === 0) {
      chooser.replaceChildren(h("option", {}, "No model is live"));
      show(above, h("p", { class: "notice" }, found.length
        ? "No dataset has a live model yet. The first run that succeeds brings one; see "
        : "There is no dataset yet. Begin with ",
      found.length ? h("a", { href: "#/runs" }, "the runs") : h("a", { href: "#/upload" }, "an upload"), "."));
      return;
    }
    chooser.replaceChildren(...live.map((dataset) =>
      h("option", { value: dataset.name, selected: dataset.name === wanted }, `${dataset.name} (model ${dataset.live_version})`)));
    chooser.disabled = false;
  }

  async function take([file]) {
    files.value = camera.value = "";
    if (!file) return;
    if (chooser.disabled) {
      announce("No model is live.");
      return;
    }
    const turn = ++latest;
    const dataset = chooser.value;
    show(result, h("h2", { id: "answer-title" }, "Answer"), h("p", { class: "muted" }, `Asking the model of ${dataset} …`));
    try {
      const { body, type, note } = await sendable(file);
      if (preview) URL.revokeObjectURL(preview);
      preview = URL.createObjectURL(body);
      const image = h("img", { src: preview, alt: `Your image ${file.name}` });
      // A TIFF, which the browser cannot show, may still be asked about.
      const shown = await image.decode().then(() => true, () => false);
      image.classList.add(image.naturalWidth >= image.naturalHeight ? "lying" : "upright");
      picture.replaceChildren(shown ? image : "");
      drop.classList.toggle("filled", shown);
      const started = performance.now();
      const answer = await ask(dataset, body, type);
      const milliseconds = performance.now() - started;
      if (turn !== latest || signal.aborted) return;
      const [best] = answer.predictions;
      announce(`${best.label}, ${percent(best.score)}`);
      result.replaceChildren(h("h2", { id: "answer-title" }, best.label), bars(answer.predictions.slice(0, BARS)),
        h("p", { class: "muted small" }, `Model ${answer.model_version} of ${dataset}, ${milliseconds.toFixed(0)} ms there and back for ${bytes(body.size)}.`, note && ` ${note}`),
        ...await heatMap(answer, picture), feedback(dataset, answer, body));
    } catch (error) {
      if (turn === latest && !signal.aborted) show(result, h("h2", { id: "answer-title" }, "No answer"), problem(error));
    }
  }

  async function ask(dataset, body, type) {
    const path = `predict/${encodeURIComponent(dataset)}?top_k=${TOP_K}`;
    const request = { method: "POST", body, headers: { "Content-Type": type }, signal };
    try {
      return await call(`${path}&explain=true`, request);
    } catch (error) {
      // Not every network can say what it looked at; its labels are wanted all the same.
      if (error instanceof ApiError && error.code === "ExplainUnavailable") return call(path, request);
      throw error;
    }
  }

  return {
    title: "Predict",
    element: h("div", {},
      h("h1", {}, "Predict"),
      above,
      h("div", { class: "columns" },
        h("section", { "aria-label": "Your image" },
          h("p", { class: "field" }, h("label", { for: "dataset" }, "Dataset"), chooser),
          drop),
        result)),
  };
}

/** Let files be dropped on an element. */
export function acceptDrops(element, take) {
  element.addEventListener("dragover", (event) => { event.preventDefault(); element.classList.add("over"); });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    take(event.dataTransfer.files, event.dataTransfer);
  });
}

function bars(predictions) {
  return h("ul", { class: "bars" }, predictions.map(({ label, score }) => {
    const bar = h("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", score);
    return h("li", {}, h("span", { class: "label" }, label), h("span", { class: "score" }, percent(score)), bar);
  }));
}

/**
 * Lay the heat map over the shown image. It is grey, white where most spoke for the label, and as large as the square
 * that the network saw: the picture centred in it.
 */
async function heatMap(answer, picture) {
  const image = picture.querySelector("img");
  if (!answer.heatmap || !image) return [];
  const grey = new Image();
  grey.src = `data:image/png;base64,${answer.heatmap}`;
  await grey.decode();
  const canvas = h("canvas", { class: "heat", width: grey.width, height: grey.height, "aria-hidden": "true" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(grey, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const value = pixels.data[at];
    // From nothing over yellow to red.
    pixels.data.set([255, 230 - 0.9 * value, 0, value], at);
  }
  context.putImageData(pixels, 0, 0);
  canvas.classList.add(image.classList.contains("lying") ? "lying" : "upright");
  const slider = h("input", { type: "range", id: "heat", min: 0, max: 1, step: 0.05, value: 0.6, oninput: () => { canvas.style.opacity = slider.value; } });
  canvas.style.opacity = slider.value;
  picture.append(canvas);
  return [h("p", { class: "field" }, h("label", { for: "heat" }, `Show what spoke for “${answer.predictions[0].label}”`), slider)];
}

/** Let the person say the right label; the image is kept with it. */
function feedback(dataset, answer, body) {
  const done = h("div", { class: "full" });
  const label = h("input", { id: "right-label", list: "labels", autocomplete: "off", required: true, maxlength: 256 });
  const form = h("form", { class: "inline", onsubmit: async (event) => {
    event.preventDefault();
    try {
      const image = body.size <= MAX_FEEDBACK_BYTES ? { base64: await base64(body) } : {};
      await call("feedback", { method: "POST", json: { dataset, label: label.value.trim(), predicted: answer.predictions[0].label, model_version: answer.model_version, ...image } });
      form.replaceWith(h("p", { role: "status", class: "notice good" }, `Written down: this is “${label.value.trim()}”.`));
    } catch (error) {
      show(done, problem(error));
    }
  } }, h("label", { for: "right-label" }, "In truth this is"), label,
  h("datalist", { id: "labels" }, answer.predictions.map((prediction) => h("option", { value: prediction.label }))),
  h("button", { type: "submit" }, "Tell"), done);
  return form;
}

const base64 = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.addEventListener("load", () => resolve(reader.result.slice(reader.result.indexOf(",") + 1)));
  reader.addEventListener("error", () => reject(reader.error));
  reader.readAsDataURL(blob);
});
