"""Answers, after a kill, the uploads that no run has answered.

The gateway keeps every object, but an event on its way, or a run in progress, dies with it; and a run whose job died
with SageMaker has failed through no fault of its data. Each dataset that waits for an answer gets the message that an
upload would have sent, and the ordinary path does the rest.
"""

import contextlib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import boto3

from droptune.commands.drop import is_data
from droptune.local_cloud.processes import wait_until
from droptune.local_cloud.sagemaker.jobs import INTERRUPTED
from droptune.names import is_dataset

# What a run that was cut off says of itself (docs/reference/contracts.md).
CUT_OFF = {
    "code": "Interrupted",
    "message": "The local cloud went down while this run was on its way.",
    "hint": "Nothing is to be done: `droptune up` has started another run of the same uploads.",
}
# Failures that speak of it were SageMaker's absence (integrations.py) or its end (sagemaker/jobs.py).
SAGEMAKER_WAS_AWAY = "local SageMaker"
BEGIN_SECONDS = 20.0


@dataclass(frozen=True)
class _Upload:
    """The newest data object of a dataset."""

    modified: datetime
    key: str


def resume(session: boto3.Session, outputs: dict[str, str]) -> list[str]:
    """Send one upload event for each unanswered dataset, wait for their runs to begin, and return their names.

    A run that was cut off is closed first, so that its record says why it ended.

    Args:
        session: reaches the local cloud.
        outputs: the outputs of its stack.
    """
    queue = session.client("sqs")
    found = unanswered_datasets(session, outputs)
    before = {dataset: _holder(session, outputs, dataset) for dataset, _ in found}
    for dataset, key in found:
        _close(session, outputs, before[dataset])
        event = json.dumps(_upload_event(outputs["Bucket"], key))
        queue.send_message(QueueUrl=outputs["UploadQueueUrl"], MessageBody=event)
    # Whoever looks at the runs next shall see the new ones.
    wait_until(
        lambda: all(_holder(session, outputs, dataset) not in (None, run) for dataset, run in before.items()),
        BEGIN_SECONDS,
        step=0.2,
    )
    return [dataset for dataset, _ in found]


def unanswered_datasets(session: boto3.Session, outputs: dict[str, str]) -> list[tuple[str, str]]:
    """Return (dataset, newest key) of each dataset whose run was cut off, or whose uploads no run has sealed."""
    table = session.client("dynamodb")
    runs = _newest_runs(table, outputs["RunsTable"])
    found = []
    for dataset, newest in _newest_uploads(session.client("s3"), outputs["Bucket"]).items():
        item = table.get_item(TableName=outputs["DatasetsTable"], Key={"dataset": {"S": dataset}}).get("Item", {})
        if "run" in item:
            run = item["run"]["S"]
            open_ = _execution_status(session, outputs, run) == "RUNNING" and not _lost_a_job(session, run)
        else:
            sealed = item.get("sealed_at")
            open_ = sealed is not None and newest.modified <= datetime.fromisoformat(sealed["S"])
            open_ = open_ and not _failed_without_sagemaker(session, runs.get(dataset))
        if not open_:
            found.append((dataset, newest.key))
    return found


def _newest_uploads(s3: Any, bucket: str) -> dict[str, _Upload]:
    newest: dict[str, _Upload] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="datasets/"):
        for item in page.get("Contents", []):
            _, dataset, path = (*item["Key"].split("/", 2), "", "")[:3]
            # An upload under another name was answered by a mail, one that is no data by nothing: neither gets a run.
            if not is_dataset(dataset) or not path or path.endswith("/") or not is_data(path):
                continue
            if dataset not in newest or item["LastModified"] >= newest[dataset].modified:
                newest[dataset] = _Upload(item["LastModified"], item["Key"])
    return newest


