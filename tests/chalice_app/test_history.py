"""An execution's history as states."""

from datetime import UTC, datetime, timedelta
from typing import Any

from chalicelib import history

START = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)


def events(*kinds: str) -> list[dict[str, Any]]:
    """One event a second; ``TaskStateEntered:Settle`` names its state."""
    found = []
    for second, kind in enumerate(kinds):
        event: dict[str, Any] = {"timestamp": START + timedelta(seconds=second), "type": kind.partition(":")[0]}
        if kind.startswith("TaskStateEntered"):
            event["stateEnteredEventDetails"] = {"name": kind.partition(":")[2]}
        found.append(event)
    return found


def read(*kinds: str) -> list[tuple[str, str, float | None]]:
    """Name, status and seconds of each state."""
    return [
        (
            state["name"],
            state["status"],
            (state["ended_at"] - state["started_at"]).total_seconds() if state["ended_at"] else None,
        )
        for state in history.read_states(events(*kinds))
    ]


def test_a_state_that_waits_counts_once() -> None:
    once = ("TaskStateEntered:Settle", "TaskScheduled", "TaskSucceeded", "TaskStateExited")
    assert read(*once, "ChoiceStateEntered", "ChoiceStateExited", *once) == [("Settle", "SUCCEEDED", 9)]


def test_a_state_that_still_runs_has_no_end() -> None:
    assert read("TaskStateEntered:Tune", "TaskScheduled") == [("Tune", "RUNNING", None)]


def test_a_retry_that_succeeds_is_no_failure() -> None:
    kinds = (
        "TaskStateEntered:Tune",
        "TaskScheduled",
        "TaskFailed",
        "TaskScheduled",
        "TaskSucceeded",
        "TaskStateExited",
    )
    assert read(*kinds) == [("Tune", "SUCCEEDED", 5)]


def test_a_failure_that_is_caught_and_one_that_is_not() -> None:
    caught = ("TaskStateEntered:Tune", "TaskScheduled", "TaskTimedOut", "TaskStateExited")
    assert read(*caught, "TaskStateEntered:Explain", "TaskScheduled", "ExecutionAborted") == [
        ("Tune", "FAILED", 3),
        ("Explain", "FAILED", 2),
    ]


def test_a_question_that_is_answered_with_no_is_no_failure() -> None:
    kinds = ("TaskStateEntered:FindEndpoint", "TaskScheduled", "TaskFailed", "TaskStateExited")
    assert read(*kinds) == [("FindEndpoint", "SUCCEEDED", 3)]
