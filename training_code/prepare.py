"""Prepare, the data doctor: from the records of what was dropped to a version that can be trained on.

Features
    - Joins what Decode found with what earlier versions knew (`records`), and finds each image's class and
      split: class folders, train/valid/test folders, labels files, archives of these (`dataset`).
    - Leaves out one content in two classes, and images that look the same in two splits (`duplicates`).
    - Splits by content, for good: no image ever moves from test to train (`splits`).
    - Suggests labels that may be wrong (`label_check`) and says what else is odd (`doctor`), on one page
      (`doctor_page`). Nothing but what is listed as quarantined is left out.
    - The same input and machine give the same bytes.

Trade-offs
    - All pairs of images are compared anew in each version: 6 s of one core for 100,000, which is less than
      keeping the groups of earlier versions right would cost in code.
    - No pixel is read but thumbnails, so that images that differ in detail below 96 pixels look the same.

Environment
    DATASET, DATASET_VERSION, BACKBONE, IMAGE_SIZE (default 224), SEED (default 0), BLOCKS_URI,
    SAGEMAKER_BASE_DIR.

Errors (JobError codes; see docs/reference/contracts.md)
    EmptyDataset, NoUsableImages, UnsafeArchive (nothing but refused archives), TooFewClasses, TooFewImages,
    MissingInput, InvalidHyperParameter (a bad environment variable), OutOfMemory, InternalError.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import block_reader
import contract
import dataset
import doctor
import doctor_page
import duplicates
import label_check
import numpy as np
import records
import splits
from labels_files import Quarantined
from numpy.typing import NDArray
from prepared import FEATURES, FORMAT, INDEX, RECORDS, SQUARES, SUMMARY, existing, write_lines

SMALLEST_IMAGE, LARGEST_IMAGE = 32, 1024
SPLITS_FILE = "splits.json"


@dataclass(frozen=True)
class Settings:
    """The job's parameters, read from the environment."""

    dataset: str
    version: int
    backbone: str
    image_size: int
    seed: int
    blocks_uri: str

    @property
    def location(self) -> str:
        """The dataset's S3 address, in the bucket that holds the blocks."""
        bucket = self.blocks_uri.removeprefix("s3://").partition("/")[0]
        return f"s3://{bucket}/datasets/{self.dataset}/"


def main() -> None:
    started = time.monotonic()
    settings = read_settings()
    prepared, version = contract.processing_output("prepared"), contract.processing_output("version")
    found = records.read_version(
        contract.processing_input("version"),
        contract.processing_input("decoded"),
        contract.processing_input("base"),
        prepared,
        settings.location,
    )
    record = {entry["key"]: entry for entry in found.records}
    listing = dataset.read_listing(found.records, found.labels)
    say(f"{len(listing.images)} usable images, {len(listing.quarantined)} problems.", started)

    thumbnails = block_reader.Thumbnails(contract.processing_input("thumbnails"))
    of_image = [record[image.key] for image in listing.images]
    groups = duplicates.look_the_same(
        [image.sha256 for image in listing.images],
        np.array([int(entry["phash"], 16) for entry in of_image], dtype=np.uint64),
        lambda number: thumbnails.read(of_image[number]),
    )
    same = duplicates.several(groups.tolist())
    say(f"{len(same)} groups of images that look the same.", started)

    left_out = dataset.contradictions(listing.images)
    kept = without(listing.images, left_out)
    classes = dataset.check_classes(settings.dataset, listing, [listing.images[number] for number in kept])
    memory = read_memory(contract.processing_input("splits"))
    splitting = splits.assign([listing.images[number] for number in kept], groups[kept].tolist(), memory, settings.seed)
    kept = [number for number in kept if listing.images[number].key in splitting.splits]
    left_out += splitting.left_out
    images = [listing.images[number] for number in kept]
    say(f"{len(images)} images in {len(classes)} classes, {len(left_out)} left out for what they equal.", started)

    suspected, wrong = check_labels(images, classes, groups[kept], record, settings.seed)
    say(f"{len(suspected)} doubtful labels, of which about {wrong} are wrong.", started)

    diagnosis = doctor.diagnose(
        doctor.Patient(
            version=found,
            image_size=settings.image_size,
            classes=classes,
            images=images,
            splits=splitting.splits,
            quarantined=sorted([*listing.quarantined, *left_out], key=lambda entry: entry.file),
            duplicates=[
                ([listing.images[number] for number in members], int(groups[members[0]]) in splitting.joined)
                for members in same
            ],
            suspected=suspected,
            wrong_labels=wrong,
        )
    )
    write_version(version, images, record, {**memory, **contents(images, splitting.splits)}, splitting.splits)
    write_json(version / "doctor.json", diagnosis)
    page = doctor_page.render(diagnosis, found.seal, found.diff, record, thumbnails.read)
    (version / "doctor.html").write_text(page, "utf-8")

    write_index(prepared, images, record, splitting.splits, settings.blocks_uri)
    write_lines(prepared / RECORDS, found.records)
    summary = {
        "format": FORMAT,
        "dataset": settings.dataset,
        "version": settings.version,
        "classes": classes,
        "backbone": settings.backbone,
        "image_size": settings.image_size,
        "feature_size": block_reader.feature_size(contract.processing_input(FEATURES), record[images[0].key]),
        "counts": count(images, classes, splitting.splits),
        "quarantined": diagnosis["quarantined"],
        "ignored": listing.ignored,
        "weights_sha256": found.weights_sha256,
        "seed": settings.seed,
    }
    # Last, so that a folder with a summary is a whole one.
    write_json(prepared / SUMMARY, summary)
    say(f"Done; {len(diagnosis['quarantined'])} entries in quarantine.", started)


