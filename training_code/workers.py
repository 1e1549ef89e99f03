"""Worker processes that decode strangers' files: one that hangs, crashes or eats memory costs that file only.

Processes, not threads: a decoder that hangs can be killed, a crash ends nothing else, and memory has a limit
of its own. Spawned, not forked: the parent holds torch, which a forked child would drag along (and which
does not survive a fork once its threads run). A spawned worker imports the main script again under another
name, so the script that uses this module must import nothing heavy at its top.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import decoding
import images
from decoding import Decoded, Refused
from pebble import ProcessExpired, ProcessPool

# The one process that computes features is slower than these.
MOST_WORKERS = 32
# A hundred times what the slowest picture within the limits takes on a slow core.
DECODING_SECONDS = 20.0
# For 20 GiB at the speed of a slow disk.
UNPACKING_SECONDS = 1800.0
SMALLER_FILE = "Open it in an image program, save it as JPEG and upload it."
SMALLER_ARCHIVE = "Split it into several archives, or upload the folders themselves."


@dataclass(frozen=True)
class Started:
    """A file that a worker has been given."""

    path: Path
    size: int
    future: Future[Decoded | Refused]


class Workers:
    """As many processes as there are cores, which start while the caller goes on."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or min(cores(), MOST_WORKERS)
        self._pool = ProcessPool(
            max_workers=self.count,
            initializer=decoding.prepare_process,
            context=multiprocessing.get_context("spawn"),
        )
        self._started: list[Future[Decoded | Refused]] = []
        # Starts them; else the first file would.
        self._pool.schedule(os.getpid)

    def start_decoding(self, path: Path, size: int) -> Started:
        """Lets a worker decode a file for squares of `size` pixels."""
        future = self._decode(path, size, decoding.USUAL_BYTES)
        self._started = [*(one for one in self._started if not one.done()), future]
        return Started(path, size, future)

    def decoded(self, started: Started) -> Decoded | Refused:
        """Waits for what `start_decoding` has begun.

        What failed in the memory that several files may take at once is tried again with all that one may
        take, while no other is decoded. Not only what said so: a library that gets no memory may call the
        file damaged.
        """
        try:
            outcome = started.future.result()
            if isinstance(outcome, Decoded):
                return outcome
            wait(self._started)
            return self._decode(started.path, started.size, images.MAX_DECODING_BYTES).result()
        except TimeoutError:
            return Refused(f"The file takes longer than {DECODING_SECONDS:g} s to decode.", SMALLER_FILE)
        except ProcessExpired as error:
            return Refused(f"The file ended the process that decoded it ({_ending(error)}).", SMALLER_FILE)

    def unpack(self, archive: Path, folder: Path) -> Refused | None:
        """Unpacks an archive into the empty `folder`; `archives.members` then lists its files."""
        future = self._pool.schedule(decoding.unpack, args=(archive, folder), timeout=UNPACKING_SECONDS)
        try:
            return future.result()
        except TimeoutError:
            return Refused(f"The archive takes longer than {UNPACKING_SECONDS:g} s to unpack.", SMALLER_ARCHIVE)
        except ProcessExpired as error:
            return Refused(f"The archive ended the process that unpacked it ({_ending(error)}).", SMALLER_ARCHIVE)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # After an error what still waits is of no use to anybody.
        if kind is None:
            self._pool.close()  # type: ignore[no-untyped-call]
        else:
            self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    def _decode(self, path: Path, size: int, allowance: int) -> Future[Decoded | Refused]:
        return self._pool.schedule(decoding.decode, args=(path, size, allowance), timeout=DECODING_SECONDS)


def cores() -> int:
    """Processor cores that this process may use."""
    # A container's share of a machine shows here, and macOS does not know it.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ending(error: ProcessExpired) -> str:
    code = int(error.exitcode)
    return signal.Signals(-code).name if code < 0 else f"status {code}"
