"""Prepare, without images: counts the files of each class folder."""

import json
import os

from container import BASE, fail  # type: ignore[import-not-found]  # found beside the program

if __name__ == "__main__":
    dataset = BASE / "processing/input/dataset"
    counts = {folder.name: len(list(folder.iterdir())) for folder in sorted(dataset.iterdir()) if folder.is_dir()}
    if len(counts) < 2:
        fail("message", "TooFewClasses", f"Dataset '{os.environ['DATASET']}' has one class, '{next(iter(counts))}'.")
    if not list((BASE / "processing/input/weights").iterdir()):
        fail("message", "WeightsMissing", "There are no weights.")
    summary = {"classes": list(counts), "counts": counts, "environment": dict(os.environ)}
    (BASE / "processing/output/prepared/summary.json").write_text(json.dumps(summary))
