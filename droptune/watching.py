"""A run as it is seen from outside: its states, the trials of its tuning job, its result.

The states come from the execution's history, the trials from SageMaker, the result from the HTTP API; all
three are the same on AWS and in the local cloud.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from droptune.cli_output import parsed_time
from droptune.client import Cloud, Run
from droptune.errors import OperationFailed

# What a person follows, in its order, and the states of state_machine/retrain.asl.json that are part of it.
# States in none of them are bookkeeping. `Explain` is entered after a failure only.
STAGES: dict[str, frozenset[str]] = {
    "Settle": frozenset({"Settle", "IsSettled", "AwaitUploads", "AwaitLastUploads"}),
    "Decode": frozenset({"Decode"}),
    "Prepare": frozenset({"Prepare"}),
    "Tune": frozenset({"Tune"}),
    "Retrain": frozenset({"Retrain"}),
    "Evaluate": frozenset({"DescribeChampion", "Evaluate", "ReadEvaluation"}),
    "Gate": frozenset({"Gate"}),
    "Register": frozenset({"CreateModelPackageGroup", "Register", "IsPromoted"}),
    "Release": frozenset(
        {"CreateModel", "CreateEndpointConfig", "FindEndpoint", "ChooseRelease", "AwaitEndpoint"}
        | {"DeleteFailedEndpoint", "CreateEndpoint", "UpdateEndpoint", "AwaitRelease", "Release", "IsReleased"}
        | {"Verify", "ChooseRestore", "Restore", "TakeDown", "Withdraw"}
    ),
    "Explain": frozenset({"Explain"}),
    "Mail": frozenset({"Mail", "SendMail"}),
}
BOOKKEEPING = frozenset({"Begin", "HasMailAddress", "Finish", "HasSucceeded", "Succeeded", "Failed"})
EXECUTION_ENDS = frozenset({"ExecutionSucceeded", "ExecutionFailed", "ExecutionTimedOut", "ExecutionAborted"})
POLL_SECONDS = 1.0
# An upload reaches the state machine within a second locally and within a few seconds on AWS.
RUN_START_SECONDS = 60.0


@dataclass(frozen=True)
class State:
    """A state of the execution, or a stage; `status` is `running`, `succeeded` or `failed`."""

    name: str
    status: str
    started_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Trial:
    """A training job of the tuning job.

    `status` is SageMaker's own (`InProgress`, `Completed`, `Failed`, `Stopping`, `Stopped`); `metric` is the
    objective's final value, None until there is one.
    """

    name: str
    status: str
    hyper_parameters: dict[str, str]
    metric_name: str | None
    metric: float | None
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def number(self) -> int:
        """The trial's place in its tuning job, from SageMaker's `<tuning job>-<number>-<suffix>`."""
        parts = [part for part in self.name.split("-") if part.isdigit()]
        return int(parts[-1]) if parts else 0


@dataclass(frozen=True)
class RunView:
    """All there is to see of a run at one moment.

    `max_trials` is how many trials its tuning job may start, None before there is one.
    """

    run: Run
    states: tuple[State, ...]
    trials: tuple[Trial, ...]
    ended: bool
    max_trials: int | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the run ended, and ended well; a challenger that is not promoted is no failure."""
        return self.ended and self.run["status"] == "SUCCEEDED"

    @property
    def best_trial(self) -> Trial | None:
        """The trial with the highest objective."""
        rated = [trial for trial in self.trials if trial.metric is not None]
        return max(rated, key=lambda trial: trial.metric or 0.0, default=None)

    def document(self) -> dict[str, Any]:
        """Returns the view as the JSON document of `watch --json`; its states are the stages."""
        return {
            **self.run,
            "states": [
                {
                    "name": state.name,
                    "status": state.status,
                    "started_at": state.started_at.isoformat(),
                    "ended_at": state.ended_at.isoformat() if state.ended_at else None,
                }
                for state in stages_of(self.states)
            ],
            "trials": [
                {
                    "name": trial.name,
                    "status": trial.status,
                    "hyper_parameters": trial.hyper_parameters,
                    "metric": trial.metric,
                }
                for trial in self.trials
            ],
        }


