"""Feedback: what a person says about an image is kept, and listed newest first."""

import base64
import hashlib
import json
from typing import Any

import pytest

from tests.api.deployed import DATASET, Handler, System
from tests.api.test_predict import JSON, error_of

PHOTO = b"a photo of a dog"


def test_kept_and_listed(system: System) -> None:
    # GIVEN nothing said before, and three corrections: without an image, with one of the bucket, with its bytes
    for entry in system.s3.list_objects_v2(Bucket=system.bucket, Prefix=f"feedback/{DATASET}/").get("Contents", []):
        system.s3.delete_object(Bucket=system.bucket, Key=entry["Key"])
    key = system.put("predictions/uploads/dog", PHOTO)
    said: list[dict[str, Any]] = [
        {"label": "dog"},
        {"label": " dog ", "s3": key, "predicted": "cat", "model_version": 1},
        {"label": "Größe", "base64": base64.b64encode(PHOTO).decode(), "comment": "A new class?"},
    ]
    # WHEN they are sent
    answers = [system.api.post("/feedback", json={"dataset": DATASET, **each}) for each in said]
    assert [answer.status_code for answer in answers] == [201] * 3, answers[0].text
    entries = [answer.json() for answer in answers]
    # THEN each says what is kept
    digest = hashlib.sha256(PHOTO).hexdigest()
    assert [(entry["label"], entry["image"], entry["sha256"]) for entry in entries] == [
        ("dog", None, None),
        ("dog", key, digest),
        ("Größe", f"feedback/{DATASET}/images/{digest}", digest),
    ]
    kept = system.s3.get_object(Bucket=system.bucket, Key=f"feedback/{DATASET}/images/{digest}")["Body"].read()
    assert kept == PHOTO
    # AND the list gives them back, newest first, page by page
    first = system.api.get(f"/feedback/{DATASET}", params={"limit": 2}).json()
    rest = system.api.get(f"/feedback/{DATASET}", params={"limit": 2, "next": first["next"]}).json()
    assert first["feedback"] + rest["feedback"] == entries[::-1]
    assert rest["next"] is None
    # AND S3 holds JSON lines
    listing = system.s3.list_objects_v2(Bucket=system.bucket, Prefix=f"feedback/{DATASET}/entries/")["Contents"]
    body = system.s3.get_object(Bucket=system.bucket, Key=listing[0]["Key"])["Body"].read()
    assert json.loads(body) == entries[-1]
    assert body.endswith(b"\n")


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ({"dataset": DATASET}, 400, "InvalidParameter"),
        ({"dataset": DATASET, "label": " "}, 400, "InvalidParameter"),
        ({"dataset": DATASET, "label": "x" * 257}, 400, "InvalidParameter"),
        ({"dataset": DATASET, "label": "x", "base64": "?"}, 400, "InvalidParameter"),
        ({"dataset": DATASET, "label": "x", "s3": "runs/x"}, 400, "InvalidParameter"),
        ({"dataset": DATASET, "label": "x", "s3": "datasets/none"}, 404, "NotFound"),
        ({"dataset": "nobody", "label": "x"}, 404, "UnknownDataset"),
    ],
    ids=range(7),
)
def test_refusals(handler: Handler, document: dict[str, Any], status: int, code: str) -> None:
    assert error_of(handler("POST", "/feedback", json.dumps(document).encode(), JSON), status)["code"] == code


def test_lists_of_nothing(handler: Handler) -> None:
    assert error_of(handler("GET", "/feedback/nobody"), 404)["code"] == "UnknownDataset"
    assert error_of(handler("GET", f"/feedback/{DATASET}", query={"next": "Li4v"}), 400)["code"] == "InvalidParameter"
