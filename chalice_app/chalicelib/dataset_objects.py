"""What a dataset's folder holds: its objects, and one hash over them."""

import hashlib
from collections.abc import Iterable
from typing import Any

from chalicelib import names, storage


def list_objects(dataset: str) -> list[dict[str, Any]]:
    """The dataset's data as ``{"key", "size", "etag"}``, keys relative to its folder, sorted by key."""
    return [entry for entry in storage.list_folder(names.dataset_prefix(dataset)) if names.is_data(entry["key"])]


def hash_objects(objects: Iterable[dict[str, Any]]) -> str:
    """SHA-256 (hex) over the lines ``key\\tsize\\tetag\\n`` of sorted objects."""
    digest = hashlib.sha256()
    for entry in objects:
        digest.update(f"{entry['key']}\t{entry['size']}\t{entry['etag']}\n".encode())
    return digest.hexdigest()
