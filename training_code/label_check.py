"""Label mistakes, suggested by confident learning (Northcutt, Jiang and Chuang, 2021, arXiv:1911.00068).

A classifier is asked about images that it was not trained on; where it is sure of another class than the
given one, a person should look. cleanlab ranks the answers and estimates how many labels are wrong.

The classifier is ridge regression on the frozen features against one-hot labels: its folds come out of sums
that are gathered in one pass over the features, so that 100,000 images of 1,000 classes take little
time and hold in memory only what does not grow with the images. A temperature turns its answers into
probabilities (Guo et al., 2017, arXiv:1706.04599). Compared with logistic regression and discriminant
analysis: docs/decisions/0009-the-data-doctor.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

FOLDS = 10
# Ridge penalty as a multiple of the features' mean variance (times the images).
PENALTY = 10.0
# Of the images, at most: a longer list is read by nobody.
MOST_SUSPECTED = 0.1
TEMPERATURE_IMAGES = 20_000

# Gives, again each time it is called, the features batch by batch: image numbers B, features B x F.
Batches = Callable[[], Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]]


@dataclass(frozen=True)
class Suspicion:
    """An image's number, the class that the classifier sees, and the probability of the given label."""

    image: int
    suggested: int
    score: float


def suspected_labels(
    batches: Batches, labels: NDArray[np.int64], groups: NDArray[np.int64], scratch: Path, seed: int
) -> tuple[list[Suspicion], int]:
    """The most doubtful labels, worst first, and cleanlab's estimate of how many labels are wrong.

    `labels` are class numbers, N; images of one of `groups` (N) never vouch for each other. At most
    `MOST_SUSPECTED` of the images are returned, all of them such that the classifier sees another class.
    Its answers, N x classes, lie at `scratch` meanwhile, since they may exceed the memory.
    """
    # It brings scikit-learn along, whose import takes longer than most of this job.
    from cleanlab.experimental.label_issues_batched import LabelInspector

    classes = int(labels.max()) + 1
    folds = _folds(labels, groups, seed)
    answers = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        scratch, mode="w+", dtype=np.float32, shape=(len(labels), classes)
    )
    # Between counting images alike and counting classes alike: else rare classes are doubted for being rare.
    importance = 1 / np.sqrt(np.bincount(labels, minlength=classes))[labels]
    weights, means, offset = _ridge(batches, labels, importance, folds, classes)
    for numbers, features in batches():
        for fold in range(FOLDS):
            rows = folds[numbers] == fold
            answers[numbers[rows]] = (features[rows] - means[fold]) @ weights[fold] + offset[fold]

    temperature = _temperature(answers, labels, importance)
    inspector = LabelInspector(num_class=classes, verbose=False, n_jobs=1)
    blocks = [slice(start, start + 10_000) for start in range(0, len(labels), 10_000)]
    for block in blocks:
        inspector.update_confident_thresholds(labels[block], _probabilities(answers[block], temperature))
    score = np.empty(len(labels))
    for block in blocks:
        score[block] = inspector.score_label_quality(labels[block], _probabilities(answers[block], temperature))
    suggested = np.concatenate([answers[block].argmax(axis=1) for block in blocks])
    doubted = np.flatnonzero(suggested != labels)
    # Rounded before ranking, so that a last bit that differs between processors changes no order.
    rounded = score.round(4)
    worst = doubted[np.argsort(rounded[doubted], kind="stable")][: round(MOST_SUSPECTED * len(labels))]
    found = [Suspicion(int(image), int(suggested[image]), float(rounded[image])) for image in worst]
    return found, int(inspector.get_num_issues(silent=True))


def _folds(labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A fold for every image: groups whole, and each class spread evenly over the folds."""
    numbers, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    label = labels[first]
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(label[order], kind="stable")]
    fold = np.empty(len(numbers), dtype=np.int64)
    fold[order] = np.arange(len(order)) % FOLDS
    return np.asarray(fold[inverse], dtype=np.int64)


def _ridge(
    batches: Batches,
    labels: NDArray[np.int64],
    importance: NDArray[np.float64],
    folds: NDArray[np.int64],
    classes: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """For each fold, trained on the others: weights K x F x C, feature means K x F, class shares K x C.

    `importance` is the weight of each image, N.
    """
    size = next(features for _, features in batches()).shape[1]
    gram = np.zeros((FOLDS, size, size))
    by_class = np.zeros((FOLDS, classes, size))
    count = np.zeros((FOLDS, classes))
    np.add.at(count, (folds, labels), importance)
    for numbers, features in batches():
        for fold in range(FOLDS):
            rows = folds[numbers] == fold
            weighted = features[rows] * importance[numbers[rows], None].astype(np.float32)
            gram[fold] += weighted.T @ features[rows]
            np.add.at(by_class[fold], labels[numbers[rows]], weighted)
    weights = np.empty((FOLDS, size, classes), dtype=np.float32)
    means = np.empty((FOLDS, size), dtype=np.float32)
    shares = np.empty((FOLDS, classes), dtype=np.float32)
    all_gram, all_by_class, all_count = gram.sum(axis=0), by_class.sum(axis=0), count.sum(axis=0)
    for fold in range(FOLDS):
        sums, images = all_by_class - by_class[fold], all_count - count[fold]
        total = images.sum()
        mean, share = sums.sum(axis=0) / total, images / total
        covariance = all_gram - gram[fold]
        covariance -= total * np.outer(mean, mean)
        # The features' own sums as a floor: rounding leaves more than nothing of features that do not vary.
        spread = max(float(np.trace(covariance)), 1e-4 * float(np.trace(all_gram)), 1e-9)
        covariance[np.diag_indices(size)] += PENALTY * spread / size
        factor = cho_factor(covariance, overwrite_a=True, check_finite=False)
        weights[fold] = cho_solve(factor, sums.T - total * np.outer(mean, share), check_finite=False)
        means[fold], shares[fold] = mean, share
    return weights, means, shares


def _temperature(answers: NDArray[np.float32], labels: NDArray[np.int64], importance: NDArray[np.float64]) -> float:
    """The factor that makes the probabilities of the given labels most likely."""
    every = max(1, len(labels) // TEMPERATURE_IMAGES)
    sample, given, weight = np.asarray(answers[::every]), labels[::every], importance[::every]

    def loss(exponent: float) -> float:
        likelihood = log_softmax(sample * np.exp(exponent), axis=1)
        return -float(np.average(likelihood[np.arange(len(given)), given], weights=weight))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 6), method="bounded").x))


def _probabilities(answers: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    return np.asarray(softmax(answers * np.float32(temperature), axis=1), dtype=np.float32)
