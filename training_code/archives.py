"""Unpack zip and tar archives that strangers may have made.

Nothing is written under a member's own name: files land as numbers in a fresh folder, so no name can lead
out of it. An archive with a member that tries to is refused whole all the same, for its maker had
something else in mind than photos.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_MEMBERS = 200_000
MAX_UNPACKED_BYTES = 20 * 1024**3
CHUNK_BYTES = 1024 * 1024


class BadArchive(ValueError):  # noqa: N818 - the file is bad; the program is not in error
    """An archive that is not unpacked. `unsafe` tells a member that would do harm from mere damage."""

    def __init__(self, reason: str, hint: str, unsafe: bool = False) -> None:
        super().__init__(f"{reason} {hint}")
        self.reason = reason
        self.hint = hint
        self.unsafe = unsafe


@dataclass(frozen=True)
class Member:
    """A regular file of an archive: the name inside (no wrapping folder cut off) and where it lies now."""

    name: str
    path: Path


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path) -> list[Member]:
    """Unpacks all regular files of `archive` into `folder` (made here), in the archive's order.

    Raises BadArchive, with nothing left in `folder`, for members with an absolute name or `..`, links and
    devices (`unsafe`), and for archives that are encrypted, damaged, or above `MAX_MEMBERS` or
    `MAX_UNPACKED_BYTES`.
    """
    folder.mkdir(parents=True)
    members: list[Member] = []
    try:
        unpacker = _unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar
        for name, path in unpacker(archive, folder):
            members.append(Member(name, path))
    except BadArchive:
        _empty(folder)
        raise
    # Encrypted zips raise RuntimeError, unknown compression methods NotImplementedError.
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        _empty(folder)
        raise BadArchive(
            f"The archive cannot be unpacked ({error}).",
            "Pack the folders again as .zip without a password, or as .tar.gz.",
        ) from error
    return members


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _unpack_zip(archive: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        total = 0
        for count, entry in enumerate(entries, start=1):
            kind = stat.S_IFMT(entry.external_attr >> 16)
            # Zips written on Windows carry no Unix mode at all.
            _check(entry.filename, is_plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            total += entry.file_size
            _check_limits(count, total)
        for number, entry in enumerate(entry for entry in entries if not entry.is_dir()):
            with opened.open(entry) as source:
                yield entry.filename, _copy(source, folder / str(number), entry.file_size)


def _unpack_tar(archive: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    with tarfile.open(archive) as opened:
        entries: list[tarfile.TarInfo] = []
        total = 0
        # Member by member, not getmembers(): that would read a decompression bomb to its end first.
        for entry in opened:
            entries.append(entry)
            _check(entry.name, is_plain=entry.isfile() or entry.isdir())
            total += entry.size
            _check_limits(len(entries), total)
        for number, entry in enumerate(entry for entry in entries if entry.isfile()):
            source = opened.extractfile(entry)
            if source is None:
                raise tarfile.ReadError(f"{entry.name} has no content")
            with source:
                yield entry.name, _copy(source, folder / str(number), entry.size)


def _check(name: str, is_plain: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    drive = path.parts[0].endswith(":") if path.parts else False
    if path.is_absolute() or drive or ".." in path.parts:
        raise BadArchive(
            f"UnsafeArchive: the member {name!r} would leave the archive's folder.",
            "Pack the class folders themselves, with relative names.",
            unsafe=True,
        )
    if not is_plain:
        raise BadArchive(
            f"UnsafeArchive: the member {name!r} is a link or a device.",
            "Pack plain files only (for tar: --dereference).",
            unsafe=True,
        )


def _check_limits(members: int, size: int) -> None:
    if members > MAX_MEMBERS or size > MAX_UNPACKED_BYTES:
        raise BadArchive(
            f"The archive is too large (limits: {MAX_MEMBERS:,} members, "
            f"{MAX_UNPACKED_BYTES // 1024**3} GiB unpacked).",
            "Split it into several archives, or upload the folders themselves.",
        )


def _copy(source: IO[bytes], target: Path, declared: int) -> Path:
    written = 0
    with target.open("wb") as file:
        while chunk := source.read(CHUNK_BYTES):
            written += len(chunk)
            # A zip's directory can lie about sizes; what it declared is what the limits were checked with.
            if written > declared:
                raise BadArchive(
                    "The archive is damaged: a member is larger than its directory says.",
                    "Pack the folders again.",
                )
            file.write(chunk)
    return target
