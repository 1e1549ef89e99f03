"""An execution's history as a list of the states a person knows."""

from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from chalicelib import config

# These two ask whether something exists, and a refusal is their answer.
ANSWERED_BY_REFUSAL = frozenset({"CreateModelPackageGroup", "FindEndpoint"})


def list_states(execution_arn: str) -> list[dict[str, Any]]:
    """The task states of an execution in the order in which they first began.

    Each is ``{"name", "status", "started_at", "ended_at"}`` with datetimes (``ended_at`` None
    while it runs) and status ``RUNNING``, ``SUCCEEDED`` or ``FAILED``. A state that is entered
    again and again (Settle waits for uploads, Release for the endpoint) counts as one, from its
    first beginning to its last end. Empty when Step Functions no longer knows the execution.
    """
    pages = (
        config.client("stepfunctions")
        .get_paginator("get_execution_history")
        .paginate(executionArn=execution_arn, includeExecutionData=False)
    )
    try:
        events = [event for page in pages for event in page["events"]]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
            return []
        raise
    return read_states(events)


def read_states(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`list_states` from the events of GetExecutionHistory."""
    states: dict[str, dict[str, Any]] = {}
    current: dict[str, Any] | None = None
    for event in events:
        kind: str = event["type"]
        if kind == "TaskStateEntered":
            name = event["stateEnteredEventDetails"]["name"]
            current = states.setdefault(name, {"name": name, "started_at": event["timestamp"]})
            current |= {"status": "RUNNING", "ended_at": None}
        elif current is None:
            continue
        elif kind in {"TaskFailed", "TaskTimedOut", "TaskStartFailed", "TaskSubmitFailed"}:
            # Not yet the end: the state may retry.
            if current["name"] not in ANSWERED_BY_REFUSAL:
                current["status"] = "FAILED"
        elif kind in {"TaskScheduled", "TaskSucceeded"}:
            current["status"] = "RUNNING"
        elif kind == "TaskStateExited":
            _end(current, event["timestamp"])
            current = None
        elif kind in {"ExecutionFailed", "ExecutionAborted", "ExecutionTimedOut"}:
            current["status"] = "FAILED"
            _end(current, event["timestamp"])
    return list(states.values())


def _end(state: dict[str, Any], moment: datetime) -> None:
    state["ended_at"] = moment
    if state["status"] == "RUNNING":
        state["status"] = "SUCCEEDED"