def _newest_runs(table: Any, name: str) -> dict[str, dict[str, Any]]:
    """Return each dataset's newest run that began within the newest 1,000 runs of all."""
    newest: dict[str, dict[str, Any]] = {}
    answer = table.query(
        TableName=name,
        IndexName="by-start",
        KeyConditionExpression="kind = :run",
        ExpressionAttributeValues={":run": {"S": "run"}},
        ScanIndexForward=False,
        Limit=1000,
    )
    for item in answer["Items"]:
        newest.setdefault(item["dataset"]["S"], item)
    return newest


def _execution_arn(outputs: dict[str, str], run: str) -> str:
    return f"{outputs['StateMachineArn'].replace(':stateMachine:', ':execution:')}:{run}"


def _execution_status(session: boto3.Session, outputs: dict[str, str], run: str) -> str | None:
    states = session.client("stepfunctions")
    try:
        return str(states.describe_execution(executionArn=_execution_arn(outputs, run))["status"])
    except states.exceptions.ExecutionDoesNotExist:
        return None


def _lost_a_job(session: boto3.Session, run: str) -> bool:
    """Whether a job of the run ended because SageMaker did."""
    sagemaker = session.client("sagemaker")
    describe = (
        (sagemaker.describe_processing_job, {"ProcessingJobName": f"{run}-decode"}),
        (sagemaker.describe_processing_job, {"ProcessingJobName": f"{run}-prepare"}),
        (sagemaker.describe_hyper_parameter_tuning_job, {"HyperParameterTuningJobName": run}),
        (sagemaker.describe_training_job, {"TrainingJobName": f"{run}-retrain"}),
        (sagemaker.describe_processing_job, {"ProcessingJobName": f"{run}-evaluate"}),
    )
    for call, arguments in describe:
        # The run had not come so far.
        with contextlib.suppress(sagemaker.exceptions.ClientError):
            if call(**arguments).get("FailureReason") == INTERRUPTED:
                return True
    return False


def _failed_without_sagemaker(session: boto3.Session, run: dict[str, Any] | None) -> bool:
    if run is None or run["status"]["S"] != "FAILED":
        return False
    message = run.get("error", {}).get("M", {}).get("message", {}).get("S", "")
    return SAGEMAKER_WAS_AWAY in message or _lost_a_job(session, run["id"]["S"])


def _holder(session: boto3.Session, outputs: dict[str, str], dataset: str) -> str | None:
    """Return the run that holds the dataset's lock, if its execution began.

    One whose execution did not begin needs no other: the event starts it.
    """
    table = session.client("dynamodb")
    item = table.get_item(TableName=outputs["DatasetsTable"], Key={"dataset": {"S": dataset}}).get("Item", {})
    run = item["run"]["S"] if "run" in item else None
    return run if run and _execution_status(session, outputs, run) else None


def _close(session: boto3.Session, outputs: dict[str, str], run: str | None) -> None:
    """End the execution of a run that was cut off, and say in its record why."""
    if run is None:
        return
    if _execution_status(session, outputs, run) == "RUNNING":
        session.client("stepfunctions").stop_execution(
            executionArn=_execution_arn(outputs, run), error=CUT_OFF["code"], cause=CUT_OFF["message"]
        )
    table = session.client("dynamodb")
    # It may have ended by itself meanwhile, or its record was never written.
    with contextlib.suppress(table.exceptions.ConditionalCheckFailedException):
        table.update_item(
            TableName=outputs["RunsTable"],
            Key={"id": {"S": run}},
            UpdateExpression="SET #status = :failed, ended_at = :now, #error = :error",
            ConditionExpression="#status = :running",
            ExpressionAttributeNames={"#status": "status", "#error": "error"},
            ExpressionAttributeValues={
                ":failed": {"S": "FAILED"},
                ":running": {"S": "RUNNING"},
                ":now": {"S": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")},
                ":error": {"M": {key: {"S": value} for key, value in CUT_OFF.items()}},
            },
        )


def _upload_event(bucket: str, key: str) -> dict[str, Any]:
    # A sequencer of its own: this event is no repetition of the one that was lost.
    return {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": bucket}, "object": {"key": key, "sequencer": uuid.uuid4().hex}},
    }
