"""What lies in a dataset folder: candidates for images, files in the wrong place, and the splits.

Layouts: `<class>/<file>`, `(train|valid|test)/<class>/<file>`, both at once, and archives of either at
the top. An archive may wrap everything in one folder of its own.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import archives
from contract import JobError

SPLITS = ("train", "valid", "test")
# Of each class without splits of its own: 60/20/20.
VALID_SHARE = TEST_SHARE = 0.2
# One for each split.
MIN_IMAGES = 3

IGNORED_NAMES = ("thumbs.db", "desktop.ini", "copyright", "license")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Quarantined:
    """A file that is left out: its key, why ("reason"), and what to do about it ("hint")."""

    file: str
    reason: str
    hint: str


@dataclass(frozen=True)
class Candidate:
    """A file that should be an image. `split` is None unless the user sorted it into one."""

    key: str
    path: Path
    label: str
    split: str | None


@dataclass
class Listing:
    """Everything found in a dataset folder, sorted by key."""

    candidates: list[Candidate] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    ignored: int = 0
    unsafe_archives: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Image:
    """A usable image: its key, class, own split or None, and the SHA-256 (hex) of the file's content."""

    key: str
    label: str
    split: str | None
    sha256: str


def is_ignored(name: str) -> bool:
    """Whether a file is none of the user's data: hidden files, folders' caches, credits."""
    parts = PurePosixPath(name).parts
    last = parts[-1].lower() if parts else ""
    hidden = any(part.startswith((".", "_")) for part in parts)
    return hidden or last in IGNORED_NAMES or last.startswith("readme")


def read_listing(folder: Path, scratch: Path) -> Listing:
    """Lists the dataset in `folder`; archives are unpacked below `scratch`, which must be empty.

    Bad archives and files outside a class folder become entries of `quarantined`; nothing is raised.
    """
    listing = Listing()
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        key = path.relative_to(folder).as_posix()
        if is_ignored(key):
            listing.ignored += 1
        elif "/" not in key and archives.is_archive(key):
            _add_archive(listing, key, path, scratch / str(len(list(scratch.iterdir()))))
        else:
            _add(listing, key, path, PurePosixPath(key).parts)
    listing.candidates.sort(key=lambda candidate: candidate.key)
    listing.quarantined.sort(key=lambda entry: entry.file)
    return listing


def _add_archive(listing: Listing, key: str, path: Path, scratch: Path) -> None:
    try:
        members = archives.unpack(path, scratch)
    except archives.BadArchive as error:
        listing.quarantined.append(Quarantined(key, error.reason, error.hint))
        if error.unsafe:
            listing.unsafe_archives.append(key)
        return
    names = [PurePosixPath(member.name.replace("\\", "/")) for member in members]
    kept = [(member, name) for member, name in zip(members, names, strict=True) if not is_ignored(name.as_posix())]
    listing.ignored += len(members) - len(kept)
    wrapped = _is_wrapped(name for _, name in kept)
    for member, name in kept:
        _add(listing, f"{key}/{name}", member.path, name.parts[1:] if wrapped else name.parts)


def _is_wrapped(names: Iterable[PurePosixPath]) -> bool:
    """Whether one folder wraps the class folders: it is alone at the top, and most files lie deeper."""
    depths = Counter[int]()
    tops = set()
    for name in names:
        depths[len(name.parts)] += 1
        tops.add(name.parts[0])
    deep = sum(count for depth, count in depths.items() if depth >= 3)
    return len(tops) == 1 and not tops & set(SPLITS) and deep > depths.total() - deep


def _add(listing: Listing, key: str, path: Path, parts: tuple[str, ...]) -> None:
    if archives.is_archive(key.rsplit("/", 1)[-1]):
        listing.quarantined.append(
            Quarantined(key, "The archive lies inside a folder.", "Upload it to the dataset's top folder.")
        )
    elif len(parts) == 2:
        listing.candidates.append(Candidate(key, path, label=parts[0], split=None))
    elif len(parts) == 3 and parts[0] in SPLITS:
        listing.candidates.append(Candidate(key, path, label=parts[1], split=parts[0]))
    else:
        listing.quarantined.append(
            Quarantined(
                key,
                "The file lies outside a class folder.",
                "Put it into <class>/, or train/<class>/, valid/<class>/, test/<class>/.",
            )
        )


def contradictions(images: list[Image]) -> list[Quarantined]:
    """Images to leave out, since another file of the same content (SHA-256) says otherwise.

    One content in two classes: all of its files, for nobody knows which label is right. One content in two
    splits that the user made: train keeps its file, then valid, then test, so that nothing is measured on
    what was learnt; a file outside the splits yields to all three. Copies in one place contradict nothing.
    """
    by_content: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        by_content[image.sha256].append(image)
    found: list[Quarantined] = []
    for copies in by_content.values():
        if len({image.label for image in copies}) > 1:
            found += [_in_two_classes(image, copies) for image in copies]
        elif len({image.split for image in copies}) > 1:
            kept = min(copies, key=lambda image: (_split_rank(image), image.key))
            found += [_in_two_splits(image, kept) for image in copies if _split_rank(image) > _split_rank(kept)]
    return found


