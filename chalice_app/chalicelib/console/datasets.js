// Datasets: their versions, what the data doctor found, their models and settings.

import { ApiError, call, listDatasets, poll, signedLink } from "./api.js";
import { announce, confirmed, facts, h, problem, show, table } from "./dom.js";
import { bytes, count, moment, percent } from "./format.js";
import { runTable } from "./runs.js";

const LISTED = 100;
const link = (dataset, ...rest) => `#/datasets/${[dataset, ...rest].map(encodeURIComponent).join("/")}`;

export function datasetsView(signal) {
  const list = h("div", {}, h("p", { class: "muted" }, "Loading …"));
  const trouble = h("div", {});
  poll(async () => {
    const found = await listDatasets(signal);
    const number = (value) => ({ value: value ?? "–", class: "number" });
    show(list, found.length
      ? table("Datasets", ["Dataset", { value: "Live model", class: "number" }, { value: "Versions", class: "number" }, { value: "Files", class: "number" }, { value: "Size", class: "number wide" }, { value: "Last upload", class: "wide" }, "At work"],
        found.map((dataset) => [
          h("a", { href: link(dataset.name), "data-focus": dataset.name }, dataset.name), number(dataset.live_version), number(dataset.versions), number(dataset.objects),
          { value: bytes(dataset.bytes), class: "number wide" }, { value: moment(dataset.last_upload_at), class: "wide" },
          dataset.run ? h("a", { href: `#/runs/${encodeURIComponent(dataset.run)}` }, "a run") : "–"]))
      : h("p", { class: "notice" }, "There is no dataset yet. Begin with ", h("a", { href: "#/upload" }, "an upload"), "."));
    return JSON.stringify(found);
  }, signal, (error) => show(trouble, error && problem(error)), { fastest: 5000, slowest: 30000 });
  return {
    title: "Datasets",
    element: h("div", {}, h("div", { class: "title-row" }, h("h1", {}, "Datasets"), h("a", { class: "button", href: "#/upload" }, "Upload a dataset")), trouble, list),
  };
}

export function datasetView(signal, name) {
  const [head, trouble, models, versions, runs, settings] = Array.from({ length: 6 }, () => h("div", {}));
  const path = `datasets/${encodeURIComponent(name)}`;
  const release = { words: null, busy: false };
  head.append(h("p", { class: "muted" }, "Loading …"));

  async function refresh() {
    const [dataset, { versions: listed, next }, history, { runs: begun }] = await Promise.all([
      call(path, { signal }),
      call(`${path}/versions?limit=50`, { signal }),
      call(`models/${encodeURIComponent(name)}`, { signal }),
      call(`runs?dataset=${encodeURIComponent(name)}&limit=10`, { signal }),
    ]);
    show(head, facts([
      ["Live model", dataset.live_version ?? "none yet"],
      ["Files", dataset.objects !== null && `${dataset.objects.toLocaleString("en")} (${bytes(dataset.bytes)})`],
      ["Last upload", moment(dataset.last_upload_at)],
      ["At work", dataset.run && h("a", { href: `#/runs/${encodeURIComponent(dataset.run)}` }, dataset.run)],
    ]));
    show(models, modelsOf(history));
    show(versions, versionsOf(name, listed, next));
    show(runs, h("h2", {}, "Runs"), begun.length ? runTable(begun) : h("p", { class: "muted" }, "No run yet."));
    if (!settings.hasChildNodes()) settings.append(settingsOf(name, dataset.settings));
    return JSON.stringify([dataset, listed, history, begun]);
  }

  poll(refresh, signal, (error) => show(trouble, error && problem(error)), { fastest: 3000, slowest: 20000 });

  function modelsOf({ live, models: found }) {
    const rows = found.map((model) => ({
      class: model.version === live && "best",
      cells: [
        model.version,
        model.version === live ? h("span", { class: "badge good" }, "live") : model.status.toLowerCase(),
        { value: percent(model.accuracy), class: "number" },
        { value: model.run && h("a", { href: `#/runs/${encodeURIComponent(model.run)}`, class: "run-id" }, model.run), class: "wide" },
        { value: moment(model.created_at), class: "wide" },
        { value: model.version !== live && action(model, live), class: "number" },
      ],
    }));
    return [h("h2", {}, "Models"), release.words,
      found.length ? table("Models", ["Model", "Status", { value: "Accuracy", class: "number" }, { value: "Run", class: "wide" }, { value: "Made", class: "wide" }, ""], rows) : h("p", { class: "muted" }, "No model yet.")];
  }

  function action(model, live) {
    return h("button", { type: "button", disabled: release.busy, "data-focus": `model-${model.version}`, onclick: () => bringLive(model, live) }, "Bring live");
  }

  async function bringLive(model, live) {
    const approved = model.status === "Approved";
    const sure = await confirmed(`Bring model ${model.version} live?`,
      [`Model ${model.version} (accuracy ${percent(model.accuracy)}) will answer the predictions of ${name}`,
        live === null ? "." : ` instead of model ${live}, which goes on answering until then, and stays if the other does not prove itself.`,
        approved ? "" : ` It was ${model.status.toLowerCase()} when it was made; this approves it.`].join(""), "Bring live");
    if (!sure) return;
    release.busy = true;
    release.words = h("p", { class: "notice", role: "status" }, `Model ${model.version} is being brought live …`);
    try {
      await refresh();
      const begun = await call(`models/${encodeURIComponent(name)}/${model.version}/${approved ? "rollback" : "approve"}`, { method: "POST", signal });
      await ended(begun.id);
      release.words = h("p", { class: "notice good", role: "status" }, `Model ${model.version} is live.`);
      announce(release.words.textContent);
    } catch (error) {
      if (signal.aborted) return;
      release.words = error.absent ? problem({ message: "Models cannot be changed from here.", hint: "The API of this system has no such route." }) : problem(error);
    }
    release.busy = false;
    await refresh();
  }

  /** Wait for the end of a release, which takes SageMaker minutes on AWS. */
  async function ended(id) {
    await poll(async () => {
      const found = await call(`releases/${encodeURIComponent(id)}`, { signal });
      if (found.error) throw new ApiError(found.error, 400);
      return found.status === "RUNNING" ? "waiting" : false;
    }, signal, (error) => { if (error?.status >= 400) throw error; }, { fastest: 1000, slowest: 5000 });
  }

  return {
    title: name,
    element: h("div", {}, h("p", { class: "crumbs" }, h("a", { href: "#/datasets" }, "Datasets")),
      h("div", { class: "title-row" }, h("h1", {}, name),
        h("span", { class: "buttons" }, h("a", { class: "button", href: `#/predict/${encodeURIComponent(name)}` }, "Predict"), h("a", { class: "button", href: `#/upload/${encodeURIComponent(name)}` }, "Add files"))),
      trouble, head, models, versions, runs, settings),
  };
}

