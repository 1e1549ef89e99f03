"""Filters, order and pages of the List operations."""

import base64
import binascii
import datetime
import json
from collections.abc import Callable
from typing import Any

from botocore.utils import parse_to_aware_datetime

from droptune.local_cloud.sagemaker.errors import ValidationException

Document = dict[str, Any]

_DEFAULT_PAGE = 10  # SageMaker's own, for every List operation


def list_page(
    documents: list[Document],
    request: dict[str, Any],
    *,
    name: str,
    status: str | None = None,
    sort_keys: dict[str, Callable[[Document], Any]] | None = None,
    default_sort: str = "CreationTime",
    default_order: str = "Descending",
) -> tuple[list[Document], str | None]:
    """The page that the request asks for, and the token of the next one (None on the last page).

    Understands NameContains, StatusEquals, CreationTimeAfter/Before, LastModifiedTimeAfter/Before,
    SortBy (Name, Status, CreationTime, LastModifiedTime and what `sort_keys` adds), SortOrder,
    MaxResults and NextToken. `name` and `status` are the documents' members of that meaning; the
    documents come in the order of their creation.

    Raises:
        ValidationException: the token is none of ours, or SortBy is unknown.
    """
    chosen = [document for document in documents if _matches(document, request, name, status)]
    keys: dict[str, Callable[[Document], Any]] = {
        "Name": lambda document: document[name],
        "CreationTime": lambda document: document["CreationTime"],
        "LastModifiedTime": lambda document: document.get("LastModifiedTime", document["CreationTime"]),
        **(sort_keys or {}),
    }
    if status is not None:
        keys["Status"] = lambda document: document[status]
    sort_by = request.get("SortBy", default_sort)
    if sort_by not in keys:
        raise ValidationException(f"SortBy {sort_by} is not supported here. Choose one of {sorted(keys)}.")
    # Creation order breaks ties, in both directions: a page must not show a document twice.
    ordered = sorted(
        enumerate(chosen),
        key=lambda pair: (keys[sort_by](pair[1]), pair[0]),
        reverse=request.get("SortOrder", default_order) == "Descending",
    )
    start = _decode(request["NextToken"]) if request.get("NextToken") else 0
    end = start + request.get("MaxResults", _DEFAULT_PAGE)
    page = [document for _, document in ordered[start:end]]
    return page, _encode(end) if end < len(ordered) else None


def _matches(document: Document, request: dict[str, Any], name: str, status: str | None) -> bool:
    if (part := request.get("NameContains")) and part.lower() not in document[name].lower():
        return False
    if status is not None and "StatusEquals" in request and document[status] != request["StatusEquals"]:
        return False
    for member in ("CreationTime", "LastModifiedTime"):
        moment: float = document[member] if member in document else document["CreationTime"]
        if f"{member}After" in request and moment <= epoch(request[f"{member}After"]):
            return False
        if f"{member}Before" in request and moment >= epoch(request[f"{member}Before"]):
            return False
    return True


def epoch(value: Any) -> float:
    """A point in time of a request (epoch seconds, ISO text) as epoch seconds."""
    moment: datetime.datetime = parse_to_aware_datetime(value)
    return moment.timestamp()


def _encode(offset: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"offset": offset}).encode()).decode()


def _decode(token: str) -> int:
    try:
        return int(json.loads(base64.urlsafe_b64decode(token.encode()))["offset"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise ValidationException("The NextToken is invalid. Start again without it.") from error
