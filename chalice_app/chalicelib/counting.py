"""Count the changes of a dataset, each exactly once.

One transaction notes the changes and raises the count, so that a function that dies leaves both or neither, and a
burst costs one call a batch. A change that was noted before makes the transaction fail and is left out of the next.
"""

import random
import time
from collections.abc import Iterable
from typing import Any

from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError

from chalicelib import config, times

logger = Logger(child=True)

# SQS keeps a message for at most 14 days; a delivery later than that cannot happen.
EXPIRES_AFTER_SECONDS = 14 * 24 * 3600
# TransactWriteItems takes 100 actions, and one of them is the count
# (https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html).
MAX_CHANGES = 99
# Two functions that count for one dataset at the same moment: one of them is refused and tries again.
MAX_CONFLICTS = 8
MAX_CONFLICT_WAIT_SECONDS = 0.5


def count(dataset: str, changes: Iterable[str], *, ready: bool) -> int:
    """Raise the dataset's count of uploads by those of `changes` that were never counted.

    Args:
        dataset: the dataset.
        changes: what tells each change from every other, at most 2,048 bytes each.
        ready: whether one of them says that no more will come (the marker, an archive).

    Returns how many were new. Safe to repeat. Raises ClientError.
    """
    unique = list(dict.fromkeys(changes))
    counted = sum(
        _count(dataset, unique[start : start + MAX_CHANGES], ready) for start in range(0, len(unique), MAX_CHANGES)
    )
    logger.info("counted uploads", dataset=dataset, announced=len(unique), counted=counted)
    return counted


def _count(dataset: str, changes: list[str], ready: bool) -> int:
    conflicts = 0
    while changes:
        try:
            _write(dataset, changes, ready)
            return len(changes)
        except ClientError as error:
            known = _refused(error, "ConditionalCheckFailed")
            if not known and (conflicts == MAX_CONFLICTS or not _refused(error, "TransactionConflict")):
                raise
        changes = [change for index, change in enumerate(changes) if index not in known]
        if not known:
            conflicts += 1
            time.sleep(random.uniform(0, MAX_CONFLICT_WAIT_SECONDS))  # noqa: S311 - it only spreads the attempts
    return 0


def _write(dataset: str, changes: list[str], ready: bool) -> None:
    now = times.now()
    expiration = int(now.timestamp()) + EXPIRES_AFTER_SECONDS
    notes = [
        {
            "Put": {
                "TableName": config.idempotency_table_name(),
                "Item": {"id": change, "expiration": expiration},
                "ConditionExpression": "attribute_not_exists(id)",
            }
        }
        for change in changes
    ]
    raised = {
        "Update": {
            "TableName": config.datasets_table().name,
            "Key": {"dataset": dataset},
            "UpdateExpression": "SET last_upload_at = :now, first_upload_at = if_not_exists(first_upload_at, :now)"
            + (", ready_at = :now" if ready else "")
            + " ADD uploads :count",
            "ExpressionAttributeValues": {":now": times.to_text(now), ":count": len(changes)},
        }
    }
    # A table's own client takes Python values; a plain one wants DynamoDB's typed ones.
    config.datasets_table().meta.client.transact_write_items(TransactItems=[*notes, raised])


def _refused(error: ClientError, code: str) -> set[int]:
    """The places of the actions that made a transaction fail with `code`."""
    reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])
    return {index for index, reason in enumerate(reasons) if reason.get("Code") == code}
