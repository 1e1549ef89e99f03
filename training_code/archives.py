"""Unpack zip and tar archives that strangers may have made.

Nothing is written under a member's own name: files land as numbers in a fresh folder, so no name can lead
out of it. An archive with a member that tries to is refused whole all the same, for its maker had
something else in mind than photos. A member that is merely damaged costs that member alone, where the
format allows it (zip).

What a reader keeps in memory is bounded, as far as the libraries let us: the number of a zip's members is
read before its directory is, and a tar's members are forgotten as they pass. Headers can still make them
take a lot (`decoding.unpack` gives the whole a limit).
"""

from __future__ import annotations

import errno
import json
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
# As many as the memory that unpacking may take suffices for, with names of usual length.
MAX_MEMBERS = 100_000
MAX_UNPACKED_BYTES = 20 * 1024**3
# Of a file to decode; a larger member is named and not unpacked.
MAX_FILE_BYTES = 100 * 1024**2
# S3's own limit for keys, which count in bytes of UTF-8:
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
MAX_NAME_BYTES = 1024
CHUNK_BYTES = 1024 * 1024
# Photos hardly shrink in an archive; the best that deflate can do is 1,032:1. Small archives may do that.
MAX_RATIO = 200
RATIO_FREE_BYTES = 1024**3
MEMBERS = "members.jsonl"

# The end of a zip's central directory, plain and zip64, in APPNOTE.TXT 6.3.10, sections 4.3.14 to 4.3.16:
# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
END_OF_DIRECTORY = struct.Struct("<4s4H2LH")
END_SIGNATURE = b"PK\x05\x06"
ZIP64_LOCATOR = struct.Struct("<4sLQL")
ZIP64_LOCATOR_SIGNATURE = b"PK\x06\x07"
ZIP64_END = struct.Struct("<4sQ2H2L4Q")
ZIP64_END_SIGNATURE = b"PK\x06\x06"
MAX_COMMENT_BYTES = 2**16
SMALLEST_DIRECTORY_ENTRY = 46
# Bit 0 of a member's flags, section 4.4.4.
ENCRYPTED = 1


class BadArchive(ValueError):  # noqa: N818 - the file is bad; the program is not in error
    """An archive that is not unpacked. `unsafe` tells a member that would do harm from mere damage."""

    def __init__(self, reason: str, hint: str, unsafe: bool = False) -> None:
        super().__init__(f"{reason} {hint}")
        self.reason = reason
        self.hint = hint
        self.unsafe = unsafe


