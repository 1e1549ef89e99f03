"""From an S3 event to a started run.

S3 announces a change at least once and in any order. EventBridge passes it on in its own shape
(``detail.object.key``), a queue buffers it, and one function handles it in batches: first the
changes of each dataset are counted, every one once; then the dataset gets its run.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from botocore.exceptions import BotoCoreError, ClientError

from chalicelib import config, counting, names, notifications, run_lock
from chalicelib.once import once

logger = Logger(child=True)

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/EventBridge.html
DETAIL_TYPES = frozenset({"Object Created", "Object Deleted"})


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


def on_upload(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handle a batch of SQS messages; answers which of them have to be delivered again.

    A failure to count, or to start a run, fails the messages of that dataset. They come back, find
    themselves counted already where they are, and ask for the run again.
    """
    changes: defaultdict[str, list[str]] = defaultdict(list)
    messages: defaultdict[str, list[str]] = defaultdict(list)
    ready: set[str] = set()

    def handle(record: SQSRecord) -> None:
        change = parse_change(json.loads(record.body))
        if not change.key.startswith(names.DATASETS_PREFIX) or change.key.endswith("/"):
            return
        dataset, _, path = change.key.removeprefix(names.DATASETS_PREFIX).partition("/")
        if not path:
            once(_mail_refusal, context, told_by="refused", refused=f"file:{dataset}", key=change.key)
        elif not names.is_dataset(dataset):
            once(_mail_refusal, context, told_by="refused", refused=f"name:{dataset}", key=change.key)
        elif names.is_data(path) or path == names.READY_MARKER:
            changes[dataset].append(change.identity)
            messages[dataset].append(record.message_id)
            if path == names.READY_MARKER or names.is_archive(path):
                ready.add(dataset)

    processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
    answer = process_partial_response(event=event, record_handler=handle, processor=processor, context=context)
    failed = list(answer["batchItemFailures"])
    for dataset in sorted(changes):
        try:
            counting.count(dataset, changes[dataset], ready=dataset in ready)
            run_lock.ensure_run(dataset)
        except (BotoCoreError, ClientError):
            logger.exception("the changes of a dataset come back", dataset=dataset)
            failed += [{"itemIdentifier": message} for message in messages[dataset]]
    return {"batchItemFailures": failed}


def parse_change(event: dict[str, Any]) -> Change:
    """Read EventBridge's form of an S3 event.

    Raises KeyError, TypeError or ValueError when `event` is not of that form; the message then
    ends in the dead-letter queue, where a person finds it.
    """
    if event["detail-type"] not in DETAIL_TYPES:
        raise ValueError(f"'{event['detail-type']}' is no change of an object.")
    detail = event["detail"]
    thing = detail["object"]
    # A deletion has no etag, and some sources send no sequencer.
    told_by = thing.get("sequencer") or thing.get("etag") or event["id"]
    return Change(
        bucket=detail["bucket"]["name"],
        key=thing["key"],
        event=f"{event['detail-type']}:{told_by}",
    )


def _mail_refusal(*, refused: str, key: str) -> None:
    logger.warning("refused an upload", refused=refused, key=key)
    notifications.send_refusal(key, config.run_config())
