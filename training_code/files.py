"""The files of a dataset's folder and of the archives in it, in the order of their keys."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import archives

IGNORED_NAMES = ("thumbs.db", "desktop.ini", "copyright", "license")
LABELS_SUFFIXES = (".csv", ".manifest")
MAX_FILE_BYTES = archives.MAX_FILE_BYTES
DAMAGED_MEMBER = ("The file is damaged in the archive: it cannot be unpacked.", "Pack the folders again.")
REPEATED_NAME = "several members of this name, the last taken"


@dataclass(frozen=True)
class File:
    """A file: its key, the object it came from, where it lies, its bytes, and whether it may hold labels.

    `problem` is a reason and a hint when there is nothing to read; `remarks` are about its place.
    """

    key: str
    source: str
    path: Path
    size: int
    holds_labels: bool = False
    problem: tuple[str, str] | None = None
    remarks: tuple[str, ...] = ()


def is_ignored(key: str) -> bool:
    """Whether a file is none of the user's data: hidden files, folders' caches, credits."""
    parts = PurePosixPath(key).parts
    last = parts[-1].lower() if parts else ""
    hidden = any(part.startswith((".", "_")) for part in parts)
    return hidden or last in IGNORED_NAMES or last.startswith("readme")


def in_folder(folder: Path) -> list[File]:
    """All files below `folder`, sorted so that an archive stands where its members will."""
    found = []
    for directory, _, names in os.walk(folder):
        for name in names:
            path = Path(directory) / name
            if path.is_file():
                key = archives.readable(path.relative_to(folder).as_posix())
                found.append(_file(key, key, path, path.stat().st_size, is_top="/" not in key))
    return sorted(found, key=lambda file: f"{file.key}/" if is_archive(file) else file.key)


def in_archive(archive: File, folder: Path) -> Iterator[File]:
    """The members of an unpacked archive, sorted by key; `folder` is where it was unpacked to."""
    wrapped = _is_wrapped(member.name for member in archives.members(folder))
    for member in archives.members(folder):
        # Labels may lie beside the class folders, which may all lie in one folder of their own.
        is_top = member.name.count("/") == (1 if wrapped else 0)
        file = _file(f"{archive.key}/{member.name}", archive.source, member.path, member.size, is_top)
        yield dataclasses.replace(
            file,
            problem=DAMAGED_MEMBER if member.is_damaged else file.problem,
            remarks=(REPEATED_NAME,) if member.is_repeated else (),
        )


def is_archive(file: File) -> bool:
    """Whether the file is an archive that is to be unpacked: one at the top."""
    return "/" not in file.key and archives.is_archive(file.key) and not is_ignored(file.key)


def _file(key: str, source: str, path: Path, size: int, is_top: bool) -> File:
    holds_labels = is_top and key.lower().endswith(LABELS_SUFFIXES)
    return File(key, source, path, size, holds_labels, _problem(key, size))


def _problem(key: str, size: int) -> tuple[str, str] | None:
    if archives.is_archive(key):
        if "/" not in key:
            return None
        return "The archive lies inside a folder or another archive.", "Upload it to the dataset's top folder."
    if not size:
        return "The file is empty (0 bytes).", "Upload it again."
    if size > MAX_FILE_BYTES:
        return f"The file is too large ({size:,} bytes; the limit is {MAX_FILE_BYTES:,}).", "Scale it down."
    return None


def _is_wrapped(names: Iterable[str]) -> bool:
    """Whether all of an archive's files lie in one folder."""
    tops = Counter("/" in name and name.split("/", 1)[0] for name in names if not is_ignored(name))
    return len(tops) == 1 and False not in tops