def observe(cloud: Cloud, run_id: str) -> RunView:
    """Returns a run as it is now.

    Raises:
        ApiError: there is no such run.
        NotRunning: the system does not answer.
    """
    events = _history(cloud, run_id)
    # After the history: a run's record is final before its execution is, so that an ended execution
    # is never shown with the record of a running one.
    run = cloud.run(run_id)
    states = states_of(events)
    ended = has_ended(events) if events else run["status"] != "RUNNING"
    if not any(state.name == "Tune" for state in states):
        return RunView(run, states, (), ended)
    max_trials, summaries = _tuning(cloud, run_id)
    return RunView(run, states, trials_of(summaries), ended, max_trials)


def follow(cloud: Cloud, run_id: str, interval: float = POLL_SECONDS) -> Iterator[RunView]:
    """Yields a run again and again, every `interval` seconds, until it has ended; the last view has."""
    while True:
        view = observe(cloud, run_id)
        yield view
        if view.ended:
            return
        time.sleep(interval)


def next_run(cloud: Cloud, dataset: str | None, interval: float = POLL_SECONDS) -> Run:
    """Waits for a run that is newer than all there are, and returns it."""
    newest = cloud.newest_run(dataset)
    while True:
        candidate = cloud.newest_run(dataset)
        if candidate is not None and (newest is None or candidate["id"] != newest["id"]):
            return candidate
        time.sleep(interval)


def covering_run(cloud: Cloud, dataset: str, uploaded_at: datetime, patience: float = RUN_START_SECONDS) -> Run:
    """Returns the run whose dataset version holds the uploads that ended at `uploaded_at`.

    That is the oldest run that had not sealed its version by then. A run which was already at work is
    passed over: the system starts another one for what came after its seal.

    Args:
        cloud: the system.
        dataset: the dataset of the uploads.
        uploaded_at: the last upload's time by the storage's clock.
        patience: seconds to wait for such a run while no other run of the dataset is at work.

    Raises:
        OperationFailed: no run started.
    """
    deadline = time.monotonic() + patience
    while True:
        runs = cloud.runs(dataset)
        for run in reversed(runs):
            if _covers(cloud, run, uploaded_at):
                return run
        if any(run["status"] == "RUNNING" for run in runs):
            deadline = time.monotonic() + patience
        elif time.monotonic() > deadline:
            raise OperationFailed(
                f"The uploads to '{dataset}' started no run within {patience:.0f} seconds.",
                why="The event of an upload did not reach the state machine, or a run waits for its turn.",
                hint="See `droptune runs` and `droptune status`; the uploads are safe and need no repetition.",
                code="NoRunStarted",
            )
        time.sleep(POLL_SECONDS)


def _covers(cloud: Cloud, run: Run, uploaded_at: datetime) -> bool:
    started_at = parsed_time(run["started_at"])
    if started_at is not None and started_at >= uploaded_at:
        return True
    ended_at = parsed_time(run["ended_at"])
    if ended_at is not None and ended_at < uploaded_at:
        return False
    events = _history(cloud, run["id"])
    stages = stages_of(states_of(events))
    if not has_ended(events) and len(stages) <= 1:
        return True
    # Settle's last end is the seal's, or later.
    return bool(stages) and stages[0].ended_at is not None and stages[0].ended_at >= uploaded_at


def has_ended(events: Iterable[dict[str, Any]]) -> bool:
    """Returns whether an execution's history tells of its end."""
    return any(event["type"] in EXECUTION_ENDS for event in events)


