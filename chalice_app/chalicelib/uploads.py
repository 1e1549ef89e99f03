"""From an S3 event to a started run.

S3 announces a change at least once and in any order. EventBridge passes it on in its own shape
(``detail.object.key``), a queue buffers it, and one function handles it in batches: first the
changes of each dataset are counted, every one once; then the dataset gets its run.
"""

import json
from collections import defaultdict
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

from chalicelib import config, counting, names, notifications, run_lock

logger = Logger(child=True)

IDEMPOTENCY = IdempotencyConfig(expires_after_seconds=counting.EXPIRES_AFTER_SECONDS)


@dataclass(frozen=True)
class Change:
    """One object created in, or deleted from, the bucket."""

    bucket: str
    key: str
    event: str
    """Tells a second delivery of this change from the next change of the same key."""

    @property
    def identity(self) -> str:
        """Tells this change from every other."""
        return f"{self.bucket}/{self.key}#{self.event}"


@cache
def _persistence() -> DynamoDBPersistenceLayer:
    return DynamoDBPersistenceLayer(table_name=config.idempotency_table_name())


def on_upload(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handle a batch of SQS messages; answers which of them have to be delivered again.

    A failure to count or to start a run fails the whole batch. The messages come back, find
    themselves counted already where they are, and ask for the run again.
    """
    IDEMPOTENCY.register_lambda_context(context)
    changes: defaultdict[str, list[str]] = defaultdict(list)
    ready: set[str] = set()

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
            changes[dataset].append(change.identity)
            if path == names.READY_MARKER or names.is_archive(path):
                ready.add(dataset)

    answer = process_partial_response(
        event=event, record_handler=handle, processor=BatchProcessor(EventType.SQS), context=context
    )
    for dataset in sorted(changes):
        counting.count(dataset, changes[dataset], ready=dataset in ready)
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
    told_by = thing.get("sequencer") or thing.get("etag") or event["id"]
    return Change(
        bucket=detail["bucket"]["name"],
        key=thing["key"],
        event=f"{event['detail-type']}:{told_by}",
    )


def _refuse(*, refused: str, key: str) -> None:
    # The decorator is applied here, and not above, because the table's name is known only in a
    # running function.
    idempotent_function(
        _mail_refusal,
        data_keyword_argument="refused",
        persistence_store=_persistence(),
        config=IDEMPOTENCY,
    )(refused=refused, key=key)


def _mail_refusal(*, refused: str, key: str) -> None:
    logger.warning("refused an upload", refused=refused, key=key)
    notifications.send_refusal(key, config.run_config())
