"""What a dataset's files are: images of a class, files in the wrong place, files that were bad already.

Layouts: `<class>/<file>`, `(train|valid|test)/<class>/<file>`, both at once, labels files (`labels_files`),
and archives of any of these at the top. An archive may wrap everything in one folder of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import labels_files
from contract import JobError
from labels_files import Quarantined

SPLITS = labels_files.SPLITS
# One for each split.
MIN_IMAGES = 3

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

Record = dict[str, Any]


@dataclass(frozen=True)
class Image:
    """A usable image: its key, class, own split or None, and the SHA-256 (hex) of the file's content."""

    key: str
    label: str
    split: str | None
    sha256: str


@dataclass
class Listing:
    """Everything found in a dataset, sorted by key."""

    images: list[Image] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    ignored: int = 0
    unsafe_archives: list[str] = field(default_factory=list)
    # Labels files without a single usable row, which label nothing.
    unusable_labels: list[Quarantined] = field(default_factory=list)
    # Classes of files that should be images and are not.
    damaged_classes: set[str] = field(default_factory=set)

    @property
    def empty(self) -> bool:
        return not self.images and not self.quarantined


def read_listing(records: Sequence[Record], labels: Sequence[labels_files.LabelsFile]) -> Listing:
    """Gives each record of a version (docs/reference/contracts.md) its class and split, or a reason.

    `labels` are the version's labels files, read. Nothing is raised: what cannot be used is `quarantined`.
    """
    listing = Listing()
    files: list[Record] = []
    for record in records:
        if record.get("ignored"):
            listing.ignored += 1
        elif "labels" not in record:
            files.append(record)
    given = labels_files.assign(labels, [record["key"] for record in files])
    listing.quarantined += given.quarantined
    listing.unusable_labels += given.unusable
    wrapped = _wrapped_archives([record for record in records if not record.get("ignored")])
    for record in files:
        _add(listing, record, given, wrapped)
    listing.images.sort(key=lambda image: image.key)
    listing.quarantined.sort(key=lambda entry: entry.file)
    return listing


def _wrapped_archives(records: Iterable[Record]) -> set[str]:
    members: dict[str, list[PurePosixPath]] = defaultdict(list)
    for record in records:
        if record["key"] != record["source"]:
            members[record["source"]].append(_path_inside(record))
    return {source for source, names in members.items() if _is_wrapped(names)}


def _path_inside(record: Record) -> PurePosixPath:
    """The path in the record's archive, or, outside archives, in the dataset."""
    if record["key"] == record["source"]:
        return PurePosixPath(record["key"])
    return PurePosixPath(record["key"].removeprefix(f"{record['source']}/"))


def _is_wrapped(names: Iterable[PurePosixPath]) -> bool:
    """Whether one folder wraps the class folders: it is alone at the top, and most files lie deeper."""
    depths = Counter[int]()
    tops = set()
    for name in names:
        depths[len(name.parts)] += 1
        tops.add(name.parts[0])
    deep = sum(count for depth, count in depths.items() if depth >= 3)
    return len(tops) == 1 and not tops & set(SPLITS) and deep > depths.total() - deep


def _add(listing: Listing, record: Record, given: labels_files.Assigned, wrapped: set[str]) -> None:
    key, usable = record["key"], "block" in record
    place = given.labels.get(key)
    if place is None and not given.governs(record["source"]):
        parts = _path_inside(record).parts
        place = _place(parts[1:] if record["source"] in wrapped else parts)
    if not usable:
        listing.quarantined.append(Quarantined(key, record["reason"], record["hint"]))
        if record["unsafe"]:
            listing.unsafe_archives.append(key)
        if place and key.lower().endswith(IMAGE_SUFFIXES):
            listing.damaged_classes.add(place[0])
    elif key in given.contradicted:
        listing.quarantined.append(given.contradicted[key])
    elif place:
        listing.images.append(Image(key, place[0], place[1], record["sha256"]))
    elif given.governs(record["source"]):
        listing.quarantined.append(given.unnamed(record))
    else:
        listing.quarantined.append(
            Quarantined(
                key,
                "The file lies outside a class folder.",
                "Put it into <class>/, or train/<class>/, valid/<class>/, test/<class>/.",
            )
        )


def _place(parts: tuple[str, ...]) -> tuple[str, str | None] | None:
    """Class and split of a path below the dataset's or the archive's top folder."""
    if len(parts) == 2:
        return parts[0], None
    if len(parts) == 3 and parts[0] in SPLITS:
        return parts[1], parts[0]
    return None


def contradictions(images: Sequence[Image]) -> list[Quarantined]:
    """Images to leave out since another file of the same content (SHA-256) lies in another class.

    All files of such a content, for nobody knows which label is right.
    """
    by_content: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        by_content[image.sha256].append(image)
    found: list[Quarantined] = []
    for copies in by_content.values():
        if len({image.label for image in copies}) == 1:
            continue
        for image in copies:
            other = next(copy for copy in copies if copy.label != image.label)
            reason = f"The file shows the same image as {other.key}, which is in the class {other.label!r}."
            found.append(Quarantined(image.key, reason, "Keep it only in the class that it belongs to."))
    return found


def check_classes(dataset: str, listing: Listing, images: Sequence[Image]) -> list[str]:
    """The class names, sorted, of the `images` that remain of `listing`.

    Raises JobError: `EmptyDataset` (no file at all), `UnsafeArchive` (nothing but refused archives),
    `NoUsableImages`, `TooFewImages` (a class of images, each of them bad), `TooFewClasses`.
    """
    if listing.empty:
        raise JobError(
            "EmptyDataset",
            f"The dataset {dataset!r} is empty.",
            "Upload a folder of images for each class, or an archive of such folders.",
        )
    if not images:
        first = _most_telling(listing)
        raise JobError(
            "UnsafeArchive" if len(listing.unsafe_archives) == len(listing.quarantined) else "NoUsableImages",
            f"The dataset {dataset!r} has no usable image; {len(listing.quarantined)} files were left out, "
            f"the first is {first.file!r}: {first.reason}",
            first.hint,
        )
    classes = sorted({image.label for image in images})
    # A folder of notes is no class, but a class whose every photo is damaged must not vanish unsaid.
    for label in sorted(listing.damaged_classes | {image.label for image in listing.images}):
        if label not in classes:
            raise too_few(label, 0, MIN_IMAGES)
    if len(classes) < 2:
        cause = "".join(f" Its labels file {entry.file!r} labels nothing: {entry.reason}"
                        for entry in listing.unusable_labels[:1])  # fmt: skip
        raise JobError(
            "TooFewClasses",
            f"Dataset {dataset!r} has one class, {classes[0]!r}.{cause}",
            listing.unusable_labels[0].hint
            if cause
            else "Add a second folder of images: a classifier needs two classes at least.",
        )
    return classes


def _most_telling(listing: Listing) -> Quarantined:
    """The entry that explains the most: a labels file before the images that it should have labelled."""
    return (listing.unusable_labels or listing.quarantined)[0]


def too_few(label: str, usable: int, needed: int, detail: str = "") -> JobError:
    return JobError(
        "TooFewImages",
        f"The class {label!r} has too few usable images: {usable}{detail}. It needs {needed}, "
        "one for each of the splits train, valid and test that you did not sort yourself.",
        f"Add images of the class {label!r}, or take it out of the dataset.",
    )
