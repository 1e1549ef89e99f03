"""Prepare, without images: every file's class is its folder; half of the first version's files are tested on."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from container import BASE, fail  # type: ignore[import-not-found]  # found beside the program

INPUTS, OUTPUTS = BASE / "processing/input", BASE / "processing/output"


def read_lines(*files: Path) -> list[dict[str, Any]]:
    """The documents of JSON Lines files, of those that exist."""
    return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]


def write_lines(file: Path, documents: list[dict[str, Any]]) -> None:
    """Write JSON Lines."""
    file.write_text("".join(json.dumps(document) + "\n" for document in documents))


if __name__ == "__main__":
    dataset, version = os.environ["DATASET"], int(os.environ["DATASET_VERSION"])
    objects = read_lines(INPUTS / "version/objects.jsonl")
    seal = json.loads((INPUTS / "version/seal.json").read_text())
    assert (seal["version"], seal["objects"]) == (version, len(objects))
    counts = Counter(entry["key"].split("/")[0] for entry in objects if "/" in entry["key"])
    if len(counts) < 2:
        fail("message", "TooFewClasses", f"Dataset '{dataset}' has one class, '{next(iter(counts))}'.")

    reused = {record["key"]: record for record in read_lines(INPUTS / "base/records.jsonl")}
    decoded = {record["key"]: record for record in read_lines(*sorted((INPUTS / "decoded").glob("records-*.jsonl")))}
    records = []
    for entry in objects:
        old = reused.get(entry["key"])
        record = old if old and old["etag"] == entry["etag"] else decoded[entry["key"]]
        records.append({**record, "etag": entry["etag"]})
        assert (INPUTS / f"features/{record['block']}.npy").is_file()
        assert (INPUTS / f"thumbnails/{record['block']}.zip").is_file()
    memory = INPUTS / "splits/splits.json"
    splits = json.loads(memory.read_text()) if memory.exists() else {}
    for place, record in enumerate(records):
        splits.setdefault(record["key"], "test" if place % 2 else "train")

    blocks = sorted({record["block"] for record in records})
    manifest = [{"prefix": os.environ["BLOCKS_URI"]}]
    manifest += [f"{kind}/{block}.npy" for kind in ("features", "squares") for block in blocks]  # type: ignore[misc]
    (OUTPUTS / "prepared/blocks.manifest").write_text(json.dumps(manifest))
    index = [{**record, "label": record["key"].split("/")[0], "split": splits[record["key"]]} for record in records]
    write_lines(OUTPUTS / "prepared/index.jsonl", index)
    write_lines(OUTPUTS / "prepared/records.jsonl", records)
    write_lines(OUTPUTS / "version/manifest.jsonl", index)
    (OUTPUTS / "version/splits.json").write_text(json.dumps(splits))
    new = len({record["key"] for record in records} & decoded.keys() - reused.keys())
    doctor = {
        "dataset": dataset,
        "version": version,
        "parent": seal["parent"],
        "images": len(records),
        "classes": {label: {"images": count, "train": count, "valid": 0, "test": 0} for label, count in counts.items()},
        "quarantined": [{"file": "cat/broken.jpg", "reason": "The file is cut off.", "hint": "Upload it again."}],
        "duplicates": [],
        "suspected_labels": [],
        "findings": [],
        "remarks": {},
        "decoded": new,
        "reused": len(records) - new,
    }
    (OUTPUTS / "version/doctor.json").write_text(json.dumps(doctor))
    (OUTPUTS / "version/doctor.html").write_text("<!doctype html><title>doctor</title>")
    summary = {"format": 2, "classes": sorted(counts), "counts": dict(counts), "environment": dict(os.environ)}
    (OUTPUTS / "prepared/summary.json").write_text(json.dumps(summary))