def say(line: str, started: float) -> None:
    print(f"[{time.monotonic() - started:6.1f} s] {line}", flush=True)


def read_settings() -> Settings:
    return Settings(
        dataset=contract.environment_text("DATASET"),
        version=contract.environment_integer("DATASET_VERSION", 1, 10**9),
        backbone=contract.environment_text("BACKBONE"),
        image_size=contract.environment_integer("IMAGE_SIZE", SMALLEST_IMAGE, LARGEST_IMAGE, default=224),
        seed=contract.environment_integer("SEED", 0, 2**32 - 1, default=0),
        blocks_uri=contract.environment_text("BLOCKS_URI"),
    )


def read_memory(folder: Path) -> dict[str, str]:
    """The split of every content ever seen, by SHA-256; empty before the first version.

    Raises JobError `MissingInput` when the folder is there without the file.
    """
    if not folder.is_dir():
        return {}
    memory: dict[str, str] = json.loads(existing(folder / SPLITS_FILE).read_text("utf-8"))
    return memory


def without(images: Sequence[dataset.Image], left_out: Sequence[Quarantined]) -> list[int]:
    """The numbers of the images that are not `left_out`."""
    gone = {entry.file for entry in left_out}
    return [number for number, image in enumerate(images) if image.key not in gone]


def check_labels(
    images: Sequence[dataset.Image],
    classes: Sequence[str],
    groups: NDArray[np.int64],
    record: dict[str, dataset.Record],
    seed: int,
) -> tuple[list[dict[str, Any]], int]:
    """`suspected_labels` of doctor.json, and how many labels are wrong by estimate."""
    number = {label: place for place, label in enumerate(classes)}
    features = contract.processing_input(FEATURES)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=contract.processing_output("prepared").parent) as scratch:
        found, wrong = label_check.suspected_labels(
            lambda: block_reader.feature_batches(features, [record[image.key] for image in images]),
            np.array([number[image.label] for image in images], dtype=np.int64),
            groups,
            Path(scratch) / "answers.npy",
            seed,
        )
    suspected = [
        {
            "file": images[suspicion.image].key,
            "label": images[suspicion.image].label,
            "suggested": classes[suspicion.suggested],
            "score": suspicion.score,
            "rank": rank,
        }
        for rank, suspicion in enumerate(found, start=1)
    ]
    return suspected, wrong


def count(images: Sequence[dataset.Image], classes: Sequence[str], split: dict[str, str]) -> dict[str, dict[str, int]]:
    """Images by split and class."""
    counted = Counter((split[image.key], image.label) for image in images)
    return {name: {label: counted[name, label] for label in classes} for name in dataset.SPLITS}


def contents(images: Sequence[dataset.Image], split: dict[str, str]) -> dict[str, str]:
    return {image.sha256: split[image.key] for image in images}


def write_version(
    folder: Path,
    images: Sequence[dataset.Image],
    record: dict[str, dataset.Record],
    memory: dict[str, str],
    split: dict[str, str],
) -> None:
    """Writes the version's manifest and the memory of splits."""
    facts = ("etag", "size", "width", "height", "phash")
    write_lines(
        folder / "manifest.jsonl",
        [
            {
                "key": image.key,
                "sha256": image.sha256,
                "label": image.label,
                "split": split[image.key],
                **{name: record[image.key][name] for name in facts},
            }
            for image in images
        ],
    )
    write_json(folder / SPLITS_FILE, memory)


def write_index(
    folder: Path,
    images: Sequence[dataset.Image],
    record: dict[str, dataset.Record],
    split: dict[str, str],
    blocks_uri: str,
) -> None:
    """Writes where the images' pixels and features lie, and which blocks a job has to be given."""
    write_lines(
        folder / INDEX,
        [
            {
                "key": image.key,
                "label": image.label,
                "split": split[image.key],
                "sha256": image.sha256,
                "block": record[image.key]["block"],
                "row": record[image.key]["row"],
            }
            for image in images
        ],
    )
    blocks = sorted({record[image.key]["block"] for image in images})
    files = [f"{kind}/{block}.npy" for kind in (SQUARES, FEATURES) for block in blocks]
    write_json(folder / "blocks.manifest", [{"prefix": f"{blocks_uri.rstrip('/')}/"}, *files])


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(contract.run(main, contract.processing_failure_file()))
