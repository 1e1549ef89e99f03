// One run: its stages, the trials of its tuning, the curves of its training, its mail.

import { call, poll, signedLink } from "./api.js";
import { lineChart } from "./chart.js";
import { announce, facts, h, linkified, problem, show, table } from "./dom.js";
import { duration, moment, number, percent, secondsBetween, setting } from "./format.js";
import { badge } from "./runs.js";
import { stagesOf, WHAT } from "./stages.js";

const VERDICTS = {
  promoted: "The new model is live.",
  rejected: "The new model is not better than the live one on the same test images, so the live one stays.",
  unchanged: "Nothing in the dataset has changed, so nothing was trained.",
};
const MARKS = { done: "✓", active: "", failed: "!", waiting: "", skipped: "–" };
const STATUS_WORDS = { done: "done", active: "at work", failed: "failed", waiting: "waiting" };

export function runView(signal, id) {
  const [head, trouble, graph, trials, curves, mail] = Array.from({ length: 6 }, () => h("div", {}));
  const path = `runs/${encodeURIComponent(id)}`;
  let spoken = null;
  head.append(h("p", { class: "muted" }, "Loading …"));

  poll(async () => {
    const run = await call(path, { signal });
    const stages = stagesOf(run);
    const active = stages.find((stage) => stage.status === "active")?.name ?? run.status;
    if (spoken !== null && spoken !== active) announce(run.status === "RUNNING" ? `The run is at ${active}.` : `The run has ended: ${run.verdict ?? run.status.toLowerCase()}.`);
    spoken = active;
    show(head, headOf(run, path));
    show(graph, stages.some((stage) => stage.states.length) ? graphOf(run, stages) : h("p", { class: "muted" }, run.status === "RUNNING" ? "The run is about to begin." : "Its states are forgotten: Step Functions keeps them for 90 days."));
    const begun = (name) => run.states.some((state) => state.name === name);
    await Promise.all([
      part(trials, begun("Tune"), `${path}/trials`, trialsOf),
      part(curves, begun("Retrain"), `${path}/curves`, curvesOf),
      part(mail, run.status !== "RUNNING" || begun("SendMail"), `${path}/mail`, mailOf),
    ]);
    return run.status === "RUNNING" ? JSON.stringify(run) : false;
  }, signal, (error) => show(trouble, error && problem(error)));

  /** A part that has its own address: a fault of it leaves the others whole. */
  async function part(element, begun, address, draw) {
    if (!begun) return;
    try {
      show(element, draw(await call(address, { signal })));
    } catch (error) {
      if (!signal.aborted) show(element, error.absent ? [] : problem(error));
    }
  }

  return { title: `Run ${id}`, element: h("div", {}, h("p", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs")), h("h1", { class: "run-id" }, id), trouble, head, graph, trials, curves, mail) };
}

function headOf(run, path) {
  const version = run.dataset_version !== null && `datasets/${encodeURIComponent(run.dataset)}/versions/${run.dataset_version}`;
  return [
    h("p", { class: "lead" }, badge(run), " ", run.status === "SUCCEEDED" ? VERDICTS[run.verdict] : run.status === "RUNNING" ? "The run is under way; this page follows it." : ""),
    run.error && problem(run.error),
    facts([
      ["Dataset", h("a", { href: `#/datasets/${encodeURIComponent(run.dataset)}` }, run.dataset)],
      ["Dataset version", version && h("a", { href: `#/${version}` }, run.dataset_version)],
      ["Model version", run.model_version],
      ["Accuracy on test images", run.accuracy !== null && percent(run.accuracy)],
      ["Started", moment(run.started_at)],
      ["Took", run.ended_at && duration(secondsBetween(run.started_at, run.ended_at))],
      ["Pages", links(run, path, version)],
    ]),
  ];
}

function links(run, path, version) {
  const found = [];
  if (run.accuracy !== null) found.push(signedLink(`${path}/report`, "Report"));
  if (version && run.states.some((state) => state.name === "Prepare" && state.status === "SUCCEEDED")) found.push(signedLink(`${version}/doctor`, "Data doctor"));
  return found.length > 0 && found.flatMap((link, index) => (index ? [", ", link] : [link]));
}

function graphOf(run, stages) {
  const word = (status) => STATUS_WORDS[status] ?? (run.status === "SUCCEEDED" ? "not needed" : "not reached");
  return h("section", { "aria-labelledby": "graph-title" },
    h("h2", { id: "graph-title" }, "Stages"),
    h("ol", { class: "graph" }, stages.map((stage) =>
      h("li", { class: stage.status },
        h("span", { class: "mark", "aria-hidden": "true" }, MARKS[stage.status]),
        h("span", { class: "name", title: WHAT[stage.name] }, stage.name),
        h("span", { class: "time" }, stage.status === "done" || stage.status === "failed" ? duration(secondsBetween(stage.startedAt, stage.endedAt))
          : stage.status === "active" ? `${duration(Math.round(secondsBetween(stage.startedAt, null)))} …` : word(stage.status)),
        ["done", "active", "failed"].includes(stage.status) && h("span", { class: "visually-hidden" }, word(stage.status))))),
    h("details", { "data-name": "states" }, h("summary", { "data-focus": "states" }, "Every state of the workflow"),
      table("States of the workflow", ["State", "Status", { value: "Began", class: "wide" }, { value: "Took", class: "number" }], run.states.map((state) => [
        state.name, state.status.toLowerCase(), { value: moment(state.started_at), class: "wide" },
        { value: state.ended_at ? duration(secondsBetween(state.started_at, state.ended_at)) : "–", class: "number" }]))));
}

function trialsOf({ objective, best, max_trials: most, trials }) {
  if (trials.length === 0) return [];
  const names = [...new Set(trials.flatMap((trial) => Object.keys(trial.hyper_parameters)))].sort();
  const rated = trials.map((trial, index) => [index + 1, trial.metric]).filter(([, metric]) => metric !== null);
  let high = -Infinity;
  const highest = rated.map(([place, metric]) => [place, (high = Math.max(high, metric))]);
  return h("section", { "aria-labelledby": "trials-title" },
    h("h2", { id: "trials-title" }, "Trials ", h("span", { class: "muted" }, most ? `${trials.length} of ${most}` : trials.length)),
    h("div", { class: "columns" },
      lineChart("Objective by trial", [{ name: "best so far", points: highest, look: "two", steps: true }, { name: "trial", points: rated, look: "one", dots: true, line: false }], { xName: "trial", yName: objective }),
      bestOf(trials, best, objective)),
    table("Trials", ["Trial", { value: objective, class: "number" }, ...names.map((name) => ({ value: name.replaceAll("_", " "), class: "number" })), { value: "Took", class: "number" }], trials.map((trial, index) => ({
      class: trial.name === best && "best",
      cells: [
        [index + 1, " ", trial.name === best && h("span", { class: "badge good" }, "best"), trial.status !== "Completed" && h("span", { class: `badge ${trial.status === "Failed" ? "bad" : "active"}`, title: trial.failure }, trial.status.replace(/(?!^)[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`).toLowerCase())],
        { value: number(trial.metric), class: "number" },
        ...names.map((name) => ({ value: setting(trial.hyper_parameters[name] ?? "–"), class: "number" })),
        { value: trial.ended_at ? duration(secondsBetween(trial.started_at, trial.ended_at)) : "–", class: "number" },
      ],
    }))));
}

function bestOf(trials, best, objective) {
  const trial = trials.find((one) => one.name === best);
  if (!trial) return null;
  return h("div", {}, h("h3", {}, `Best: trial ${trials.indexOf(trial) + 1}`), facts([[objective, number(trial.metric)],
    ...Object.entries(trial.hyper_parameters).sort().map(([name, value]) => [name.replaceAll("_", " "), setting(value)])]));
}

function curvesOf({ epochs }) {
  if (epochs.length === 0) return [];
  const points = (name) => epochs.filter((epoch) => epoch[name] !== null).map((epoch) => [epoch.epoch, epoch[name]]);
  // As training does: the highest accuracy, then the lowest loss.
  const best = [...epochs].sort((a, b) => b["validation:accuracy"] - a["validation:accuracy"] || a["validation:loss"] - b["validation:loss"])[0].epoch;
  const chart = (title, what) => lineChart(title, [
    { name: "training", points: points(`train:${what}`), look: "two" },
    { name: "validation", points: points(`validation:${what}`), look: "one" },
  ], { xName: "epoch", yName: what, marked: best });
  const columns = ["train:loss", "train:accuracy", "validation:loss", "validation:accuracy"];
  return h("section", { "aria-labelledby": "curves-title" },
    h("h2", { id: "curves-title" }, "Training of the best setting"),
    h("div", { class: "columns" }, chart("Loss", "loss"), chart("Accuracy", "accuracy")),
    h("p", { class: "small muted" }, `The dashed upright line marks epoch ${best}, the best on the validation images so far.`),
    h("details", { "data-name": "epochs" }, h("summary", { "data-focus": "epochs" }, "Every epoch"),
      table("Epochs", ["Epoch", ...columns.map((name) => ({ value: name, class: "number" }))], epochs.map((epoch) => ({
        class: epoch.epoch === best && "best", cells: [epoch.epoch, ...columns.map((name) => ({ value: number(epoch[name]), class: "number" }))] })))));
}

function mailOf(mail) {
  return h("section", { "aria-labelledby": "mail-title" },
    h("h2", { id: "mail-title" }, "Mail"),
    h("article", { class: "mail" },
      facts([["Subject", mail.subject], ["To", mail.to.join(", ")], ["Written", moment(mail.written_at)]]),
      h("details", { "data-name": "mail" }, h("summary", { "data-focus": "mail" }, "Read it"), h("pre", {}, linkified(mail.text)))));
}
