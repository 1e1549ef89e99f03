"""What the data doctor says about a version: doctor.json, with its findings in plain words.

A finding changes nothing: only what is listed as quarantined is left out of the training. The limits are
set so that the example photos bring few findings, and true ones (docs/decisions/0009-the-data-doctor.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dataset import SPLITS, Image, Record
from labels_files import Quarantined
from records import Version

WARNING, NOTE = "warning", "note"
# Of the largest class to the smallest.
MOST_IMBALANCE = 10
# Below, a fifth for the test is one or two images.
SMALL_CLASS = 10
# Longer to shorter side: then the picture fills less than a quarter of the square that the network sees.
MOST_UNUSUAL_SHAPE = 4
# On Decode's scales of 0 to 1 (`facts.of_picture`).
LEAST_CONTRAST = 0.08
DARKEST, BRIGHTEST = 0.05, 0.96
LEAST_SATURATION = 0.02
# Of all images; more greyscale ones than this are no exception, but the user's choice.
FEW = 0.1
# Of the labels, by cleanlab's estimate.
MANY_WRONG = 0.05
MOST_NAMES = 5


@dataclass(frozen=True)
class Patient:
    """Everything that is known of a version when it is examined.

    `duplicates` are groups of images that look the same, each with whether it lay in two splits; `images`
    those that are used, `splits` theirs by key; `wrong_labels` an estimate.
    """

    version: Version
    image_size: int
    classes: Sequence[str]
    images: Sequence[Image]
    splits: Mapping[str, str]
    quarantined: Sequence[Quarantined]
    duplicates: Sequence[tuple[Sequence[Image], bool]]
    suspected: Sequence[dict[str, Any]]
    wrong_labels: int


def diagnose(patient: Patient) -> dict[str, Any]:
    """doctor.json of docs/reference/contracts.md."""
    seal = patient.version.seal
    places = Counter((image.label, patient.splits[image.key]) for image in patient.images)
    sizes = Counter(image.label for image in patient.images)
    used = {image.key for image in patient.images}
    usable = [record for record in patient.version.records if "block" in record]
    decoded = sum(record["block"] in patient.version.decoded_blocks for record in usable)
    return {
        "dataset": seal["dataset"],
        "version": seal["version"],
        "parent": seal["parent"],
        "images": len(patient.images),
        "classes": {
            label: {"images": sizes[label], **{split: places[label, split] for split in SPLITS}}
            for label in patient.classes
        },
        "quarantined": [asdict(entry) for entry in patient.quarantined],
        "duplicates": [
            {
                "files": [image.key for image in members],
                "kind": "exact" if len({image.sha256 for image in members}) == 1 else "near",
                "splits_joined": joined,
            }
            for members, joined in patient.duplicates
        ],
        "suspected_labels": list(patient.suspected),
        "findings": [
            *_about_lists(patient, used),
            *_about_classes(sizes, places),
            *_about_pictures([record for record in usable if record["key"] in used], patient.image_size),
        ],
        "remarks": dict(sorted(Counter(remark for record in usable for remark in record["remarks"]).items())),
        "decoded": decoded,
        "reused": len(usable) - decoded,
    }


def _finding(code: str, severity: str, message: str, hint: str, files: Sequence[str] = ()) -> dict[str, Any]:
    return {"code": code, "severity": severity, "message": message, "hint": hint, "files": list(files)}


def counted(number: int, one: str, many: str = "") -> str:
    """`1 image`, `1,200 images`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:MOST_NAMES])
    return f"{shown} and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else shown


def _about_lists(patient: Patient, used: set[str]) -> Iterator[dict[str, Any]]:
    if patient.quarantined:
        files = sorted({entry.file for entry in patient.quarantined})
        yield _finding(
            "Quarantined",
            WARNING,
            f"{counted(len(files), 'file')} could not be used as uploaded.",
            "Each is listed with the reason and what to do. They lie untouched where you uploaded them.",
            files,
        )
    if patient.duplicates:
        joined = sum(joined for _, joined in patient.duplicates)
        files = sorted(image.key for members, _ in patient.duplicates for image in members)
        leaks = (
            f" {counted(joined, 'group')} lay in two splits: of these only one split's images are used."
            if joined
            else " Each group lies in one split, so that nothing is tested on what was learnt."
        )
        yield _finding(
            "Duplicates",
            WARNING if joined else NOTE,
            f"{counted(len(files), 'image')} look the same as another, in {counted(len(patient.duplicates), 'group')}."
            f"{leaks}",
            "Copies teach nothing new and make a class look larger than it is: remove those that you do not need.",
            files,
        )
    if patient.suspected:
        many = patient.wrong_labels > MANY_WRONG * len(used)
        doubtful = counted(len(patient.suspected), "label looks", "labels look")
        yield _finding(
            "SuspectedLabels",
            WARNING if many else NOTE,
            f"{doubtful} doubtful; by estimate about {patient.wrong_labels:,} of all {len(used):,} are wrong.",
            "Look at them from the top, and move those that are wrong to the right class. Nothing was changed.",
            [suspicion["file"] for suspicion in patient.suspected],
        )