def _split_rank(image: Image) -> int:
    return SPLITS.index(image.split) if image.split else len(SPLITS)


def _in_two_classes(image: Image, copies: list[Image]) -> Quarantined:
    other = next(copy for copy in copies if copy.label != image.label)
    return Quarantined(
        image.key,
        f"The same image is in the class {other.label!r} too ({other.key}).",
        "Keep it only in the class that it belongs to.",
    )


def _in_two_splits(image: Image, kept: Image) -> Quarantined:
    return Quarantined(
        image.key,
        f"The same image is in the split {kept.split!r} too ({kept.key}).",
        "Keep an image in one split only: accuracy means nothing on images that were trained on.",
    )


def check_classes(dataset: str, listing: Listing, images: list[Image]) -> list[str]:
    """The class names, sorted.

    Raises JobError: `EmptyDataset` (no file at all), `UnsafeArchive` (nothing but refused archives),
    `NoUsableImages`, `TooFewImages` (a folder of images, each of them bad), `TooFewClasses`.
    """
    if not listing.candidates and not listing.quarantined:
        raise JobError(
            "EmptyDataset",
            f"The dataset {dataset!r} is empty.",
            "Upload a folder of images for each class, or an archive of such folders.",
        )
    if not images:
        only_unsafe = listing.unsafe_archives and not listing.candidates
        first = listing.quarantined[0]
        raise JobError(
            "UnsafeArchive" if only_unsafe else "NoUsableImages",
            f"The dataset {dataset!r} has no usable image; {len(listing.quarantined)} files were left out, "
            f"the first is {first.file!r}: {first.reason}",
            first.hint,
        )
    classes = sorted({image.label for image in images})
    for candidate in listing.candidates:
        # A folder of notes is no class, but a class whose every photo is damaged must not vanish unsaid.
        if candidate.label not in classes and candidate.key.lower().endswith(IMAGE_SUFFIXES):
            raise _too_few(candidate.label, 0, MIN_IMAGES)
    if len(classes) < 2:
        raise JobError(
            "TooFewClasses",
            f"Dataset {dataset!r} has one class, {classes[0]!r}.",
            "Add a second folder of images: a classifier needs two classes at least.",
        )
    return classes


def _too_few(label: str, usable: int, needed: int, detail: str = "") -> JobError:
    return JobError(
        "TooFewImages",
        f"The class {label!r} has too few usable images: {usable}{detail}. It needs {needed}, "
        "one for each of the splits train, valid and test that you did not sort yourself.",
        f"Add images to the folder {label!r}, or remove the folder.",
    )


def assign_splits(images: list[Image], seed: int) -> dict[str, str]:
    """Split of every image by key, the same for the same files and seed.

    Images that the user sorted stay there. The others are split 60/20/20 per class in the order of the
    SHA-256 of seed and content, equal files together. If images were sorted and no `valid` (or no `test`)
    came of it, that split is cut from the sorted `train` in the same way.

    Raises JobError `TooFewImages` for a class that cannot appear in all of the splits to be made.
    """
    splits = {image.key: image.split for image in images if image.split}
    by_label: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        by_label[image.label].append(image)
    own = {image.split for image in images if image.split}
    for label, members in sorted(by_label.items()):
        unsorted = [image for image in members if image.split is None]
        splits |= _cut(label, unsorted, ["valid", "test"], seed)
        if own and (missing := [split for split in ("valid", "test") if split not in own]):
            splits |= _cut(label, [image for image in members if image.split == "train"], missing, seed)
        if not any(splits[image.key] == "train" for image in members):
            raise JobError(
                "TooFewImages",
                f"The class {label!r} has images to validate or test with, but none to train on.",
                f"Add images to train/{label}/.",
            )
    return splits


def _cut(label: str, images: list[Image], parts: list[str], seed: int) -> dict[str, str]:
    """Cuts the `parts` from one class's images; the rest is `train`. No images, no splits."""
    by_content: dict[str, list[str]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.key):
        by_content[hashlib.sha256(f"{seed}:{image.sha256}".encode()).hexdigest()].append(image.key)
    if not images:
        return {}
    ranked = [keys for _, keys in sorted(by_content.items())]
    if len(ranked) <= len(parts):
        copies = len(images) - len(ranked)
        detail = f" ({copies} of them copies of another)" if copies else ""
        raise _too_few(label, len(images), len(parts) + 1, detail)
    result: dict[str, str] = {}
    share = {"valid": VALID_SHARE, "test": TEST_SHARE}
    for part in parts:
        size = max(1, round(share[part] * len(by_content)))
        for keys in ranked[:size]:
            result |= dict.fromkeys(keys, part)
        ranked = ranked[size:]
    for keys in ranked:
        result |= dict.fromkeys(keys, "train")
    return result
