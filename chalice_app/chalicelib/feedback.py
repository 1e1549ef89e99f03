"""``POST /feedback`` and ``GET /feedback/{dataset}``: the right label of an image, as a person says.

Each entry is an object of one JSON line, so that nothing that was said is ever written over. Its key begins with the
time counted backwards, in which order S3 lists the newest first.
"""

import base64
import binascii
import hashlib
import json
import secrets
from typing import Any

from chalicelib import config, image_sources, models, names, storage, times
from chalicelib.errors import InvalidParameter
from chalicelib.queries import parse_count, read_token, write_token
from chalicelib.request_schemas import validated

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
# Milliseconds since 1970 have 13 digits until the year 2286.
LAST_MILLISECOND = 10**13 - 1


def give(given: Any) -> dict[str, Any]:
    """Keep what a person says about an image.

    Args:
        given: a ``FeedbackRequest`` of the OpenAPI document.

    Returns the entry. Raises InvalidParameter, UnknownDataset, NotFound, EmptyBody or ImageTooLarge.
    """
    request = validated(given, "FeedbackRequest")
    dataset = request["dataset"]
    models.require_known(dataset)
    if not request["label"].strip():
        raise InvalidParameter("label is empty.", "Say the right label of the image.")
    now = times.now()
    image, digest = _keep_image(dataset, request)
    entry = {
        "id": secrets.token_hex(8),
        "dataset": dataset,
        "label": request["label"].strip(),
        "predicted": request.get("predicted"),
        "model_version": request.get("model_version"),
        "image": image,
        "sha256": digest,
        "comment": request.get("comment"),
        "created_at": times.to_text(now),
    }
    backwards = LAST_MILLISECOND - int(now.timestamp() * 1000)
    key = f"{_entries(dataset)}{backwards:013d}-{entry['id']}.jsonl"
    storage.write(key, json.dumps(entry, ensure_ascii=False) + "\n", "application/x-ndjson")
    return entry


def list_entries(dataset: str, limit: str | None, after: str | None) -> dict[str, Any]:
    """A page of the dataset's entries, newest first. Raises InvalidParameter or UnknownDataset."""
    count = parse_count("limit", limit, default=DEFAULT_LIMIT, highest=MAX_LIMIT)
    position = read_token(after, str)
    models.require_known(dataset)
    prefix = _entries(dataset)
    if position is not None and ("/" in position or not position.isprintable()):
        raise InvalidParameter("next is no token that a page ended with.", "Leave next out for the first page.")
    page = config.client("s3").list_objects_v2(
        Bucket=config.bucket(), Prefix=prefix, MaxKeys=count, StartAfter=prefix + (position or "")
    )
    keys = [entry["Key"] for entry in page.get("Contents", [])]
    entries = [json.loads(body) for key in keys if (body := storage.read(key)) is not None]
    last = keys[-1].removeprefix(prefix) if keys and page["IsTruncated"] else None
    return {"feedback": entries, "next": last and write_token(last)}


def _entries(dataset: str) -> str:
    return f"{names.FEEDBACK_PREFIX}{dataset}/entries/"


def _keep_image(dataset: str, request: dict[str, Any]) -> tuple[str | None, str | None]:
    """Where the image lies and its SHA-256; an image that came as bytes is kept beside the entries."""
    if "s3" in request:
        key = image_sources.object_key(request["s3"])
        return key, hashlib.sha256(image_sources.read_object(key)).hexdigest()
    if "base64" not in request:
        return None, None
    try:
        body = base64.b64decode(request["base64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter("The member base64 is not base64.", "Encode the bytes of the image.") from error
    digest = hashlib.sha256(image_sources.checked_size(body)).hexdigest()
    key = f"{names.FEEDBACK_PREFIX}{dataset}/images/{digest}"
    config.client("s3").put_object(Bucket=config.bucket(), Key=key, Body=body, ContentType="application/octet-stream")
    return key, digest