def states_of(events: Iterable[dict[str, Any]]) -> tuple[State, ...]:
    """Returns the states an execution's history tells of, in the order of their first entry.

    A state that was entered several times counts once, from its first entry to its last exit. A state
    failed if the last thing it did was to fail, whether or not the failure was caught; the event types
    are those of https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html.
    """
    states: dict[str, State] = {}
    current: str | None = None
    failing = False
    for event in events:
        kind: str = event["type"]
        at: datetime = event["timestamp"]
        if kind.endswith("StateEntered"):
            current, failing = event["stateEnteredEventDetails"]["name"], False
            assert current is not None
            known = states.get(current)
            states[current] = (
                replace(known, status="running", ended_at=None) if known else State(current, "running", at)
            )
        elif kind.endswith("StateExited"):
            name = event["stateExitedEventDetails"]["name"]
            states[name] = replace(states[name], status="failed" if failing else "succeeded", ended_at=at)
        elif kind in EXECUTION_ENDS:
            for name, state in states.items():
                if state.ended_at is None:
                    states[name] = replace(state, status="failed", ended_at=at)
        elif kind.endswith(("Failed", "TimedOut")):
            failing = True
        elif kind.endswith("Succeeded"):
            failing = False
    return tuple(states.values())


def stages_of(states: Iterable[State]) -> tuple[State, ...]:
    """Returns the stages of a run that were entered, in their order.

    A stage's times are those of its first and its last state. It has failed if its last state failed, if
    the failure path follows it, or, as for Mail, if the run goes on although one of its states failed.
    A failure that the state machine expects (no endpoint yet, say) is answered within the stage.
    """
    known = tuple(states)
    stages = []
    for name, members in STAGES.items():
        inside = [state for state in known if state.name in members]
        if inside:
            stages.append(_stage(name, inside))
    names = [stage.name for stage in stages]
    if "Explain" in names and names[0] != "Explain":
        before = names.index("Explain") - 1
        stages[before] = replace(stages[before], status="failed")
    return tuple(stages)


def _stage(name: str, states: list[State]) -> State:
    ends = [state.ended_at for state in states if state.ended_at is not None]
    if len(ends) < len(states):
        return State(name, "running", states[0].started_at)
    last = max(states, key=lambda state: state.ended_at or state.started_at)
    failed = last.status == "failed" or (name == "Mail" and any(state.status == "failed" for state in states))
    return State(name, "failed" if failed else "succeeded", states[0].started_at, max(ends))


def trials_of(summaries: Iterable[dict[str, Any]]) -> tuple[Trial, ...]:
    """Returns the trials of a tuning job by number, from SageMaker's training job summaries."""
    trials = []
    for summary in summaries:
        metric = summary.get("FinalHyperParameterTuningJobObjectiveMetric") or {}
        trials.append(
            Trial(
                name=summary["TrainingJobName"],
                status=summary["TrainingJobStatus"],
                hyper_parameters=dict(sorted(summary.get("TunedHyperParameters", {}).items())),
                metric_name=metric.get("MetricName"),
                metric=metric.get("Value"),
                started_at=summary.get("TrainingStartTime") or summary.get("CreationTime"),
                ended_at=summary.get("TrainingEndTime"),
            )
        )
    return tuple(sorted(trials, key=lambda trial: (trial.number, trial.name)))


def _history(cloud: Cloud, run_id: str) -> list[dict[str, Any]]:
    pages = cloud.stepfunctions.get_paginator("get_execution_history").paginate(
        executionArn=cloud.execution_arn(run_id), includeExecutionData=False
    )
    try:
        return [event for page in pages for event in page["events"]]
    except cloud.stepfunctions.exceptions.ExecutionDoesNotExist:
        # Step Functions forgets an execution 90 days after its end; the run's record stays.
        return []


def _tuning(cloud: Cloud, run_id: str) -> tuple[int | None, list[dict[str, Any]]]:
    """Returns how many trials the run's tuning job may start, and SageMaker's summaries of those it started."""
    from botocore.exceptions import ClientError

    name = {"HyperParameterTuningJobName": run_id}
    listing = cloud.sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    try:
        job = cloud.sagemaker.describe_hyper_parameter_tuning_job(**name)
        summaries = [trial for page in listing.paginate(**name) for trial in page["TrainingJobSummaries"]]
    except ClientError as error:
        # Tune has been entered, and its tuning job is not made yet.
        if error.response["Error"]["Code"] in {"ResourceNotFound", "ValidationException"}:
            return None, []
        raise
    limits = job["HyperParameterTuningJobConfig"]["ResourceLimits"]
    return limits.get("MaxNumberOfTrainingJobs"), summaries


def now() -> datetime:
    """Returns the time, in UTC."""
    return datetime.now(UTC)
