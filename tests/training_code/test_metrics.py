"""Numbers, against values worked out elsewhere."""

import metrics
import numpy as np
import pytest

CLASSES = ["cat", "cow", "dog"]
TRUE = np.array([0, 0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 0, 2, 1, 0, 0])


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # From scipy.stats.binomtest(right, total).proportion_ci(method="wilson"); none for no sample.
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (5, 10, 0.2365931, 0.7634069),
        (81, 263, 0.2552885, 0.3662096),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(right: int, total: int, low: float, high: float) -> None:
    assert metrics.wilson_interval(right, total) == pytest.approx((low, high), abs=1e-6)


def test_confusion_matrix_and_what_follows_from_it() -> None:
    # GIVEN seven labelled images
    matrix = metrics.confusion_matrix(TRUE, PREDICTED, 3)
    assert matrix.tolist() == [[3, 0, 1], [1, 1, 0], [1, 0, 0]]

    # WHEN the classes are measured
    rows = {row["label"]: row for row in metrics.per_class(matrix, CLASSES)}

    # THEN the numbers are those counted by hand
    assert rows["cat"] == {"label": "cat", "precision": 0.6, "recall": 0.75, "f1": 6 / 9, "images": 4}
    assert rows["cow"] == {"label": "cow", "precision": 1.0, "recall": 0.5, "f1": 2 / 3, "images": 2}
    assert rows["dog"] == {"label": "dog", "precision": 0.0, "recall": 0.0, "f1": 0.0, "images": 1}
    assert metrics.macro_f1(list(rows.values())) == pytest.approx((6 / 9 + 2 / 3 + 0) / 3)


def test_class_without_images_is_left_out_of_the_mean() -> None:
    rows = metrics.per_class(np.array([[2, 0], [0, 0]]), ["cat", "cow"])
    assert rows[1] == {"label": "cow", "precision": 0.0, "recall": 0.0, "f1": 0.0, "images": 0}
    assert metrics.macro_f1(rows) == 1.0


def test_confused_pairs_are_sorted() -> None:
    matrix = metrics.confusion_matrix(TRUE, PREDICTED, 3)
    matrix[2, 0] = 5
    pairs = metrics.confused_pairs(matrix, CLASSES)
    assert pairs == [
        {"true": "dog", "predicted": "cat", "count": 5},
        {"true": "cat", "predicted": "dog", "count": 1},
        {"true": "cow", "predicted": "cat", "count": 1},
    ]


def test_top_k_accuracy() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], dtype=np.float32)
    true = np.array([0, 1, 2])
    assert metrics.top_k_accuracy(true, probabilities, 1) == pytest.approx(1 / 3)
    assert metrics.top_k_accuracy(true, probabilities, 2) == pytest.approx(2 / 3)
    assert metrics.top_k_accuracy(true, probabilities, 3) == 1.0
    assert metrics.top_k_accuracy(true, probabilities, 9) == 1.0
