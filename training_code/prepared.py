"""The prepared data on disk: what Prepare writes and what Train and Evaluate read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contract import JobError
from numpy.typing import NDArray

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared data with its summary. Arrays are memory-mapped, so opening them is cheap."""

    folder: Path
    summary: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        return list(self.summary["classes"])

    def images(self, split: str) -> NDArray[np.uint8]:
        """Squares N x S x S x 3, RGB."""
        array: NDArray[np.uint8] = self._array("images", split)
        return array

    def labels(self, split: str) -> NDArray[np.int64]:
        """Indices into `classes`, N."""
        array: NDArray[np.int64] = self._array("labels", split)
        return array

    def features(self, split: str) -> NDArray[np.float32]:
        """Frozen features N x V x F; view 0 is the plain centre crop."""
        array: NDArray[np.float32] = self._array("features", split)
        return array

    def files(self, split: str) -> list[str]:
        """The images' keys, N."""
        names: list[str] = json.loads(_existing(self.folder / f"files-{split}.json").read_text("utf-8"))
        return names

    def _array(self, kind: str, split: str) -> Any:
        return np.load(_existing(self.folder / f"{kind}-{split}.npy"), mmap_mode="r", allow_pickle=False)


def open_prepared(folder: Path) -> Prepared:
    """Raises JobError `MissingInput` when the folder holds no prepared data."""
    text = _existing(folder / SUMMARY).read_text(encoding="utf-8")
    return Prepared(folder, json.loads(text))


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise JobError(
            "MissingInput",
            f"The prepared data lacks {file.name} (looked in {file.parent}).",
            "Run Prepare for this dataset version, and give the job its output folder as input.",
        )
    return file
