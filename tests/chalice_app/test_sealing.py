"""When a burst of uploads is over, and what identifies a version."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from chalicelib import sealing, times
from chalicelib.dataset_objects import hash_objects

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)


def ago(seconds: float) -> str:
    """The text of a time before `NOW`."""
    return times.to_text(NOW - timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("item", "wait"),
    [
        ({}, 0),
        ({"last_upload_at": ago(10), "first_upload_at": ago(30)}, 50),
        ({"last_upload_at": ago(60), "first_upload_at": ago(60)}, 0),
        ({"last_upload_at": ago(0), "first_upload_at": ago(890)}, 10),
        ({"last_upload_at": ago(0), "first_upload_at": ago(901)}, -1),
        ({"last_upload_at": ago(20)}, 40),
        ({"last_upload_at": ago(0), "first_upload_at": ago(0), "ready_at": ago(0)}, 0),
    ],
)
def test_how_long_a_run_waits(item: dict[str, Any], wait: float) -> None:
    assert sealing.seconds_to_wait(item, NOW, quiet_seconds=60, max_wait_seconds=900) == pytest.approx(wait)


def test_the_content_hash_is_that_of_the_contract() -> None:
    objects = [
        {"key": "datasets/x/a/1.jpg", "size": 3, "etag": "e1"},
        {"key": "datasets/x/b/2.jpg", "size": 4, "etag": "e2"},
    ]
    lines = "datasets/x/a/1.jpg\t3\te1\ndatasets/x/b/2.jpg\t4\te2\n"
    assert hash_objects(objects) == hashlib.sha256(lines.encode()).hexdigest()
    assert hash_objects([]) == hashlib.sha256(b"").hexdigest()


def test_times_survive_their_text() -> None:
    assert times.to_text(NOW) == "2026-11-22T14:00:00.000Z"
    assert times.from_text(times.to_text(NOW)) == NOW