def _about_classes(sizes: Counter[str], places: Counter[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    ranked = sorted(sizes, key=lambda label: (sizes[label], label))
    smallest, largest = ranked[0], ranked[-1]
    if sizes[largest] > MOST_IMBALANCE * sizes[smallest]:
        yield _finding(
            "ClassImbalance",
            WARNING,
            f"The class {largest!r} has {counted(sizes[largest], 'image')}, {smallest!r} only {sizes[smallest]:,}. "
            "The model will name the large class too often.",
            f"Add images of {smallest!r} and of other small classes first.",
        )
    small = [label for label in ranked if sizes[label] < SMALL_CLASS]
    if small:
        yield _finding(
            "SmallClass",
            WARNING,
            f"{counted(len(small), 'class has', 'classes have')} fewer than {SMALL_CLASS} images: {_named(small)}. "
            "With one or two test images each, their share of right answers says little.",
            "Add images of these classes.",
        )
    untested = [label for label in ranked if not all(places[label, split] for split in SPLITS)]
    if untested:
        yield _finding(
            "SmallClass",
            WARNING,
            f"{counted(len(untested), 'class is', 'classes are')} missing in a split: {_named(untested)}. "
            "How well the model does there is not measured.",
            "Add images of these classes: new ones go to the split that lacks most.",
        )


def _about_pictures(records: Sequence[Record], image_size: int) -> Iterator[dict[str, Any]]:
    def those(is_odd: Callable[[Record], bool]) -> list[str]:
        return [record["key"] for record in records if is_odd(record)]

    def some(files: Sequence[str], one: str, many: str) -> str:
        return f"{len(files):,} of {len(records):,} images {one if len(files) == 1 else many}"

    if files := those(lambda record: 2 * max(record["width"], record["height"]) < image_size):
        yield _finding(
            "LowResolution",
            WARNING if len(files) > FEW * len(records) else NOTE,
            f"{some(files, 'has', 'have')} to be enlarged more than twice for the network's {image_size} pixels.",
            "Upload larger ones if you have them. If the images that you will classify are as small, all is well.",
            files,
        )
    if files := those(lambda record: _elongation(record) > MOST_UNUSUAL_SHAPE):
        yield _finding(
            "UnusualShape",
            NOTE,
            f"{some(files, 'is', 'are')} more than {MOST_UNUSUAL_SHAPE} times as long as wide.",
            "The network sees whole pictures on a square, so that little is left of these: crop them to the thing.",
            files,
        )
    blank = those(lambda record: record["contrast"] < LEAST_CONTRAST)
    if blank:
        yield _finding(
            "NearlyBlank",
            WARNING,
            f"{some(blank, 'shows', 'show')} nearly nothing: hardly any contrast.",
            "Look at them, and replace those that are empty.",
            blank,
        )
    for code, word, is_odd in (
        ("TooDark", "dark", lambda record: record["brightness"] < DARKEST),
        ("TooBright", "bright", lambda record: record["brightness"] > BRIGHTEST),
    ):
        if files := [key for key in those(is_odd) if key not in blank]:
            yield _finding(
                code,
                NOTE,
                f"{some(files, 'is', 'are')} very {word}.",
                "Look whether a person can still tell what they show, and replace the others.",
                files,
            )
    grey = those(lambda record: record["saturation"] < LEAST_SATURATION)
    if 0 < len(grey) <= FEW * len(records):
        yield _finding(
            "MixedColour",
            NOTE,
            f"{some(grey, 'has', 'have')} no colour, while the others do.",
            "If they belong to a few classes, the model may take grey for what these classes look like: "
            "add grey images of the others, or coloured ones of these.",
            grey,
        )


def _elongation(record: Record) -> float:
    sides = sorted((record["width"], record["height"]))
    return float(sides[1] / sides[0])
