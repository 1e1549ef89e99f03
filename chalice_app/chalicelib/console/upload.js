// Upload: a folder or an archive becomes a dataset, straight from the browser to the bucket.

import { ApiError, call, listDatasets, poll } from "./api.js";
import { announce, h, problem, show, table } from "./dom.js";
import { DATASET, fromDrop, fromList, plan } from "./files.js";
import { bytes, count, duration } from "./format.js";
import { acceptDrops } from "./predict.js";
import { Transfer } from "./transfer.js";

const LISTED = 100;

export function uploadView(signal, wanted) {
  const name = h("input", { id: "dataset-name", list: "dataset-names", value: wanted ?? "", autocomplete: "off", spellcheck: "false", autocapitalize: "none", maxlength: 32, required: true, "aria-describedby": "name-help name-error", oninput: () => checkName() });
  const nameError = h("p", { id: "name-error", class: "field-error", role: "alert" });
  const known = h("datalist", { id: "dataset-names" });
  const folder = h("input", { type: "file", webkitdirectory: true, multiple: true, id: "folder", class: "visually-hidden", onchange: () => look(fromList(folder.files)) });
  const files = h("input", { type: "file", multiple: true, id: "files", accept: ".zip,.tar,.tgz,.gz,.csv,.manifest", class: "visually-hidden", onchange: () => look(fromList(files.files)) });
  const summary = h("div", {});
  const start = h("button", { type: "submit", class: "primary", disabled: true }, "Upload");
  const drop = h("div", { class: "drop" },
    h("p", {}, "Drop a folder here, or"),
    h("p", { class: "buttons" },
      h("label", { for: "folder", class: "button" }, "Choose a folder"), folder,
      h("label", { for: "files", class: "button" }, "Choose an archive"), files),
    h("p", { class: "small muted" }, "One folder a class, for example pets/cat/1.jpg and pets/dog/1.jpg; or a zip or tar of such folders. ",
      "train, valid and test folders around them are kept. A labels file (.csv, .manifest) may lie beside them."));
  const form = h("form", { novalidate: true, onsubmit: (event) => { event.preventDefault(); begin(); } },
    drop, summary,
    h("p", { class: "field" }, h("label", { for: "dataset-name" }, "Name of the dataset"), name, known,
      h("span", { id: "name-help", class: "small muted" }, "1 to 32 small letters, digits and hyphens. A name that exists gets the files added."), nameError),
    h("p", { class: "buttons" }, start));
  const stage = h("div", {}, form);
  let planned = null;

  acceptDrops(drop, async (_, transfer) => {
    try {
      look(await fromDrop(transfer));
    } catch (error) {
      show(summary, problem(new ApiError({ code: error.name, message: "What was dropped cannot be read.", hint: `Choose the folder with the button instead. The browser says: ${error.message}` })));
    }
  });
  listDatasets(signal).then(
    (found) => known.replaceChildren(...found.map((dataset) => h("option", { value: dataset.name }))),
    // The list only saves typing.
    (error) => console.debug("no list of datasets", error),
  );
  window.addEventListener("beforeunload", (event) => { if (stage.dataset.busy) event.preventDefault(); }, { signal });

  function look(entries) {
    folder.value = files.value = "";
    if (entries.length === 0) return;
    planned = plan(entries);
    if (!name.value && planned.name) name.value = planned.name;
    checkName();
    const size = planned.files.reduce((sum, entry) => sum + entry.file.size, 0);
    show(summary,
      planned.files.length
        ? h("p", {}, h("strong", {}, `${count(planned.files.length, "file")}, ${bytes(size)}`), ` to upload`, planned.leftOut.length > 0 && `; ${count(planned.leftOut.length, "file")} left out`, ".")
        : problem(new ApiError({ message: "Nothing of this can be uploaded.", hint: "A dataset is made of images in class folders, or of archives of them." })),
      planned.warnings.map((text) => h("p", { class: "notice" }, text)),
      planned.classes.size > 0 && classTable(planned.classes),
      planned.leftOut.length > 0 && leftOut(planned.leftOut));
    start.disabled = planned.files.length === 0;
    announce(`${count(planned.files.length, "file")} to upload`);
    if (planned.files.length) (DATASET.test(name.value) ? start : name).focus();
  }

  function checkName() {
    const wrong = name.value !== "" && !DATASET.test(name.value);
    name.toggleAttribute("aria-invalid", wrong);
    nameError.textContent = wrong ? "Use small letters, digits and hyphens, and begin and end with a letter or a digit: for example holiday-photos." : "";
    return !wrong && name.value !== "";
  }

  function begin() {
    if (!planned?.files.length) return;
    if (!checkName()) {
      if (name.value === "") nameError.textContent = "Give the dataset a name.";
      name.focus();
      return;
    }
    const dataset = name.value;
    const transfer = new Transfer(dataset, planned.files);
    const bar = h("progress", { max: 1, value: 0, "aria-label": "Bytes sent" });
    const words = h("p", { class: "muted" });
    const failures = h("div", {});
    const cancel = h("button", { type: "button", onclick: () => transfer.cancel() }, "Stop");
    const heading = h("h2", { tabindex: "-1" }, `Uploading to ${dataset}`);
    stage.replaceChildren(heading, bar, words, h("p", { class: "buttons" }, cancel), failures);
    heading.focus();
    run();

    async function run() {
      stage.dataset.busy = "yes";
      cancel.hidden = false;
      failures.replaceChildren();
      let told = 0;
      const began = Date.now();
      transfer.onprogress = () => {
        const { done, total, sent, size } = transfer.progress();
        bar.value = size ? sent / size : 0;
        words.textContent = `${done} of ${count(total, "file")}, ${bytes(sent)} of ${bytes(size)}, ${duration((Date.now() - began) / 1000)}`;
        // A screen reader hears each quarter, not each file.
        if (Math.floor(4 * bar.value) > told) announce(`${Math.floor((told = Math.floor(4 * bar.value)) * 25)} percent uploaded`);
      };
      const leave = () => transfer.cancel();
      signal.addEventListener("abort", leave, { once: true });
      let error = null;
      try {
        await transfer.run();
      } catch (caught) {
        error = caught;
      }
      signal.removeEventListener("abort", leave);
      delete stage.dataset.busy;
      cancel.hidden = true;
      if (signal.aborted) return;
      if (error || transfer.failed.length) return stopped(error);
      heading.textContent = `${count(planned.files.length, "file")} uploaded to ${dataset}`;
      announce("All files are uploaded.");
      await toTheRun(dataset, transfer);
    }

    function stopped(error) {
      heading.textContent = error ? "The upload stopped" : `${count(transfer.failed.length, "file")} could not be uploaded`;
      const { done } = transfer.progress();
      failures.replaceChildren(
        error ? problem(error) : "",
        transfer.failed.length ? table("Files that could not be uploaded", ["File", "Why"], transfer.failed.slice(0, LISTED).map(({ path, reason }) => [path, reason])) : "",
        h("p", {}, `${count(done, "file")} arrived and need no repetition. A run starts when the uploads are over: now if you say so, else by itself after a while.`),
        h("p", { class: "buttons" },
          h("button", { type: "button", class: "primary", onclick: run }, "Try the rest again"),
          done > 0 && h("button", { type: "button", onclick: async () => {
            try {
              await transfer.markReady();
              await toTheRun(dataset, transfer);
            } catch (caught) {
              failures.prepend(problem(caught));
            }
          } }, "Start the run without them")));
      failures.querySelector("button").focus();
    }
  }

  async function toTheRun(dataset, transfer) {
    const waiting = h("p", { role: "status" }, "The run of it is about to start …");
    stage.append(waiting);
    await poll(async () => {
      const { runs } = await call(`runs?dataset=${encodeURIComponent(dataset)}&limit=5`, { signal });
      const active = runs.find((run) => run.status === "RUNNING" || run.started_at >= transfer.startedAt);
      if (!active) return "";
      location.hash = `#/runs/${encodeURIComponent(active.id)}`;
      return false;
    }, signal, (error) => show(waiting, error ? problem(error) : "The run of it is about to start …"), { fastest: 1000, slowest: 3000 });
  }

  return { title: "Upload", element: h("div", {}, h("h1", {}, "Upload"), stage) };
}

function classTable(classes) {
  const rows = [...classes].sort(([a], [b]) => String(a ?? "").localeCompare(String(b ?? "")));
  const most = Math.max(...classes.values());
  return table("Images a class", ["Class", { value: "Images", class: "number" }, ""], rows.map(([label, images]) => {
    const bar = h("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", images / most);
    return [label ?? "(in no class folder)", { value: images, class: "number" }, { value: bar, class: "bar-cell" }];
  }));
}

function leftOut(entries) {
  return h("details", { "data-name": "left-out" }, h("summary", {}, `${count(entries.length, "file")} left out`),
    table("Files left out", ["File", "Why"], entries.slice(0, LISTED).map(({ path, reason }) => [path, reason])),
    entries.length > LISTED && h("p", { class: "small" }, `And ${entries.length - LISTED} more.`));
}
