"""``GET /runs``, ``/runs/{id}`` and ``/runs/{id}/report``."""

from decimal import Decimal
from typing import Any

from boto3.dynamodb.conditions import Attr, Key

from chalicelib import config, history, times
from chalicelib.errors import NotFound, UnknownRun
from chalicelib.predictions import parse_count
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
# A signed link works for as long as a person needs to click it; the API signs a fresh one each time.
REPORT_LINK_SECONDS = 300


def list_runs(dataset: str | None, limit: str | None) -> dict[str, Any]:
    """The newest runs first, of one dataset or of all. Raises InvalidParameter."""
    count = parse_count("limit", limit, default=DEFAULT_LIMIT, highest=MAX_LIMIT)
    query: dict[str, Any] = {
        "IndexName": "by-start",
        "KeyConditionExpression": Key("kind").eq("run"),
        "ScanIndexForward": False,
    }
    if dataset:
        query["FilterExpression"] = Attr("dataset").eq(dataset)
    found: list[dict[str, Any]] = []
    while True:
        page = config.runs_table().query(**query)
        found += page["Items"]
        if len(found) >= count or "LastEvaluatedKey" not in page:
            break
        query["ExclusiveStartKey"] = page["LastEvaluatedKey"]
    return {"runs": [to_document(record) for record in found[:count]]}


def describe_run(run: str) -> dict[str, Any]:
    """One run with its states. Raises UnknownRun."""
    record = _record(run)
    states = history.list_states(execution_arn(run))
    return to_document(record) | {
        "states": [
            state | {key: state[key] and times.to_text(state[key]) for key in ("started_at", "ended_at")}
            for state in states
        ]
    }


def report_link(run: str) -> str:
    """A signed URL of the run's report. Raises UnknownRun, or NotFound before there is one."""
    key = _record(run).get("report_key")
    if not key:
        raise NotFound(
            f"Run '{run}' has no report.",
            f"A report is written when a run has evaluated its model. See GET /runs/{run} for its state.",
        )
    link: str = config.client("s3").generate_presigned_url(
        "get_object", Params={"Bucket": config.bucket(), "Key": key}, ExpiresIn=REPORT_LINK_SECONDS
    )
    return link


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


def _record(run: str) -> dict[str, Any]:
    record: dict[str, Any] | None = config.runs_table().get_item(Key={"id": run}).get("Item")
    if record is None:
        raise UnknownRun(f"There is no run '{run}'.", "GET /runs lists the runs.")
    return record


def _plain(value: Any) -> Any:
    # DynamoDB has one type for all numbers.
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and "." not in str(value) else float(value)
    return value
