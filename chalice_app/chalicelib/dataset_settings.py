"""``PUT /datasets/{name}/settings``: how long the uploads of one dataset are waited for."""

from typing import Any

from chalicelib import config, models, run_lock
from chalicelib.errors import InvalidParameter

FIELDS = ("quiet_seconds", "max_wait_seconds")
# While it waits, the workflow asks Settle every 5 seconds at about 10 events of its history each time, and Step
# Functions ends an execution at 25,000 (https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html).
MAX_SECONDS = 7200


def settings_of(item: dict[str, Any]) -> dict[str, int]:
    """What is set for the dataset alone; `item` is the dataset's record."""
    return {name: int(seconds) for name, seconds in item.get("settings", {}).items()}


def to_document(item: dict[str, Any]) -> dict[str, Any]:
    """The settings as the API shows them: null where the stack's own hold, which are ``defaults``."""
    own = settings_of(item)
    stack = config.run_config()
    return {name: own.get(name) for name in FIELDS} | {"defaults": {name: stack[name] for name in FIELDS}}


def change_settings(dataset: str, wanted: Any) -> dict[str, Any]:
    """Change the settings of `dataset`; the next Settle goes by them, that of a run under way included.

    Args:
        dataset: the dataset.
        wanted: ``quiet_seconds`` and ``max_wait_seconds``, whole numbers from 1 to `MAX_SECONDS`, or null for the
            stack's; what is left out stays as it is.

    Returns the settings. Raises InvalidParameter or UnknownDataset.
    """
    if not isinstance(wanted, dict) or not wanted or not set(wanted) <= set(FIELDS):
        raise InvalidParameter(
            "The body must be a JSON object with quiet_seconds, max_wait_seconds or both, and nothing else.",
            'Send for example {"quiet_seconds": 30, "max_wait_seconds": null}; null goes back to the stack\'s value.',
        )
    for name, seconds in wanted.items():
        # A bool is an int in Python, and none in JSON.
        whole = isinstance(seconds, int) and not isinstance(seconds, bool) and 1 <= seconds <= MAX_SECONDS
        if seconds is not None and not whole:
            raise InvalidParameter(
                f"{name} must be a whole number from 1 to {MAX_SECONDS}, or null.",
                "Give it in seconds; null goes back to the stack's value.",
            )
    models.require_known(dataset)
    kept = settings_of(run_lock.dataset_item(dataset)) | wanted
    answer = config.datasets_table().update_item(
        Key={"dataset": dataset},
        UpdateExpression="SET settings = :settings",
        ExpressionAttributeValues={
            ":settings": {name: seconds for name, seconds in kept.items() if seconds is not None}
        },
        ReturnValues="ALL_NEW",
    )
    return to_document(answer["Attributes"])
