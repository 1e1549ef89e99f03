"""What a dataset's folder holds: its objects, and one hash over them."""

import hashlib
from typing import Any

from chalicelib import config, names


def list_objects(dataset: str) -> list[dict[str, Any]]:
    """The dataset's data as ``{"key", "size", "etag"}``, sorted by key."""
    prefix = names.dataset_prefix(dataset)
    pages = config.client("s3").get_paginator("list_objects_v2").paginate(Bucket=config.bucket(), Prefix=prefix)
    return sorted(
        (
            {"key": entry["Key"], "size": entry["Size"], "etag": entry["ETag"].strip('"')}
            for page in pages
            for entry in page.get("Contents", [])
            if names.is_data(entry["Key"].removeprefix(prefix))
        ),
        key=lambda entry: str(entry["key"]),
    )


def hash_objects(objects: list[dict[str, Any]]) -> str:
    """SHA-256 (hex) over the lines ``key\\tsize\\tetag\\n`` of sorted objects."""
    digest = hashlib.sha256()
    for entry in objects:
        digest.update(f"{entry['key']}\t{entry['size']}\t{entry['etag']}\n".encode())
    return digest.hexdigest()