function versionsOf(name, versions, next) {
  const number = (value) => ({ value: value ?? "–", class: "number" });
  return [h("h2", {}, "Versions"),
    versions.length ? table("Versions", ["Version", { value: "Change", class: "" }, { value: "Images", class: "number" }, { value: "Left out", class: "number" }, { value: "Duplicates", class: "number wide" }, { value: "Labels in doubt", class: "number wide" }, { value: "Sealed", class: "wide" }, "Page"],
      versions.map((version) => [
        h("a", { href: link(name, "versions", version.version) }, version.version), change(version), number(version.images), number(version.quarantined),
        { value: version.duplicates ?? "–", class: "number wide" }, { value: version.suspected_labels ?? "–", class: "number wide" }, { value: moment(version.sealed_at), class: "wide" },
        version.images === null ? "–" : signedLink(`datasets/${encodeURIComponent(name)}/versions/${version.version}/doctor`, "Data doctor")]))
      : h("p", { class: "muted" }, "No version yet: one is sealed when the uploads are over."),
    next && h("p", { class: "small muted" }, "Older versions are left out here; GET /datasets/… lists all.")];
}

function change({ added, removed, changed, parent }) {
  if (parent === null) return "first";
  const parts = [[added, "+", "added"], [removed, "−", "removed"], [changed, "~", "changed"]].filter(([number]) => number);
  return parts.length ? h("span", { title: parts.map(([number, , word]) => `${number} ${word}`).join(", ") }, parts.map(([number, sign]) => `${sign}${number}`).join(" ")) : "none";
}

