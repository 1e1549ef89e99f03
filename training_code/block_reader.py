"""Read what the data doctor needs of blocks: frozen features in batches, thumbnails one by one."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prepared import existing

# Large enough for a matrix product to be fast, small enough (20 MB of 2,048 features) for any machine.
BATCH_IMAGES = 2048
# An open archive holds a file descriptor, and a process may have as few as 256.
OPEN_ARCHIVES = 32


class Thumbnails:
    """Thumbnails (JPEG) by block and row."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # The archives that fall out of the cache are closed as they are collected.
        self._opened = lru_cache(maxsize=OPEN_ARCHIVES)(self._open)

    def _open(self, block: str) -> zipfile.ZipFile:
        return zipfile.ZipFile(existing(self._folder / f"{block}.zip"))

    def read(self, record: dict[str, Any]) -> bytes:
        """Raises JobError `MissingInput` when there is no such block, KeyError when it lacks the row."""
        return self._opened(record["block"]).read(f"{record['row']}.jpg")


def feature_batches(
    folder: Path, records: Sequence[dict[str, Any]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Frozen features of the plain view of `records`: their numbers B, and the features B x F.

    The batches go block by block, so that each file is read once and only the batch is in memory.
    Raises JobError `MissingInput` when a block is not there.
    """
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, record in enumerate(records):
        places[record["block"]].append((record["row"], number))
    numbers: list[int] = []
    features: list[NDArray[np.float32]] = []
    for block in sorted(places):
        rows, found = zip(*sorted(places[block]), strict=True)
        views = np.load(existing(folder / f"{block}.npy"), mmap_mode="r", allow_pickle=False)
        features.append(np.asarray(views[list(rows), 0]))
        numbers += found
        if len(numbers) >= BATCH_IMAGES:
            yield np.array(numbers, dtype=np.int64), np.concatenate(features)
            numbers, features = [], []
    if numbers:
        yield np.array(numbers, dtype=np.int64), np.concatenate(features)


def feature_size(folder: Path, record: dict[str, Any]) -> int:
    """F of the block that `record` lies in."""
    views = np.load(existing(folder / f"{record['block']}.npy"), mmap_mode="r", allow_pickle=False)
    return int(views.shape[2])
