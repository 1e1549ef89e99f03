"""Do a thing once, however often the message that asks for it is delivered."""

from collections.abc import Callable
from functools import cache
from typing import Any

from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)

from chalicelib import config, counting

IDEMPOTENCY = IdempotencyConfig(expires_after_seconds=counting.EXPIRES_AFTER_SECONDS)


@cache
def _persistence() -> DynamoDBPersistenceLayer:
    return DynamoDBPersistenceLayer(table_name=config.idempotency_table_name())


def once(function: Callable[..., None], context: Any, *, told_by: str, **arguments: Any) -> None:
    """Call `function` with `arguments`, unless that was done for the same value of one of them.

    Args:
        function: is called again only when it failed.
        context: Lambda's context; a call that it cut off is not taken for one that was done.
        told_by: the name of the argument that tells one call from another.
    """
    IDEMPOTENCY.register_lambda_context(context)
    # Powertools offers this as a decorator; the table's name is known only in a running function.
    idempotent_function(function, data_keyword_argument=told_by, persistence_store=_persistence(), config=IDEMPOTENCY)(
        **arguments
    )
