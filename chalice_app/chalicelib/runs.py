"""``GET /runs``, ``/runs/{id}`` and ``/runs/{id}/report``."""

from decimal import Decimal
from typing import Any

from boto3.dynamodb.conditions import Attr, Key

from chalicelib import config, history, storage, times
from chalicelib.errors import InvalidParameter, NotFound, UnknownRun
from chalicelib.queries import parse_count, read_token, write_token
from chalicelib.run_lock import START_WINDOW, execution_arn

FIELDS = (
    "id",
    "dataset",
    "status",
    "verdict",
    "started_at",
    "ended_at",
    "dataset_version",
    "model_version",
    "accuracy",
    "error",
)
DEFAULT_LIMIT = 20
MAX_LIMIT = 100
# What of a record says where a page ended: the keys of the table and of its index.
PAGE_KEY = ("id", "started_at")


def list_runs(dataset: str | None, limit: str | None, after: str | None = None) -> dict[str, Any]:
    """A page of the runs of one dataset or of all, newest first. Raises InvalidParameter."""
    count = parse_count("limit", limit, default=DEFAULT_LIMIT, highest=MAX_LIMIT)
    query: dict[str, Any] = {
        "IndexName": "by-start",
        "KeyConditionExpression": Key("kind").eq("run"),
        "ScanIndexForward": False,
    }
    if dataset:
        query["FilterExpression"] = Attr("dataset").eq(dataset)
    position = read_token(after, dict)
    if position is not None:
        query["ExclusiveStartKey"] = _start_key(position)
    found: list[dict[str, Any]] = []
    while True:
        page = config.runs_table().query(**query)
        found += page["Items"]
        if len(found) > count or "LastEvaluatedKey" not in page:
            break
        query["ExclusiveStartKey"] = page["LastEvaluatedKey"]
    more = len(found) > count
    last = {name: str(found[count - 1][name]) for name in PAGE_KEY} if more else None
    return {"runs": [to_document(record) for record in found[:count]], "next": last and write_token(last)}


def _start_key(position: dict[str, Any]) -> dict[str, str]:
    if set(position) != set(PAGE_KEY) or not all(isinstance(text, str) and text for text in position.values()):
        raise InvalidParameter("next is no token that a page ended with.", "Leave next out for the first page.")
    return {"kind": "run", **position}


def describe_run(run: str) -> dict[str, Any]:
    """One run with its states. Raises UnknownRun."""
    record = require_run(run)
    states = history.list_states(execution_arn(run))
    return to_document(record) | {
        "states": [
            state | {key: state[key] and times.to_text(state[key]) for key in ("started_at", "ended_at")}
            for state in states
        ]
    }


def report_link(run: str) -> str:
    """A signed URL of the run's report. Raises UnknownRun, or NotFound before there is one."""
    key = require_run(run).get("report_key")
    if not key:
        raise NotFound(
            f"Run '{run}' has no report.",
            f"A report is written when a run has evaluated its model. See GET /runs/{run} for its state.",
        )
    return storage.link(key)


def to_document(record: dict[str, Any]) -> dict[str, Any]:
    """A run as the API shows it; what is not known yet is null.

    A record says RUNNING until the workflow's own ending. When its execution was stopped from
    outside, the execution's status is the true one.
    """
    document = {field: _plain(record.get(field)) for field in FIELDS}
    if document["status"] == "RUNNING":
        document |= _execution_end(record)
    return document


def _execution_end(record: dict[str, Any]) -> dict[str, Any]:
    stepfunctions = config.client("stepfunctions")
    try:
        execution = stepfunctions.describe_execution(executionArn=execution_arn(record["id"]))
    except stepfunctions.exceptions.ExecutionDoesNotExist:
        starting = times.now() - times.from_text(record["started_at"]) < START_WINDOW
        return {} if starting else {"status": "ABORTED"}
    if execution["status"] == "RUNNING":
        return {}
    return {"status": execution["status"], "ended_at": times.to_text(execution["stopDate"])}


def require_run(run: str) -> dict[str, Any]:
    """The record of a run. Raises UnknownRun."""
    record: dict[str, Any] | None = config.runs_table().get_item(Key={"id": run}).get("Item")
    if record is None:
        raise UnknownRun(f"There is no run '{run}'.", "GET /runs lists the runs.")
    return record


def _plain(value: Any) -> Any:
    # DynamoDB has one type for all numbers.
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and "." not in str(value) else float(value)
    return value
