"""The prepared data on disk: what Decode and Prepare write and what Train and Evaluate read.

Pixels and features lie in blocks, which later versions of a dataset share; a version is an index into them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from contract import JobError
from numpy.typing import NDArray

# Part of the S3 keys of everything prepared: raise it when pixels, features or files change their meaning.
FORMAT = 2
SUMMARY = "summary.json"
INDEX = "index.jsonl"
RECORDS = "records.jsonl"
# A mapped block holds a file descriptor, and a dataset of many small versions has more blocks than a process may open.
MAPPED_BLOCKS = 128
SQUARES, FEATURES, THUMBNAILS = "squares", "features", "thumbnails"


class Rows(Sequence[NDArray[np.uint8]]):
    """Squares N x S x S x 3 that stay in their blocks on disk until a row is asked for."""

    def __init__(self, blocks: list[Path], places: NDArray[np.int64]) -> None:
        """`places` is N x 2: which of `blocks`, and which row of it."""
        self._blocks = blocks
        self._places = places
        self._mapped = lru_cache(maxsize=MAPPED_BLOCKS)(_mapped)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        """One square for an integer; an array of squares for a slice, a list or an array of integers."""
        places = self._places[index]
        if places.ndim == 1:
            return np.array(self._mapped(self._blocks[places[0]])[places[1]])
        found = np.empty((len(places), *self._mapped(self._blocks[0]).shape[1:]), dtype=np.uint8)
        for number, (block, row) in enumerate(places):
            found[number] = self._mapped(self._blocks[block])[row]
        return found


@dataclass(frozen=True)
class Prepared:
    """A version's folder, the folder of blocks beside it, and the version's summary."""

    folder: Path
    blocks: Path
    summary: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        return list(self.summary["classes"])

    def images(self, split: str) -> Rows:
        """Squares N x S x S x 3, RGB uint8; read from disk row by row."""
        blocks, places = self._places(SQUARES, split)
        return Rows(blocks, places)

    def labels(self, split: str) -> NDArray[np.int64]:
        """Indices into `classes`, N."""
        number = {label: place for place, label in enumerate(self.classes)}
        return np.array([number[image["label"]] for image in self._split(split)], dtype=np.int64)

    def features(self, split: str) -> NDArray[np.float32]:
        """Frozen features N x V x F, in memory; view 0 is the plain image."""
        blocks, places = self._places(FEATURES, split)
        found = np.empty((len(places), *_mapped(blocks[0]).shape[1:]), dtype=np.float32)
        for number, block in enumerate(blocks):
            rows = places[:, 0] == number
            found[rows] = _mapped(block)[places[rows, 1]]
        return found

    def files(self, split: str) -> list[str]:
        """The images' keys, N."""
        return [image["key"] for image in self._split(split)]

    @cached_property
    def _index(self) -> list[dict[str, Any]]:
        return read_lines(existing(self.folder / INDEX))

    def _split(self, split: str) -> list[dict[str, Any]]:
        return [image for image in self._index if image["split"] == split]

    def _places(self, kind: str, split: str) -> tuple[list[Path], NDArray[np.int64]]:
        images = self._split(split)
        names = sorted({image["block"] for image in images})
        blocks = [existing(self.blocks / kind / f"{name}.npy") for name in names]
        number = {name: place for place, name in enumerate(names)}
        places = np.array([(number[image["block"]], image["row"]) for image in images], dtype=np.int64)
        return blocks, places.reshape(-1, 2)


def open_prepared(folder: Path, blocks: Path) -> Prepared:
    """Raises JobError `MissingInput` when `folder` holds no prepared version."""
    return Prepared(folder, blocks, json.loads(existing(folder / SUMMARY).read_text("utf-8")))


def _mapped(block: Path) -> NDArray[Any]:
    return np.load(block, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The documents of a JSON Lines file."""
    # Not splitlines(): a file name may hold U+2028, which JSON leaves as it is.
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


def write_lines(file: Path, documents: Sequence[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as opened:
        for document in documents:
            opened.write(json.dumps(document, ensure_ascii=False, sort_keys=True) + "\n")


def existing(file: Path) -> Path:
    """Raises JobError `MissingInput` when there is no such file."""
    if not file.is_file():
        raise JobError(
            "MissingInput",
            f"The prepared data lacks {file.name} (looked in {file.parent}).",
            "Run Decode and Prepare for this dataset version, and give the job their outputs as inputs.",
        )
    return file
