"""The versions of a dataset as they lie in the bucket: which there are, and what was written of each."""

import json
from collections import defaultdict
from typing import Any

from chalicelib import names, storage

SEAL, OBJECTS, DIFF, DECODE_MANIFEST = "seal.json", "objects.jsonl", "diff.json", "decode.manifest"
SPLITS, MANIFEST, DOCTOR, DOCTOR_PAGE = "splits.json", "manifest.jsonl", "doctor.json", "doctor.html"


def list_versions(dataset: str) -> dict[int, set[str]]:
    """The names of the files of each whole version, newest first.

    ``seal.json`` is written last: a number without it was claimed by a Settle that did not come to its end.
    """
    files = list_numbers(f"{names.VERSIONS_PREFIX}{dataset}/")
    return {version: files[version] for version in sorted(files, reverse=True) if {SEAL, OBJECTS} <= files[version]}


def list_numbers(prefix: str) -> dict[int, set[str]]:
    """The names of the files in each numbered folder below `prefix`."""
    files: defaultdict[int, set[str]] = defaultdict(set)
    for entry in storage.list_folder(prefix):
        number, _, name = entry["key"].partition("/")
        if number.isdecimal() and number.isascii() and name:
            files[int(number)].add(name)
    return dict(files)


def read_document(dataset: str, version: int, name: str) -> dict[str, Any] | None:
    """A JSON document of a version, or None when there is none."""
    body = storage.read(names.version_prefix(dataset, version) + name)
    if body is None:
        return None
    document: dict[str, Any] = json.loads(body)
    return document


def read_objects(dataset: str, version: int) -> dict[str, str]:
    """The ETag of each sealed object by its key relative to the dataset's folder; empty for an unknown version."""
    body = storage.read(names.version_prefix(dataset, version) + OBJECTS) or b""
    entries = (json.loads(line) for line in body.splitlines())
    return {entry["key"]: entry["etag"] for entry in entries}
