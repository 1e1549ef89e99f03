"""Numbers that say how good a classifier is, from true and predicted class indices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

# Two-sided 95 % quantile of the normal distribution.
Z_95 = 1.959963984540054


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a share, after Wilson (1927), doi:10.1080/01621459.1927.10502953.

    Unlike the normal approximation it stays within 0 to 1 and holds for small samples. No sample, no
    knowledge: (0, 1).
    """
    if total == 0:
        return 0.0, 1.0
    share = right / total
    denominator = 1 + Z_95**2 / total
    centre = (share + Z_95**2 / (2 * total)) / denominator
    half = Z_95 * math.sqrt(share * (1 - share) / total + Z_95**2 / (4 * total**2)) / denominator
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion_matrix(true: Indices, predicted: Indices, classes: int) -> Indices:
    """Counts, classes x classes: row is the true class, column the predicted one."""
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)


def top_k_accuracy(true: Indices, probabilities: NDArray[np.float32], k: int) -> float:
    """Share of images, N, whose true class is among the `k` most probable of N x classes."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((best == true[:, None]).any(axis=1).mean())


def per_class(matrix: Indices, classes: list[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and number of images of each class, in the order of `classes`.

    A ratio without a denominator (a class that was never predicted, or has no image) is 0.
    """
    right = matrix.diagonal()
    predicted, images = matrix.sum(axis=0), matrix.sum(axis=1)
    return [
        {
            "label": label,
            "precision": _ratio(right[index], predicted[index]),
            "recall": _ratio(right[index], images[index]),
            "f1": _ratio(2 * right[index], predicted[index] + images[index]),
            "images": int(images[index]),
        }
        for index, label in enumerate(classes)
    ]


def _ratio(part: np.int64, whole: np.int64) -> float:
    return float(part / whole) if whole else 0.0


def macro_f1(rows: list[dict[str, Any]]) -> float:
    """Mean F1 over the classes that have images: each class counts alike, however small."""
    return float(np.mean([row["f1"] for row in rows if row["images"]]))


def confused_pairs(matrix: Indices, classes: list[str]) -> list[dict[str, Any]]:
    """Pairs of true and predicted class that were confused, most frequent first."""
    pairs = [
        {"true": classes[row], "predicted": classes[column], "count": int(matrix[row, column])}
        for row, column in np.argwhere(matrix)
        if row != column
    ]
    return sorted(pairs, key=lambda pair: (-pair["count"], pair["true"], pair["predicted"]))