function settingsOf(name, settings) {
  const done = h("div", { role: "status" });
  const field = (id, label, help) => {
    const input = h("input", { id, type: "number", min: 1, max: 7200, step: 1, inputmode: "numeric", value: settings[id] ?? "", placeholder: settings.defaults?.[id] });
    return [input, h("p", { class: "field" }, h("label", { for: id }, label), input, h("span", { class: "small muted" }, help))];
  };
  const [quiet, quietField] = field("quiet_seconds", "Seconds of quiet", "Uploads are over when none came for this long.");
  const [wait, waitField] = field("max_wait_seconds", "Seconds of waiting at most", "A run does not wait longer for uploads that go on.");
  const value = (input) => (input.value === "" ? null : Number(input.value));
  return h("section", { "aria-labelledby": "settings-title" }, h("h2", { id: "settings-title" }, "Settings"),
    h("form", { class: "settings", onsubmit: async (event) => {
      event.preventDefault();
      try {
        await call(`datasets/${encodeURIComponent(name)}/settings`, { method: "PUT", json: { quiet_seconds: value(quiet), max_wait_seconds: value(wait) } });
        show(done, h("p", { class: "notice good" }, "Saved. The next wait goes by them."));
      } catch (error) {
        show(done, problem(error));
      }
    } }, quietField, waitField, h("p", { class: "small muted" }, "An empty field takes the system's own value, which it shows in grey."),
    h("p", { class: "buttons" }, h("button", { type: "submit" }, "Save")), done));
}

export function versionView(signal, name, version) {
  const body = h("div", {}, h("p", { class: "muted" }, "Loading …"));
  call(`datasets/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}`, { signal })
    .then((found) => show(body, versionOf(name, found)), (error) => signal.aborted || show(body, problem(error)));
  return {
    title: `${name}, version ${version}`,
    element: h("div", {}, h("p", { class: "crumbs" }, h("a", { href: "#/datasets" }, "Datasets"), " / ", h("a", { href: link(name) }, name)), h("h1", {}, `Version ${version}`), body),
  };
}

function versionOf(name, version) {
  const { doctor, diff } = version;
  return [
    facts([
      ["Files", `${version.objects.toLocaleString("en")} (${bytes(version.bytes)})`],
      ["Usable images", version.images],
      ["Sealed", moment(version.sealed_at)],
      ["Built on", version.parent !== null && h("a", { href: link(name, "versions", version.parent) }, `version ${version.parent}`)],
      ["Pages", doctor && [signedLink(`datasets/${encodeURIComponent(name)}/versions/${version.version}/doctor`, "Data doctor"), ", ", h("a", { href: version.manifest_url, rel: "noopener", target: "_blank" }, "manifest")]],
    ]),
    doctor ? doctorOf(doctor) : h("p", { class: "notice" }, "The data doctor has not looked at this version (yet)."),
    diff && diffOf(version, diff),
  ];
}

function doctorOf(doctor) {
  const classes = Object.entries(doctor.classes);
  const number = (value) => ({ value, class: "number" });
  return [
    doctor.findings.length > 0 && h("section", {}, h("h2", {}, "Findings"), h("ul", { class: "findings" }, doctor.findings.map((finding) =>
      h("li", { class: finding.severity }, h("p", { class: "what" }, h("span", { class: `badge ${finding.severity === "warning" ? "warn" : "plain"}` }, finding.severity), " ", finding.message), h("p", {}, finding.hint))))),
    h("h2", {}, "Classes"),
    table("Classes", ["Class", ...["Images", "Train", "Valid", "Test"].map((value) => ({ value, class: "number" }))], classes.map(([label, split]) => [label, number(split.images), number(split.train), number(split.valid), number(split.test)])),
    doctor.suspected_labels.length > 0 && listing("Labels in doubt", ["File", "Labelled", "Looks like"], doctor.suspected_labels, (entry) => [entry.file, entry.label, entry.suggested]),
    doctor.quarantined.length > 0 && listing("Left out", ["File", "Why", "What to do"], doctor.quarantined, (entry) => [entry.file, entry.reason, entry.hint]),
    doctor.duplicates.length > 0 && listing("Images that look the same", ["Files", "How"], doctor.duplicates, (entry) => [entry.files.join(", "), entry.kind]),
  ];
}

function listing(title, heads, entries, row) {
  return h("details", { "data-name": title }, h("summary", {}, `${title} (${entries.length})`), table(title, heads, entries.slice(0, LISTED).map(row)),
    entries.length > LISTED && h("p", { class: "small" }, "The data doctor's page lists more."));
}

function diffOf(version, diff) {
  const kinds = ["added", "removed", "changed"].filter((kind) => diff[kind].length > 0);
  if (version.parent === null || kinds.length === 0) return [];
  return [h("h2", {}, `Against version ${version.parent}`), kinds.map((kind) =>
    h("details", { "data-name": kind }, h("summary", {}, `${count(version[kind], "file")} ${kind}`), h("ul", { class: "files" }, diff[kind].slice(0, LISTED).map((key) => h("li", {}, key))),
      version[kind] > LISTED && h("p", { class: "small" }, `The first ${LISTED} of ${version[kind]}.`)))];
}
