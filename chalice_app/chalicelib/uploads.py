"""From an S3 event to a started run.

S3 announces a change at least once and in any order. EventBridge passes it on in its own shape
(``detail.object.key``), a queue buffers it, and one function handles it in batches: first every
change is counted, exactly once; then each dataset that was touched gets its run.
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)

from chalicelib import config, names, notifications, run_lock, times

logger = Logger(child=True)

# SQS keeps a message for at most 14 days; a delivery later than that cannot happen.
IDEMPOTENCY = IdempotencyConfig(expires_after_seconds=14 * 24 * 3600)


@dataclass(frozen=True)
class Change:
    """One object created in, or deleted from, the bucket."""

    bucket: str
    key: str
    identity: str
    """Tells a second delivery of this change from the next change of the same key."""


@cache
def _persistence() -> DynamoDBPersistenceLayer:
    return DynamoDBPersistenceLayer(table_name=config.idempotency_table_name())


def on_upload(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handle a batch of SQS messages; answers which of them have to be delivered again.

    A failure to start a run fails the whole batch. The messages come back, find themselves
    counted already, and ask for the run again.
    """
    IDEMPOTENCY.register_lambda_context(context)
    touched: set[str] = set()

    def handle(record: SQSRecord) -> None:
        change = parse_change(json.loads(record.body))
        if not change.key.startswith(names.DATASETS_PREFIX) or change.key.endswith("/"):
            return
        dataset, _, path = change.key.removeprefix(names.DATASETS_PREFIX).partition("/")
        if not path:
            _refuse(refused=f"file:{dataset}", key=change.key)
        elif not names.is_dataset(dataset):
            _refuse(refused=f"name:{dataset}", key=change.key)
        elif names.is_data(path) or path == names.READY_MARKER:
            _count(change=f"{change.bucket}/{change.key}#{change.identity}", dataset=dataset, path=path)
            touched.add(dataset)

    answer = process_partial_response(
        event=event, record_handler=handle, processor=BatchProcessor(EventType.SQS), context=context
    )
    for dataset in sorted(touched):
        run_lock.ensure_run(dataset)
    return dict(answer)


def parse_change(event: dict[str, Any]) -> Change:
    """Read EventBridge's form of an S3 event.

    Raises KeyError when `event` is not of that form; the message then ends in the dead-letter
    queue, where a person finds it.
    """
    detail = event["detail"]
    thing = detail["object"]
    # A deletion has no etag, and some sources send no sequencer.
    identity = thing.get("sequencer") or thing.get("etag") or event["id"]
    return Change(
        bucket=detail["bucket"]["name"],
        key=thing["key"],
        identity=f"{event['detail-type']}:{identity}",
    )


def _count(*, change: str, dataset: str, path: str) -> None:
    # The decorator is applied here, and not above, because the table's name is known only in a
    # running function.
    idempotent_function(
        _record_upload,
        data_keyword_argument="change",
        persistence_store=_persistence(),
        config=IDEMPOTENCY,
    )(change=change, dataset=dataset, path=path)


def _record_upload(*, change: str, dataset: str, path: str) -> None:
    now = times.to_text(times.now())
    ready = path == names.READY_MARKER or names.is_archive(path)
    config.datasets_table().update_item(
        Key={"dataset": dataset},
        UpdateExpression="SET last_upload_at = :now, first_upload_at = if_not_exists(first_upload_at, :now)"
        + (", ready_at = :now" if ready else "")
        + " ADD uploads :one",
        ExpressionAttributeValues={":now": now, ":one": 1},
    )
    logger.info("counted an upload", dataset=dataset, change=change)


def _refuse(*, refused: str, key: str) -> None:
    idempotent_function(
        _mail_refusal,
        data_keyword_argument="refused",
        persistence_store=_persistence(),
        config=IDEMPOTENCY,
    )(refused=refused, key=key)


def _mail_refusal(*, refused: str, key: str) -> None:
    logger.warning("refused an upload", refused=refused, key=key)
    notifications.send_refusal(key, config.run_config())
