"""Answers, after a kill, the uploads that no run has answered.

The gateway keeps every object, but an event on its way, or a run in progress, dies with it. Each dataset that waits
for an answer gets the message that an upload would have sent, and the ordinary path does the rest.
"""

import json
import uuid
from datetime import datetime
from typing import Any

import boto3


def resume(session: boto3.Session, outputs: dict[str, str]) -> list[str]:
    """Send one upload event for each unanswered dataset; return their names.

    Args:
        session: reaches the local cloud.
        outputs: the outputs of its stack.
    """
    queue = session.client("sqs")
    found = unanswered_datasets(session, outputs)
    for _, key in found:
        event = json.dumps(_upload_event(outputs["Bucket"], key))
        queue.send_message(QueueUrl=outputs["UploadQueueUrl"], MessageBody=event)
    return [dataset for dataset, _ in found]


def unanswered_datasets(session: boto3.Session, outputs: dict[str, str]) -> list[tuple[str, str]]:
    """Return (dataset, newest key) of each dataset whose run was cut off, or whose uploads no run has sealed."""
    newest: dict[str, tuple[datetime, str]] = {}
    pages = session.client("s3").get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=outputs["Bucket"], Prefix="datasets/"):
        for item in page.get("Contents", []):
            parts = item["Key"].split("/", 2)
            if len(parts) == 3:
                newest[parts[1]] = max(
                    newest.get(parts[1], (item["LastModified"], "")), (item["LastModified"], item["Key"])
                )
    table = session.client("dynamodb")
    states = session.client("stepfunctions")
    found = []
    for dataset, (modified, key) in newest.items():
        item = table.get_item(TableName=outputs["DatasetsTable"], Key={"dataset": {"S": dataset}}).get("Item", {})
        if "run" in item:
            cut_off = not _execution_runs(states, outputs["StateMachineArn"], item["run"]["S"])
        else:
            sealed = item.get("sealed_at")
            cut_off = sealed is None or modified > datetime.fromisoformat(sealed["S"])
        if cut_off:
            found.append((dataset, key))
    return found


def _execution_runs(states: Any, state_machine_arn: str, run: str) -> bool:
    arn = f"{state_machine_arn.replace(':stateMachine:', ':execution:')}:{run}"
    try:
        return bool(states.describe_execution(executionArn=arn)["status"] == "RUNNING")
    except states.exceptions.ExecutionDoesNotExist:
        return False


def _upload_event(bucket: str, key: str) -> dict[str, Any]:
    # A sequencer of its own: this event is no repetition of the one that was lost.
    return {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": bucket}, "object": {"key": key, "sequencer": uuid.uuid4().hex}},
    }