@dataclass(frozen=True)
class Member:
    """A regular file of an archive.

    `name` is relative and has slashes only; at `path` lies the content, unless the member is empty, larger
    than `MAX_FILE_BYTES`, or `is_damaged`. `is_repeated` tells that earlier members had the same name.
    """

    name: str
    path: Path
    size: int
    is_damaged: bool = False
    is_repeated: bool = False


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def readable(name: str) -> str:
    """A name as valid Unicode. Bytes that are not UTF-8, which Python keeps as surrogates, are read as Latin-1."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("latin-1")
    return name


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks all regular files of `archive` into `folder`, which is made or empty; `members` then lists them.

    Raises BadArchive, with nothing left in `folder`, for members with an absolute name or `..`, links and
    devices (`unsafe`), and for archives that are empty, encrypted, damaged, or beyond a limit. A MemoryError
    leaves what was unpacked so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / MEMBERS
    try:
        # Through the file, so that the library's own list of members is gone before this one is made.
        with listed.open("w", encoding="utf-8") as file:
            for member in _unpacked(archive, folder):
                file.write(json.dumps([member.name, member.path.name, member.size, member.is_damaged]) + "\n")
        lines: dict[str, str] = {}
        with listed.open(encoding="utf-8") as file:
            for line in file:
                name, *content = json.loads(line)
                # The last one counts, as with every program that unpacks.
                repeated = lines.pop(name, None) is not None
                lines[name] = json.dumps([*content, repeated])
        if not lines:
            raise BadArchive("The archive holds no files.", "Pack the class folders with the images in them.")
        with listed.open("w", encoding="utf-8") as file:
            file.writelines(f"[{json.dumps(name)}, {lines[name][1:]}\n" for name in sorted(lines))
    except BadArchive:
        _empty(folder)
        raise


def members(folder: Path) -> Iterator[Member]:
    """The members of the archive that was unpacked into `folder`, sorted by name."""
    with (folder / MEMBERS).open(encoding="utf-8") as file:
        for line in file:
            name, number, size, is_damaged, is_repeated = json.loads(line)
            yield Member(name, folder / number, size, is_damaged, is_repeated)


def _unpacked(archive: Path, folder: Path) -> Iterator[Member]:
    unpack_kind = _unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar
    try:
        yield from unpack_kind(archive, folder)
    except (BadArchive, MemoryError):
        raise
    # The libraries raise nearly anything on crafted bytes.
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.ENOMEM:
            raise MemoryError from error
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise BadArchive(
                "The archive's files do not fit onto the disk of the job.",
                "Split it into several archives, which are unpacked one after the other.",
            ) from error
        raise BadArchive(
            f"The archive cannot be unpacked ({error}).",
            "Pack the folders again as .zip without a password, or as .tar.gz.",
        ) from error


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _unpack_zip(archive: Path, folder: Path) -> Iterator[Member]:
    _check_directory(archive)
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        limits = _Limits(archive)
        for entry in entries:
            kind = stat.S_IFMT(entry.external_attr >> 16)
            # Zips written on Windows carry no Unix mode at all.
            limits.check(entry.filename, entry.file_size, is_plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if entry.flag_bits & ENCRYPTED:
                raise BadArchive(
                    f"The archive is encrypted (member {_shown(entry.filename)}).", "Pack it again without a password."
                )
        for number, entry in enumerate(entries):
            if entry.is_dir():
                continue
            target = folder / str(number)
            is_damaged = False
            if _is_wanted(entry.file_size):
                try:
                    with opened.open(entry) as source:
                        _copy(source, target)
                except (zipfile.BadZipFile, zlib.error, EOFError):
                    target.unlink(missing_ok=True)
                    is_damaged = True
            yield Member(_relative(entry.filename), target, entry.file_size, is_damaged)


def _check_directory(archive: Path) -> None:
    """Raises BadArchive if a zip announces too many members, or a directory that can hold too many."""
    with archive.open("rb") as file:
        size = archive.stat().st_size
        start = max(0, size - END_OF_DIRECTORY.size - MAX_COMMENT_BYTES)
        file.seek(start)
        tail = file.read()
        place = tail.rfind(END_SIGNATURE)
        if place < 0 or len(tail) - place < END_OF_DIRECTORY.size:
            return  # zipfile says what is wrong
        *_, count, length, _, _ = END_OF_DIRECTORY.unpack_from(tail, place)
        locator = tail[max(0, place - ZIP64_LOCATOR.size) : place]
        if locator.startswith(ZIP64_LOCATOR_SIGNATURE):
            file.seek(min(ZIP64_LOCATOR.unpack(locator)[2], size))
            record = file.read(ZIP64_END.size)
            if len(record) == ZIP64_END.size and record.startswith(ZIP64_END_SIGNATURE):
                *_, count, length, _ = ZIP64_END.unpack(record)
    # Both, since zipfile goes by the length and not by the count, which may lie.
    if count > MAX_MEMBERS or length > MAX_MEMBERS * (SMALLEST_DIRECTORY_ENTRY + MAX_NAME_BYTES):
        _refuse_size()


def _unpack_tar(archive: Path, folder: Path) -> Iterator[Member]:
    limits = _Limits(archive)
    with archive.open("rb") as file:
        # Named, not guessed by tarfile: a .tar that is .xz inside could ask for gigabytes of memory.
        compressed = file.read(2) == b"\x1f\x8b"
    number = 0
    with tarfile.open(archive, "r:gz" if compressed else "r:") as opened:
        # In one pass, as a .tar.gz can only be read from its start.
        while (entry := opened.next()) is not None:
            limits.check(entry.name, entry.size, is_plain=entry.isfile() or entry.isdir())
            if entry.isfile():
                target = folder / str(number)
                if _is_wanted(entry.size):
                    source = opened.extractfile(entry)
                    if source is None:
                        raise tarfile.ReadError(f"{entry.name} has no content")
                    with source:
                        _copy(source, target)
                yield Member(_relative(entry.name), target, entry.size)
                number += 1
            # tarfile keeps all members that it has seen.
            opened.members.clear()  # type: ignore[attr-defined]


class _Limits:
    """Counts the members of an archive as they are announced, before their content is read."""

    def __init__(self, archive: Path) -> None:
        self._members = 0
        self._bytes = 0
        self._most_bytes = min(MAX_UNPACKED_BYTES, max(RATIO_FREE_BYTES, MAX_RATIO * archive.stat().st_size))

    def check(self, name: str, size: int, is_plain: bool) -> None:
        """Raises BadArchive for a member that would do harm, or that is one too many."""
        path = PurePosixPath(name.replace("\\", "/"))
        drive = path.parts[0].endswith(":") if path.parts else False
        if path.is_absolute() or drive or ".." in path.parts:
            raise BadArchive(
                f"UnsafeArchive: the member {_shown(name)} would leave the archive's folder.",
                "Pack the class folders themselves, with relative names.",
                unsafe=True,
            )
        if not is_plain:
            raise BadArchive(
                f"UnsafeArchive: the member {_shown(name)} is a link or a device.",
                "Pack plain files only (for tar: --dereference).",
                unsafe=True,
            )
        if len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
            raise BadArchive(
                f"The archive has a member whose name is longer than {MAX_NAME_BYTES:,} bytes: {_shown(name)}.",
                "Give it a shorter name, or fewer folders around it, and pack again.",
            )
        self._members += 1
        self._bytes += size
        if self._members > MAX_MEMBERS or self._bytes > MAX_UNPACKED_BYTES:
            _refuse_size()
        if self._bytes > self._most_bytes:
            raise BadArchive(
                f"The archive would unpack to more than {MAX_RATIO} times its size, as no photos do.",
                "Pack the images themselves; if they are what they should be, upload the folders.",
            )


def _refuse_size() -> NoReturn:
    raise BadArchive(
        f"The archive is too large (limits: {MAX_MEMBERS:,} members, {MAX_UNPACKED_BYTES // 1024**3} GiB unpacked).",
        "Split it into several archives, or upload the folders themselves.",
    )


def _shown(name: str) -> str:
    name = readable(name)
    return repr(name if len(name) <= 100 else f"{name[:100]}…")


def _relative(name: str) -> str:
    parts = PurePosixPath(readable(name).replace("\\", "/")).parts
    if not parts:
        raise BadArchive("The archive has a member without a name.", "Pack the class folders again.")
    return "/".join(parts)


def _is_wanted(size: int) -> bool:
    return 0 < size <= MAX_FILE_BYTES


def _copy(source: IO[bytes], target: Path) -> None:
    # Neither library gives more bytes than the member has announced, which the limits were checked with.
    with target.open("wb") as file:
        while chunk := source.read(CHUNK_BYTES):
            file.write(chunk)
