"""One run per dataset at a time: the lock, and starting a run.

The lock is the attribute ``run`` of the dataset's item. Its holder is a run id, which is also
the name of the Step Functions execution, so that anyone can see whether the holder still lives.
"""

import json
from datetime import datetime, timedelta
from typing import Any

from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError

from chalicelib import config, names, times
from chalicelib.dataset_objects import hash_objects, list_objects

logger = Logger(child=True)

# A function that took the lock may be about to start the execution for as long as a function can live: 15 minutes
# (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html). A lock without an execution that is older
# belongs to an execution that is gone for good.
START_WINDOW = timedelta(minutes=15)


def ensure_run(dataset: str) -> str | None:
    """Start a run of `dataset` unless one is running, or every counted change has been answered by one.

    Returns the id of the run that this call started, or None. A lock whose execution has ended
    (stopped by hand, timed out) is taken over. A lock whose execution never began is started
    under its own id: a name can be used once, so two callers that both see this cannot start two
    runs.
    """
    item = dataset_item(dataset)
    holder = item.get("run")
    if holder is None:
        # A change that is announced again, after the run that answered it.
        answered = "uploads" in item and item["uploads"] == item.get("sealed_uploads")
        return None if answered else start_next(dataset, previous=None)
    execution = find_execution(holder)
    if execution is not None and execution["status"] == "RUNNING":
        return None
    if execution is None and _may_be_about_to_start(item):
        start_execution(dataset, holder, item["run_requested_at"])
        return str(holder)
    logger.warning("taking over the lock of a run that has ended", run=holder)
    if execution is None:
        close_record(holder, "ABORTED", times.now())
    else:
        close_record(holder, execution["status"], execution["stopDate"])
    return start_next(dataset, previous=holder)


def start_next(dataset: str, previous: str | None) -> str | None:
    """Take the lock, which must be free or held by `previous`, and start a new run.

    Returns the new run's id, or None when another caller was faster.
    """
    now = times.now()
    run = names.new_run_id(dataset, now)
    try:
        config.datasets_table().update_item(
            Key={"dataset": dataset},
            UpdateExpression="SET #run = :run, run_requested_at = :now, run_uploads = if_not_exists(uploads, :none)",
            ConditionExpression="attribute_not_exists(#run)" if previous is None else "#run = :previous",
            ExpressionAttributeNames={"#run": "run"},
            ExpressionAttributeValues={":run": run, ":now": times.to_text(now), ":none": 0}
            | ({} if previous is None else {":previous": previous}),
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == "ConditionalCheckFailedException":
            return None
        raise
    start_execution(dataset, run, times.to_text(now))
    return run


def start_execution(dataset: str, run: str, requested_at: str) -> None:
    """Write the run's record and start its execution; safe to repeat."""
    record = {
        "id": run,
        "kind": "run",
        "dataset": dataset,
        "status": "RUNNING",
        "started_at": requested_at,
        "execution_arn": execution_arn(run),
    }
    try:
        config.runs_table().put_item(Item=record, ConditionExpression="attribute_not_exists(id)")
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
    document = {
        "run": run,
        "dataset": dataset,
        "requested_at": requested_at,
        "config": config.run_config(),
    }
    try:
        config.client("stepfunctions").start_execution(
            stateMachineArn=config.state_machine_arn(), name=run, input=json.dumps(document)
        )
    except ClientError as error:
        # The name is ours alone, so whoever used it started this very run.
        if error.response["Error"]["Code"] != "ExecutionAlreadyExists":
            raise
    logger.info("started a run", run=run, dataset=dataset)


def release(dataset: str, run: str) -> str | None:
    """Give the lock of `run` back, or hand it to a follow-up run if the dataset has changed since the seal.

    Returns the id of the follow-up run, or None. Safe to repeat.
    """
    while True:
        item = dataset_item(dataset)
        if item.get("run") != run:
            return _start_follow_up(dataset, item)
        if _has_changed_since_seal(dataset, item):
            return start_next(dataset, previous=run)
        # An upload is counted before its handler looks at the lock. So one that this call did not see makes the
        # condition fail and is looked at again, and one after the release finds the lock free.
        seen = item.get("uploads")
        # Changes that were counted after the seal, but are part of it, are answered too: they begin no new burst, and
        # no run when they are announced again.
        answered = _is_sealed(item) and seen is not None
        try:
            config.datasets_table().update_item(
                Key={"dataset": dataset},
                UpdateExpression="REMOVE #run, run_requested_at, run_uploads, first_upload_at, ready_at"
                + (" SET sealed_uploads = :seen" if answered else ""),
                ConditionExpression="#run = :run AND "
                + ("attribute_not_exists(uploads)" if seen is None else "uploads = :seen"),
                ExpressionAttributeNames={"#run": "run"},
                ExpressionAttributeValues={":run": run} | ({} if seen is None else {":seen": seen}),
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            continue
        return None


def _start_follow_up(dataset: str, item: dict[str, Any]) -> str | None:
    # A call of `release` before this one may have handed the lock over, and died before it started the execution.
    holder = item.get("run")
    if holder is None or not _may_be_about_to_start(item) or find_execution(holder) is not None:
        return None
    start_execution(dataset, holder, item["run_requested_at"])
    return str(holder)


def _may_be_about_to_start(item: dict[str, Any]) -> bool:
    return times.now() - times.from_text(item["run_requested_at"]) < START_WINDOW


def _is_sealed(item: dict[str, Any]) -> bool:
    """Whether the run that holds the lock has sealed a version."""
    # Not told by comparing times: those are of two functions' clocks.
    return bool(item.get("sealed_run") == item["run"])


def _has_changed_since_seal(dataset: str, item: dict[str, Any]) -> bool:
    if not _is_sealed(item):
        # The run failed before its seal. Only what came after its start makes another try: a run that fails so is
        # not followed by itself for ever.
        return bool(item.get("uploads", 0) != item.get("run_uploads", item.get("uploads", 0)))
    # Events trail behind the objects: those of sealed objects may be counted after the seal.
    return bool(item.get("uploads") != item["sealed_uploads"]) and (
        hash_objects(list_objects(dataset)) != item["sealed_hash"]
    )


def dataset_item(dataset: str) -> dict[str, Any]:
    """The dataset's item, read consistently; empty when there is none."""
    answer = config.datasets_table().get_item(Key={"dataset": dataset}, ConsistentRead=True)
    item: dict[str, Any] = answer.get("Item", {})
    return item


def execution_arn(run: str) -> str:
    """The ARN of the execution called `run`."""
    return config.state_machine_arn().replace(":stateMachine:", ":execution:", 1) + f":{run}"


def find_execution(run: str) -> dict[str, Any] | None:
    """Step Functions' description of the run's execution, or None when it does not exist."""
    try:
        answer: dict[str, Any] = config.client("stepfunctions").describe_execution(executionArn=execution_arn(run))
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
            return None
        raise
    return answer


def close_record(run: str, status: str, ended_at: datetime) -> None:
    """Note in a run's record that its execution ended without the workflow's own ending."""
    try:
        config.runs_table().update_item(
            Key={"id": run},
            UpdateExpression="SET #status = :status, ended_at = :ended_at",
            ConditionExpression="#status = :running",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={
                ":status": status,
                ":running": "RUNNING",
                ":ended_at": times.to_text(ended_at),
            },
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
