"""The dead-letter queue of upload events: what lies in it, and the way back.

SQS's own StartMessageMoveTask is not used: it moves what can never be handled too, and ministack lacks it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

# SQS's limits of a batch (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html).
BATCH = 10
# For so long nobody else sees what was received; a command that is killed gives it back thereby.
HOLD_SECONDS = 300
DETAIL_TYPES = ("Object Created", "Object Deleted")


@dataclass(frozen=True)
class DeadLetter:
    """A message that failed too often.

    Attributes:
        body: the message.
        receipt: what SQS wants to be told of it.
        event: what happened to the object, as `Object Created`; None if the message does not say so.
        key: the object's key; likewise.
        reason: why it can never be handled; None if it may well be, once the cause is mended.
    """

    body: str
    receipt: str
    event: str | None
    key: str | None
    reason: str | None


def read(body: str, receipt: str = "") -> DeadLetter:
    """Returns a message with what can be told of it."""
    try:
        document = json.loads(body)
    except ValueError:
        return DeadLetter(body, receipt, None, None, "It is no JSON document.")
    try:
        event, detail = document["detail-type"], document["detail"]
        key, bucket = detail["object"]["key"], detail["bucket"]["name"]
    except (KeyError, TypeError):
        return DeadLetter(body, receipt, None, None, "It is no S3 event of EventBridge.")
    if not isinstance(key, str) or not isinstance(bucket, str):
        return DeadLetter(body, receipt, str(event), None, "It names no object.")
    if event not in DETAIL_TYPES:
        return DeadLetter(body, receipt, str(event), key, "It announces no change of an object.")
    return DeadLetter(body, receipt, event, key, None)


class DeadLetterQueue:
    """The queue of the messages that failed, and the one they came from.

    Args:
        sqs: an SQS client.
        url: the dead-letter queue's URL.
        source_url: the URL of the queue that they go back to.
    """

    def __init__(self, sqs: Any, url: str, source_url: str) -> None:
        self._sqs = sqs
        self._url = url
        self._source_url = source_url

    def count(self) -> int:
        """Returns about how many messages lie there."""
        answer = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["ApproximateNumberOfMessages"])
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    def receive(self) -> list[DeadLetter]:
        """Returns all messages; they are hidden for five minutes, or until they are released."""
        found = []
        # Only a poll that waits asks all of SQS's servers, so that none means none.
        while messages := self._sqs.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=BATCH, VisibilityTimeout=HOLD_SECONDS, WaitTimeSeconds=1
        ).get("Messages"):
            found += [read(message["Body"], message["ReceiptHandle"]) for message in messages]
        return found

    def put_back(self, letters: Iterable[DeadLetter]) -> list[DeadLetter]:
        """Sends messages to where they came from; returns those that SQS took.

        One is deleted here when it is there: a kill between the two brings it twice, and a change is counted once.
        """
        done = []
        for batch in _batches(letters):
            entries = [{"Id": str(number), "MessageBody": letter.body} for number, letter in enumerate(batch)]
            answer = self._sqs.send_message_batch(QueueUrl=self._source_url, Entries=entries)
            sent = [batch[int(entry["Id"])] for entry in answer.get("Successful", [])]
            self.delete(sent)
            done += sent
        return done

    def delete(self, letters: Iterable[DeadLetter]) -> None:
        """Deletes messages for good."""
        for batch in _batches(letters):
            entries = [{"Id": str(number), "ReceiptHandle": letter.receipt} for number, letter in enumerate(batch)]
            self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)

    def release(self, letters: Iterable[DeadLetter]) -> None:
        """Lets others see messages again."""
        for batch in _batches(letters):
            entries = [
                {"Id": str(number), "ReceiptHandle": letter.receipt, "VisibilityTimeout": 0}
                for number, letter in enumerate(batch)
            ]
            self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)


def _batches(letters: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    rest = iter(letters)
    while batch := list(islice(rest, BATCH)):
        yield batch
