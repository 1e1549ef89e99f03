"""Finish: write down how a run ended, and let the next one go."""

from decimal import Decimal
from typing import Any

from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError

from chalicelib import config, run_lock, times

logger = Logger(child=True)


def finish(outcome: dict[str, Any]) -> dict[str, Any]:
    """Close a run's record, remember the content of a version that ended well, free the lock.

    Args:
        outcome: ``run``, ``dataset`` and ``status``; where the run got that far ``verdict``,
            ``dataset_version``, ``content_hash``, ``model_version``, ``accuracy``,
            ``report_key``, ``error`` and ``mail_error``.

    Returns ``{"follow_up": run id or null}``. Safe to repeat.
    """
    if "mail_error" in outcome:
        logger.error("the mail was not sent", reason=outcome["mail_error"])
    _close_record(outcome)
    if outcome["status"] == "SUCCEEDED" and "content_hash" in outcome:
        _note_content(outcome)
    follow_up = run_lock.release(outcome["dataset"], outcome["run"])
    return {"follow_up": follow_up}


def _note_content(outcome: dict[str, Any]) -> None:
    try:
        config.datasets_table().update_item(
            Key={"dataset": outcome["dataset"]},
            UpdateExpression="SET content_hash = :hash, version = :version",
            # A call that was given up as too slow may still run beside the next run, whose content is newer.
            ConditionExpression="#run = :run",
            ExpressionAttributeNames={"#run": "run"},
            ExpressionAttributeValues={
                ":hash": outcome["content_hash"],
                ":version": outcome["dataset_version"],
                ":run": outcome["run"],
            },
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
        logger.warning("the lock is no longer held by this run", run=outcome["run"])


def _close_record(outcome: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"status": outcome["status"], "ended_at": times.to_text(times.now())}
    for name in ("verdict", "dataset_version", "model_version", "report_key", "error"):
        if outcome.get(name):
            fields[name] = outcome[name]
    if "accuracy" in outcome:
        fields["accuracy"] = Decimal(str(outcome["accuracy"]))
    config.runs_table().update_item(
        Key={"id": outcome["run"]},
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in fields),
        ExpressionAttributeNames={f"#{name}": name for name in fields},
        ExpressionAttributeValues={f":{name}": value for name, value in fields.items()},
    )
