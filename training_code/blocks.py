"""Write blocks: pixels, frozen features and thumbnails of at most 512 images, named after their content."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prepared import FEATURES, SQUARES, THUMBNAILS

MAX_ROWS = 512
# Entries carry no time of their own, so that the same thumbnails make the same file.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


class GrowingArray:
    """A .npy file that rows are appended to, so that they never lie in memory together."""

    def __init__(self, file: Path, dtype: type[np.generic], row_shape: tuple[int, ...]) -> None:
        self._dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self._rows = 0
        self._file = file.open("wb")
        self._file.write(self._header())

    def append(self, rows: NDArray[Any]) -> None:
        """Rows N x `row_shape`; raises ValueError for any other shape."""
        if rows.shape[1:] != self._row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]} do not fit into an array of {self._row_shape}")
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
        self._rows += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        # NumPy pads its header so that the number of rows can grow in place: the length stays.
        self._file.write(self._header())
        self._file.close()

    def discard(self) -> None:
        self._file.close()

    def _header(self) -> bytes:
        buffer = io.BytesIO()
        described = {
            "descr": self._dtype.str,
            "fortran_order": False,
            "shape": (self._rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(buffer, described)  # type: ignore[no-untyped-call]
        return buffer.getvalue()


class Block:
    """One block, written in a scratch folder and moved to its place when its name is known."""

    def __init__(self, scratch: Path, image_size: int, views: int, feature_size: int) -> None:
        self._digests: list[str] = []
        self._scratch = {
            SQUARES: scratch / "squares.npy",
            FEATURES: scratch / "features.npy",
            THUMBNAILS: scratch / "thumbnails.zip",
        }
        self._squares = GrowingArray(self._scratch[SQUARES], np.uint8, (image_size, image_size, 3))
        self._features = GrowingArray(self._scratch[FEATURES], np.float32, (views, feature_size))
        self._thumbnails = zipfile.ZipFile(self._scratch[THUMBNAILS], "w", zipfile.ZIP_STORED)

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, sha256: str, square: NDArray[np.uint8], thumbnail: bytes) -> int:
        """The row of a new image, square S x S x 3. Its features follow with `add_features`, in the same order."""
        row = len(self._digests)
        self._digests.append(sha256)
        self._squares.append(square[None])
        self._thumbnails.writestr(zipfile.ZipInfo(f"{row}.jpg", ZIP_EPOCH), thumbnail)
        return row

    def add_features(self, features: NDArray[np.float32]) -> None:
        """Frozen features N x V x F of the next N images."""
        self._features.append(features)

    def close(self, folder: Path) -> str:
        """Moves the block below `folder` and returns its name."""
        name = hashlib.sha256("".join(self._digests).encode("ascii")).hexdigest()[:32]
        self._squares.close()
        self._features.close()
        self._thumbnails.close()
        for kind, file in self._scratch.items():
            target = folder / kind / f"{name}{file.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        return name

    def discard(self) -> None:
        """Lets go of the files of a block that will not be closed; after `close` it does nothing."""
        self._squares.discard()
        self._features.discard()
        self._thumbnails.close()
