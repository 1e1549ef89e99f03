"""Names of the contract that the operator's side checks before it asks (docs/reference/contracts.md)."""

from __future__ import annotations

import re

from droptune.errors import UsageError

DATASET = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
DATASET_RULE = "A name has 1 to 32 small letters, digits and hyphens, and no hyphen at either end."


def is_dataset(name: str) -> bool:
    """Returns whether `name` can name a dataset."""
    return DATASET.fullmatch(name) is not None


def require_dataset(name: str | None) -> None:
    """Checks the name of a dataset that should exist; None, for no particular one, is fine.

    Raises:
        UsageError: nothing can have this name.
    """
    if name is not None and not is_dataset(name):
        raise UsageError(
            f"'{name}' cannot name a dataset.",
            why=DATASET_RULE,
            hint="Check the spelling: `droptune runs` shows the datasets' runs.",
            code="BadDatasetName",
        )
