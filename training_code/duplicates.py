"""Images that look the same: equal files, and files made from one picture by saving or scaling it again.

Candidates are the pairs whose perceptual hashes (pHash, 64 bits, by the ImageHash package) differ in few
bits. A hash of 64 bits confuses pictures of one composition (a coin of one cent and one of two), so that
the thumbnails decide: the Pearson correlation of their grey pixels. How both limits were chosen:
docs/decisions/0009-the-data-doctor.md.
"""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MAX_HASH_BITS = 10
MIN_CORRELATION = 0.96
# Side of the square on which thumbnails are compared.
COMPARED_PIXELS = 32
# Hashes are compared in tiles that fit a processor's cache: all pairs of 100,000 in about 6 s on one core.
TILE_ROWS, TILE_COLUMNS = 64, 8192


def look_the_same(
    contents: Sequence[str], hashes: NDArray[np.uint64], thumbnail: Callable[[int], bytes]
) -> NDArray[np.int64]:
    """The number of the group of each image, N; images that look the same share one.

    `contents` are SHA-256s, `hashes` perceptual hashes (both N), and `thumbnail` gives the JPEG of an image
    by its number; it is asked for candidates only.
    """
    _, first, inverse = np.unique(np.asarray(contents), return_index=True, return_inverse=True)
    group: NDArray[np.int64] = np.arange(len(first), dtype=np.int64)
    pixels: dict[int, NDArray[np.uint8]] = {}

    def compared(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        for number in numbers.tolist():
            if number not in pixels:
                pixels[number] = grey_pixels(thumbnail(int(first[number])))
        return _standardised(np.stack([pixels[number] for number in numbers.tolist()]))

    hashes = hashes[first]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Stripe by stripe, so that many copies of one picture make no list of all their pairs.
        for start in range(0, len(hashes), TILE_ROWS):
            left, right = _candidates(hashes, start, pool)
            apart = group[left] != group[right]
            left, right = left[apart], right[apart]
            if not len(left):
                continue
            rows, row_of = np.unique(left, return_inverse=True)
            columns, column_of = np.unique(right, return_inverse=True)
            same = (compared(rows) @ compared(columns).T)[row_of, column_of] >= MIN_CORRELATION
            group = _joined(group, left[same], right[same])
    return group[inverse]


def _candidates(
    hashes: NDArray[np.uint64], start: int, pool: ThreadPoolExecutor
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of near hashes: the rows of the stripe at `start`, each with a later image."""
    stripe = hashes[start : start + TILE_ROWS, None]

    def tile(column: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        bits = np.bitwise_count(stripe ^ hashes[None, column : column + TILE_COLUMNS])
        rows, columns = np.nonzero(bits <= MAX_HASH_BITS)
        rows, columns = rows + start, columns + column
        later = columns > rows
        return rows[later], columns[later]

    found = list(pool.map(tile, range(start, len(hashes), TILE_COLUMNS)))
    return np.concatenate([rows for rows, _ in found]), np.concatenate([columns for _, columns in found])


def _joined(group: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """The groups after those of `left` and `right` (pairs of images) have become one."""
    ones = np.ones(len(left), dtype=np.int8)
    graph = coo_array((ones, (group[left], group[right])), shape=(len(group), len(group)))
    _, number = connected_components(graph, directed=False)
    return np.asarray(number, dtype=np.int64)[group]


def grey_pixels(thumbnail: bytes) -> NDArray[np.uint8]:
    """A thumbnail as grey levels on a square, flat: `COMPARED_PIXELS`²."""
    with Image.open(io.BytesIO(thumbnail)) as image:
        square = image.convert("L").resize((COMPARED_PIXELS, COMPARED_PIXELS), Image.Resampling.BILINEAR)
    return np.asarray(square).ravel()


def _standardised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows of mean 0 and length 1, so that a product of two is their correlation; flat ones are all 0."""
    centred = pixels.astype(np.float32) - pixels.mean(axis=1, keepdims=True, dtype=np.float32)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(length, 1e-6), dtype=np.float32)


def several(groups: Sequence[int]) -> list[list[int]]:
    """The images (by number) of every group of two and more, in the order of their first image."""
    members: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        members[group].append(number)
    return [numbers for numbers in members.values() if len(numbers) > 1]
