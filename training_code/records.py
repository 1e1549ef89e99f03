"""The files of a version, from the records of its base and of its own Decode."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import labels_files
from contract import JobError
from labels_files import LabelsFile
from prepared import RECORDS, existing, read_lines

# What belongs to all files of one content; a record for the manifest or for the page needs no more.
Record = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """A sealed version: its records (sorted by key, each with the `etag` of its source), labels files, diff.

    `decoded_blocks` are the blocks that this version's Decode wrote.
    """

    seal: dict[str, Any]
    diff: dict[str, Any]
    records: list[Record]
    labels: list[LabelsFile]
    decoded_blocks: frozenset[str]
    weights_sha256: str | None


def read_version(version: Path, decoded: Path, base: Path, labels_output: Path, location: str) -> Version:
    """Joins the sealed objects in `version` with the records of `base` (may be missing) and of `decoded`.

    A file whose key and ETag are the base's keeps the base's record. The labels files that the records name
    are copied to `labels_output`, since the next version may find them only there. `location` is the
    dataset's S3 address.
    Raises JobError `MissingInput` for an object without a record, and when a folder lacks a file.
    """
    seal = json.loads(existing(version / "seal.json").read_text("utf-8"))
    objects = read_lines(existing(version / "objects.jsonl"))
    etags = {found["key"]: found["etag"] for found in objects}
    old = _by_source(read_lines(existing(base / RECORDS)) if base.is_dir() else [])
    new = _by_source(record for file in _of_hosts(decoded, "records-*.jsonl") for record in read_lines(file))
    base_blocks = {record["block"] for found in old.values() for record in found if "block" in record}

    records: list[Record] = []
    labels: list[LabelsFile] = []
    for source, etag in sorted(etags.items()):
        reused = old.get(source, [])
        folder = base
        if not reused or reused[0]["etag"] != etag:
            reused, folder = new.get(source, []), decoded
        if not reused:
            raise JobError(
                "MissingInput",
                f"Neither Decode's records nor those of the base version know the file {source!r}.",
                "Run Decode and Prepare again for this version; the version itself is whole.",
            )
        for record in reused:
            kept = {**record, "etag": etag}
            if "labels" in record:
                content = existing(folder / record["labels"]).read_bytes()
                labels.append(labels_files.read(record["key"], record["source"], content, location))
                kept["labels"] = f"labels-{hashlib.sha256(content).hexdigest()}.txt"
                shutil.copyfile(folder / record["labels"], labels_output / kept["labels"])
            records.append(kept)
    records.sort(key=lambda record: record["key"])
    blocks = {record["block"] for record in records if "block" in record}
    diff = json.loads(existing(version / "diff.json").read_text("utf-8"))
    return Version(seal, diff, records, labels, frozenset(blocks - base_blocks), _weights(decoded))


def _by_source(records: Any) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[record["source"]].append(record)
    return found


def _of_hosts(decoded: Path, pattern: str) -> Sequence[Path]:
    files = sorted(decoded.glob(pattern))
    return files or [existing(decoded / pattern.replace("*", "algo-1"))]


def _weights(decoded: Path) -> str | None:
    """SHA-256 of the weights that the features come from, or None for random ones.

    Raises JobError `MissingInput` when the hosts of Decode used different ones.
    """
    files = _of_hosts(decoded, "decode-*.json")
    used: set[str | None] = {json.loads(file.read_text("utf-8"))["weights_sha256"] for file in files}
    if len(used) != 1:
        raise JobError(
            "MissingInput",
            "The hosts of Decode used different weights, so that their features do not fit together.",
            "Run Decode again while nobody changes the weights in the bucket.",
        )
    return used.pop()
