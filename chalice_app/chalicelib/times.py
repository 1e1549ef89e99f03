"""Times: ISO 8601 in UTC with milliseconds and a ``Z`` in documents, aware datetimes in code."""

from datetime import UTC, datetime


def now() -> datetime:
    """The current time, in UTC."""
    return datetime.now(UTC)


def to_text(moment: datetime) -> str:
    """`moment` as ``2026-11-22T14:39:12.345Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """The time that `to_text` wrote."""
    return datetime.fromisoformat(text)
