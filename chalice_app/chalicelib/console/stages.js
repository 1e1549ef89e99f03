// The stages of a run that a person follows, in their order, and the states of the workflow that belong to each.

export const STAGES = {
  Settle: ["Settle"],
  Decode: ["Decode"],
  Prepare: ["Prepare"],
  Tune: ["Tune"],
  Retrain: ["Retrain"],
  Evaluate: ["DescribeChampion", "Evaluate", "ReadEvaluation"],
  Register: ["CreateModelPackageGroup", "Register"],
  Release: ["CreateModel", "CreateEndpointConfig", "FindEndpoint", "DeleteFailedEndpoint", "CreateEndpoint", "UpdateEndpoint", "Release", "Verify", "Restore", "TakeDown", "Withdraw"],
  Explain: ["Explain"],
  Mail: ["Mail", "SendMail"],
  Finish: ["Finish"],
};

export const WHAT = {
  Settle: "waits until the uploads are over and seals a version of the dataset",
  Decode: "reads the images that are new",
  Prepare: "checks the data, finds duplicates, splits",
  Tune: "tries settings",
  Retrain: "trains the best setting",
  Evaluate: "measures the model, and the live one, on the test images",
  Register: "writes the model down as a version",
  Release: "brings the model live and proves that it answers",
  Explain: "says what went wrong and what to do",
  Mail: "writes and sends the mail",
  Finish: "closes the run and lets the next one go",
};

/**
 * The stages of a run with their status: `done`, `active`, `failed`, `waiting` or `skipped`.
 * A state that no stage knows is a stage of its own, at the place where it began.
 * @returns {{ name, status, startedAt, endedAt, states }[]}
 */
export function stagesOf(run) {
  const known = new Map(Object.entries(STAGES).flatMap(([stage, states]) => states.map((state) => [state, stage])));
  const entered = new Map();
  for (const state of run.states) {
    const name = known.get(state.name) ?? state.name;
    if (!entered.has(name)) entered.set(name, []);
    entered.get(name).push(state);
  }
  const names = Object.keys(STAGES).filter((name) => name !== "Explain" || entered.has(name));
  names.splice(names.indexOf("Mail"), 0, ...[...entered.keys()].filter((name) => !names.includes(name)));
  const failedAt = entered.has("Explain") ? lastBefore([...entered.keys()], "Explain") : null;
  const last = [...entered.keys()].at(-1);
  return names.map((name) => {
    const states = entered.get(name) ?? [];
    return {
      name,
      states,
      status: statusOf(name, states, run, failedAt, last),
      startedAt: states[0]?.started_at ?? null,
      endedAt: states.every((state) => state.ended_at) ? states.map((state) => state.ended_at).sort().at(-1) ?? null : null,
    };
  });
}

const lastBefore = (names, name) => names[names.indexOf(name) - 1] ?? null;

function statusOf(name, states, run, failedAt, last) {
  const running = run.status === "RUNNING";
  if (name === failedAt) return "failed";
  if (states.length === 0) {
    // After a failure nothing but the ending is still to come.
    return running && (failedAt === null || ["Mail", "Finish"].includes(name)) ? "waiting" : "skipped";
  }
  // Between two states of a stage, and while it waits, none of them is at work.
  if (running && name === last) return "active";
  return running || states.at(-1).status === "SUCCEEDED" ? "done" : "failed";
}
