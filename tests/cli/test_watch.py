"""`watch`: what a run looks like, from histories written by hand and from a real Step Functions."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from droptune.cli_output import Output
from droptune.cli_watch import lines, panel, show, summary
from droptune.client import Cloud
from droptune.errors import ApiError
from droptune.watching import (
    BOOKKEEPING,
    STAGES,
    RunView,
    State,
    follow,
    has_ended,
    next_run,
    observe,
    stages_of,
    states_of,
    trials_of,
)

REPOSITORY = Path(__file__).parents[2]
START = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
RUN = "pets-261122140000-9f3a"
Document = Callable[..., dict[str, Any]]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def entered(name: str, seconds: float, kind: str = "Task") -> dict[str, Any]:
    return {
        "type": f"{kind}StateEntered",
        "timestamp": at(seconds),
        "stateEnteredEventDetails": {"name": name},
    }


def exited(name: str, seconds: float, kind: str = "Task") -> dict[str, Any]:
    return {
        "type": f"{kind}StateExited",
        "timestamp": at(seconds),
        "stateExitedEventDetails": {"name": name},
    }


def event(kind: str, seconds: float) -> dict[str, Any]:
    return {"type": kind, "timestamp": at(seconds)}


def task(name: str, begin: float, end: float, outcome: str = "TaskSucceeded") -> list[dict[str, Any]]:
    return [entered(name, begin), event("TaskScheduled", begin), event(outcome, end), exited(name, end)]


def wait(name: str, begin: float, end: float) -> list[dict[str, Any]]:
    return [entered(name, begin, "Wait"), exited(name, end, "Wait")]


SETTLED = [
    event("ExecutionStarted", 0),
    *task("Settle", 0, 1),
    *wait("AwaitUploads", 1, 6),
    *task("Settle", 6, 7),
    *task("Decode", 7, 16),
    *task("Prepare", 16, 20),
]
RELEASED = [
    *SETTLED,
    *task("Tune", 20, 50),
    *task("Retrain", 50, 60),
    *task("DescribeChampion", 60, 61),
    *task("Evaluate", 61, 70),
    *task("ReadEvaluation", 70, 71),
    *[entered("Gate", 71, "Choice"), exited("Gate", 71, "Choice")],
    *task("CreateModelPackageGroup", 71, 72, "TaskFailed"),
    *task("Register", 72, 73),
    *task("CreateModel", 73, 74),
    *task("CreateEndpointConfig", 74, 75),
    *task("FindEndpoint", 75, 76, "TaskFailed"),
    *task("CreateEndpoint", 76, 77),
    *wait("AwaitRelease", 77, 80),
    *task("Release", 80, 81),
    *task("Verify", 81, 83),
    *task("Mail", 83, 84),
    *task("SendMail", 84, 85),
    *task("Finish", 85, 86),
    event("ExecutionSucceeded", 86),
]


def summary_of_trial(number: int, status: str = "Completed", metric: float | None = 0.8) -> dict[str, Any]:
    trial: dict[str, Any] = {
        "TrainingJobName": f"{RUN}-{number:03}-ab12cd34",
        "TrainingJobStatus": status,
        "CreationTime": at(20),
        "TrainingStartTime": at(21),
        "TunedHyperParameters": {"batch_size": "32", "learning_rate": "0.00312345", "epochs": "20"},
    }
    if status != "InProgress":
        trial["TrainingEndTime"] = at(30 + number)
    if metric is not None:
        trial["FinalHyperParameterTuningJobObjectiveMetric"] = {
            "MetricName": "validation:accuracy",
            "Value": metric,
        }
    return trial


@pytest.fixture
def view_of(run_document: Document) -> Callable[..., RunView]:
    def make(events: list[dict[str, Any]], trials: list[dict[str, Any]] | None = None, **fields: Any) -> RunView:
        ended = has_ended(events)
        run: Any = run_document(RUN, **({} if ended else RUNNING), **fields)
        return RunView(run, states_of(events), trials_of(trials or []), ended, max_trials=8)

    return make


UNKNOWN_YET = ("verdict", "ended_at", "dataset_version", "model_version", "accuracy")
RUNNING: dict[str, Any] = {"status": "RUNNING", **dict.fromkeys(UNKNOWN_YET)}


def rendered(view: RunView, seconds: float = 90) -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    console.print(panel(view, at(seconds)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, stage: str) -> str:
    (found,) = [line for line in text.splitlines() if f" {stage} " in line]
    return words(found)


def words(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_every_state_of_the_state_machine_has_its_place() -> None:
    # GIVEN the state machine that is deployed
    states = json.loads((REPOSITORY / "state_machine" / "retrain.asl.json").read_text())["States"]

    # THEN the view knows each of its states, and no other
    members = [state for stage in STAGES.values() for state in stage]
    assert sorted([*members, *BOOKKEEPING]) == sorted(states)
    assert all(name in members for name in STAGES)


def test_a_state_that_is_entered_again_is_one_state() -> None:
    assert states_of(SETTLED)[:2] == (
        State("Settle", "succeeded", at(0), at(7)),
        State("AwaitUploads", "succeeded", at(1), at(6)),
    )


def test_a_retried_task_that_succeeds_has_not_failed() -> None:
    events = [
        entered("Prepare", 0),
        event("TaskFailed", 1),
        event("TaskScheduled", 2),
        event("TaskSucceeded", 3),
        exited("Prepare", 3),
    ]
    assert states_of(events) == (State("Prepare", "succeeded", at(0), at(3)),)


def test_the_end_of_the_execution_ends_its_open_states() -> None:
    events = [entered("Tune", 0), event("ExecutionAborted", 5)]
    assert states_of(events) == (State("Tune", "failed", at(0), at(5)),)
    assert has_ended(events)


def test_stages_take_their_states_together() -> None:
    # WHEN a run with expected failures inside (the group exists, the endpoint does not) is seen
    stages = {stage.name: stage for stage in stages_of(states_of(RELEASED))}

    # THEN each stage has the times of its states, and none has failed
    assert list(stages) == [name for name in STAGES if name != "Explain"]
    assert stages["Settle"] == State("Settle", "succeeded", at(0), at(7))
    assert stages["Evaluate"] == State("Evaluate", "succeeded", at(60), at(71))
    assert stages["Register"] == State("Register", "succeeded", at(71), at(73))
    assert stages["Release"] == State("Release", "succeeded", at(73), at(83))
    assert {stage.status for stage in stages.values()} == {"succeeded"}


@pytest.mark.parametrize(
    ("events", "failed"),
    [
        ([*SETTLED[:-4], *task("Prepare", 7, 9, "TaskFailed"), *task("Explain", 9, 10)], {"Prepare"}),
        ([*task("Verify", 0, 1, "TaskFailed"), *task("Withdraw", 1, 2), *task("Explain", 2, 3)], {"Release"}),
        ([*task("Mail", 0, 1), *task("SendMail", 1, 2, "TaskFailed"), *task("Finish", 2, 3)], {"Mail"}),
        ([*task("Mail", 0, 1, "TaskFailed"), *task("Finish", 2, 3)], {"Mail"}),
        ([*task("Prepare", 0, 1), entered("Tune", 1), event("ExecutionTimedOut", 5)], {"Tune"}),
    ],
    ids=["prepare", "verify", "mail not sent", "mail not written", "timed out"],
)
def test_the_stage_that_failed_is_told(events: list[dict[str, Any]], failed: set[str]) -> None:
    assert {stage.name for stage in stages_of(states_of(events)) if stage.status == "failed"} == failed


def test_trials_are_read_from_sagemakers_summaries() -> None:
    first, second = trials_of([summary_of_trial(2, "InProgress", None), summary_of_trial(1, metric=0.861)])
    assert (first.number, first.metric, first.status) == (1, 0.861, "Completed")
    assert first.hyper_parameters == {"batch_size": "32", "epochs": "20", "learning_rate": "0.00312345"}
    assert (second.number, second.metric, second.ended_at) == (2, None, None)


def test_a_running_run_on_a_terminal(view_of: Callable[..., RunView]) -> None:
    # GIVEN a run that tunes, with a finished trial and one on its way
    events = [*SETTLED, entered("Tune", 20)]
    view = view_of(events, [summary_of_trial(1, metric=0.861), summary_of_trial(2, "InProgress", None)])

    # WHEN it is drawn 90 seconds after its start
    text = rendered(view)

    # THEN states, times and trials are there, within 80 columns
    assert f"pets · {RUN}" in text
    assert row(text, "Settle") == "✓ Settle 0:07"
    assert row(text, "Tune") == "● Tune 1:10 1 of 8 trials, best 86.1%"
    assert row(text, "Retrain") == "· Retrain"
    assert "✓ 1 86.1% 0:10 32 20 0.00312" in words(text)
    assert "● 2 - 1:09 32 20 0.00312" in words(text)
    assert "running · 1:30" in text
    assert "Explain" not in text
    assert max(map(len, text.splitlines())) == 80


def test_a_successful_run_on_a_terminal(view_of: Callable[..., RunView]) -> None:
    text = rendered(view_of(RELEASED, [summary_of_trial(1)]), seconds=9000)
    assert row(text, "Release") == "✓ Release 0:10"
    assert "promoted: the new model is live" in text
    assert "87.5% on the test images" in text
    assert "version 1 (dataset version 1)" in text
    assert "promoted · 2:03" in text


def test_an_unchanged_run_says_that_there_was_nothing_to_do(view_of: Callable[..., RunView]) -> None:
    events = [*task("Settle", 0, 7), *task("Finish", 7, 8), event("ExecutionSucceeded", 8)]
    view = view_of(events, verdict="unchanged", model_version=None, accuracy=None)
    text = rendered(view)
    assert row(text, "Tune") == "· Tune not needed"
    assert row(text, "Mail") == "· Mail not needed"
    assert "unchanged: nothing new in the dataset; nothing was trained" in text
    assert view.succeeded


def test_a_failed_run_says_why_and_what_to_do(view_of: Callable[..., RunView]) -> None:
    # GIVEN a run whose data was refused, with a message that looks like markup
    events = [
        *SETTLED[:-4],
        *task("Prepare", 16, 18, "TaskFailed"),
        *task("Explain", 18, 19),
        event("ExecutionFailed", 20),
    ]
    error = {
        "code": "TooFewClasses",
        "message": "Dataset 'pets' has one class, [cat].",
        "hint": "Add a second one.",
    }
    view = view_of(events, status="FAILED", verdict=None, model_version=None, accuracy=None, error=error)

    # THEN both forms tell it
    text = rendered(view)
    assert row(text, "Prepare") == "✗ Prepare 0:02"
    assert row(text, "Explain") == "✓ Explain 0:01"
    assert row(text, "Tune") == "· Tune not reached"
    for told in (text, "\n".join(line.plain for line in summary(view.run))):
        assert "Dataset 'pets' has one class, [cat]." in told
        assert "Add a second one." in told
    assert not view.succeeded


def test_many_trials_are_cut_to_the_best_and_the_running(view_of: Callable[..., RunView]) -> None:
    trials = [summary_of_trial(number, metric=number / 20) for number in range(1, 13)]
    text = rendered(view_of([*SETTLED, entered("Tune", 20)], [*trials, summary_of_trial(13, "InProgress", None)]))
    assert "and 5 more, not better" in text
    assert "● 13 - 1:09" in words(text)
    assert "✓ 12 60.0%" in words(text)
    assert "✓ 5 25.0%" not in words(text)
    assert "best 60.0%" in text


def test_plain_lines_tell_each_happening_once(view_of: Callable[..., RunView]) -> None:
    # GIVEN a run that was looked at three times
    views = [
        view_of(SETTLED[:5]),
        view_of([*SETTLED, entered("Tune", 20)], [summary_of_trial(1, metric=0.861)]),
        view_of(RELEASED, [summary_of_trial(1, metric=0.861), summary_of_trial(2, "Failed", None)]),
    ]

    # WHEN each look is told
    told: list[list[str]] = []
    before = None
    for view in views:
        told.append([line.split(" ", 1)[1] for line in lines(before, view)])
        before = view

    # THEN every change has one line
    assert told[0] == [f"pets: run {RUN} started", "Settle started"]
    assert told[1] == [
        "Settle succeeded after 0:07",
        "Decode started",
        "Decode succeeded after 0:09",
        "Prepare started",
        "Prepare succeeded after 0:04",
        "Tune started",
        "trial 1 completed: validation:accuracy 0.861 (batch_size 32, epochs 20, learning_rate 0.00312)",
    ]
    assert told[2][:3] == [
        "trial 2 failed (batch_size 32, epochs 20, learning_rate 0.00312)",
        "Tune succeeded after 0:30",
        "Retrain started",
    ]
    flat = [line for lines_ in told for line in lines_]
    assert len(flat) == len(set(flat))


def test_a_real_execution_is_followed_to_its_end(
    cloud: Cloud, api: Any, execution: Callable[..., str], run_document: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN a run in a real Step Functions, whose record is written when it ends
    arn = execution("watch-a", settle=1)
    running = run_document("watch-a", **RUNNING)
    api.runs = [running]

    def views() -> Any:
        for view in follow(cloud, "watch-a", interval=0.1):
            if cloud.stepfunctions.describe_execution(executionArn=arn)["status"] != "RUNNING":
                api.runs = [run_document("watch-a")]
            yield view

    # WHEN it is shown without a terminal
    view = show(views(), Output(as_json=False))

    # THEN its real states are told, and the view ends with it
    text = capsys.readouterr().out
    assert view.ended
    assert [stage.name for stage in stages_of(view.states)] == ["Settle", "Prepare", "Gate", "Mail"]
    assert "Settle started" in text
    assert "Settle succeeded after 0:01" in text
    document = view.document()
    assert json.loads(json.dumps(document))["states"][0]["status"] == "succeeded"


def test_a_real_execution_that_failed_is_seen_as_failed(
    cloud: Cloud, api: Any, execution: Callable[..., str], run_document: Document
) -> None:
    arn = execution("watch-b", fail=True)
    while cloud.stepfunctions.describe_execution(executionArn=arn)["status"] == "RUNNING":
        time.sleep(0.05)
    api.runs = [run_document("watch-b", status="FAILED", verdict=None)]
    view = observe(cloud, "watch-b")
    assert (view.ended, view.succeeded) == (True, False)
    assert view.states[-1] == State("Broken", "failed", view.states[-1].started_at, view.states[-1].ended_at)


def test_a_run_whose_execution_is_forgotten_is_shown_from_its_record(
    cloud: Cloud, api: Any, run_document: Document
) -> None:
    api.runs = [run_document("watch-old")]
    view = observe(cloud, "watch-old")
    assert (view.ended, view.succeeded, view.states) == (True, True, ())


def test_an_unknown_run_is_not_found(cloud: Cloud) -> None:
    with pytest.raises(ApiError) as caught:
        observe(cloud, "absent")
    assert (caught.value.code, caught.value.exit_code) == ("UnknownRun", 4)


def test_the_next_run_is_waited_for(cloud: Cloud, api: Any, run_document: Document) -> None:
    # GIVEN one run, and a second that starts after the first look
    api.runs = [run_document("one")]

    original = cloud.newest_run
    looks = 0

    def newest_run(dataset: str | None = None) -> Any:
        nonlocal looks
        looks += 1
        if looks == 3:
            api.runs.insert(0, run_document("two"))
        return original(dataset)

    cloud.newest_run = newest_run  # type: ignore[method-assign]

    # THEN the second one is returned
    assert next_run(cloud, None, interval=0)["id"] == "two"
