"""What a worker process does with one file or one archive. No torch: see `workers`."""

from __future__ import annotations

import contextlib
import errno
import importlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import archives
import facts
import images
import numpy as np
from numpy.typing import NDArray

# All workers may take that at the same time; what needs more gets `images.MAX_DECODING_BYTES`, one at a time.
USUAL_BYTES = 16 * 1024**2
# Address space beyond what decoding is reckoned to take: reading buffers, strips of pixels.
SLACK_BYTES = 32 * 1024**2
UNPACKING_BYTES = 80 * 1024**2


@dataclass(frozen=True)
class Decoded:
    """A usable image: its square S x S x 3, thumbnail (JPEG), pixels to hash, and facts for its record."""

    square: NDArray[np.uint8]
    thumbnail: bytes
    hashed_pixels: bytes
    facts: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """A file or an archive that is left out: why, and what to do about it."""

    reason: str
    hint: str
    unsafe: bool = False


def prepare_process() -> None:
    """Makes a new worker ready."""
    # Pebble's own handler runs only between two steps of Python, so a decoder that hangs would not hear of it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Now, not under a file's limit of memory.
    for plugin in ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP"):
        importlib.import_module(f"PIL.{plugin}ImagePlugin")


def decode(path: Path, size: int, allowance: int) -> Decoded | Refused:
    """One image file, in about `allowance` bytes of memory."""
    try:
        with path.open("rb") as file, limited_memory(allowance + SLACK_BYTES):
            picture = images.decode(file, size, allowance)
            scaled, small = picture.scaled(size), facts.small(picture)
            return Decoded(
                square=images.letterbox(scaled, size),
                thumbnail=facts.thumbnail(small),
                hashed_pixels=facts.hashed_pixels(small),
                facts=facts.of_picture(picture, scaled),
            )
    except images.BadImage as error:
        return Refused(error.reason, error.hint)
    except (images.NeedsMoreMemory, MemoryError):
        return Refused(
            f"The file takes more memory to decode than it may take ({allowance // 1024**2} MiB).",
            "Scale it down, or save it again as JPEG.",
        )


def unpack(archive: Path, folder: Path) -> Refused | None:
    """One archive into `folder`, where `archives.members` finds its files."""
    try:
        with limited_memory(UNPACKING_BYTES):
            archives.unpack(archive, folder)
    except archives.BadArchive as error:
        return Refused(error.reason, error.hint, error.unsafe)
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        return Refused(
            "The archive takes more memory to read than an archive may take.",
            "Pack the folders again, without unusual headers, or in several archives.",
        )
    return None


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Bounds this process's address space to what it has now and `more` bytes, where the system can (Linux).

    What asks for more gets a MemoryError, or the error that a C library makes of it.
    """
    if sys.platform != "linux":
        # macOS knows RLIMIT_AS and does not enforce it: what the headers announce is the limit there.
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    limit = used + more if before[1] == resource.RLIM_INFINITY else min(used + more, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
