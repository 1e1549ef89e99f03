"""Splits: proportions, groups, the user's own, and that no image ever moves."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Mapping

import pytest
import splits
from contract import JobError
from dataset import SPLITS, Image

Memory = Mapping[str, str]


def photos(label: str, count: int, split: str | None = None, first: int = 0) -> list[Image]:
    return [
        Image(
            key=f"{split or ''}/{label}/{number}.jpg",
            label=label,
            split=split,
            sha256=hashlib.sha256(f"{label}{number}".encode()).hexdigest(),
        )
        for number in range(first, first + count)
    ]


def by_content(images: list[Image]) -> list[int]:
    contents = sorted({image.sha256 for image in images})
    return [contents.index(image.sha256) for image in images]


def assign(
    images: list[Image], groups: list[int] | None = None, memory: Memory | None = None, seed: int = 0
) -> splits.Splitting:
    return splits.assign(images, groups or by_content(images), memory or {}, seed)


def counted(images: list[Image], found: splits.Splitting, label: str) -> dict[str, int]:
    return dict(Counter(found.splits[image.key] for image in images if image.label == label))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (3, {"train": 1, "valid": 1, "test": 1}),
        (4, {"train": 2, "valid": 1, "test": 1}),
        (10, {"train": 6, "valid": 2, "test": 2}),
        (64, {"train": 38, "valid": 13, "test": 13}),
    ],
)
def test_split_is_60_20_20_per_class(count: int, expected: dict[str, int]) -> None:
    images = photos("cat", count) + photos("dog", 5)
    assert counted(images, assign(images), "cat") == expected


def test_a_first_split_ranks_contents_by_seed_and_sha256() -> None:
    # GIVEN thirty photos, and their ranks
    images = photos("cat", 30)
    ranked = sorted(images, key=lambda image: hashlib.sha256(f"7:{image.sha256}".encode()).hexdigest())

    # WHEN they are split, THEN the first fifth validates, the next tests, the rest trains
    found = assign(images, seed=7).splits
    assert [found[image.key] for image in ranked] == ["valid"] * 6 + ["test"] * 6 + ["train"] * 18


def test_split_follows_content_and_seed_alone() -> None:
    # GIVEN the same photos in another order and under other names
    images = photos("cat", 30)
    renamed = [Image(f"z/{image.key}", image.label, None, image.sha256) for image in reversed(images)]

    # WHEN they are split, THEN each content is in the same split
    found = assign(images, seed=1).splits
    assert assign(renamed, seed=1).splits == {f"z/{key}": split for key, split in found.items()}
    # AND another seed splits otherwise
    assert assign(images, seed=2).splits != found


def test_images_that_look_the_same_share_a_split() -> None:
    # GIVEN thirty photos, ten groups of three
    images = photos("cat", 30)
    groups = [number // 3 for number in range(30)]

    # WHEN they are split
    found = assign(images, groups)

    # THEN no group is in two splits, and the proportions are those of groups
    by_group = defaultdict(set)
    for image, group in zip(images, groups, strict=True):
        by_group[group].add(found.splits[image.key])
    assert all(len(together) == 1 for together in by_group.values())
    assert Counter(split for (split,) in by_group.values()) == {"train": 6, "valid": 2, "test": 2}


@pytest.mark.parametrize(
    ("own", "left_out"),
    [
        (["test", "train"], [1]),
        (["valid", "train", "train"], [1, 2]),
        (["train", "valid", "test"], [0, 1]),
        (["test", None, "train"], [2]),
        (["train", None], []),
        (["train", "train"], []),
    ],
)
def test_of_images_that_look_the_same_in_two_splits_of_the_user_test_keeps_its_own(
    own: list[str | None], left_out: list[int]
) -> None:
    # GIVEN images that look the same in several splits, among others in all three
    others = [
        image for split, first in zip(SPLITS, (0, 10, 20), strict=True) for image in photos("cat", 4, split, first)
    ]
    same = [Image(f"{split}/same-{number}.jpg", "cat", split, str(number)) for number, split in enumerate(own)]
    groups = [*range(len(others)), *[99] * len(same)]

    # WHEN they are split
    found = assign([*others, *same], groups)

    # THEN those that lose are named with the one that stays, and the group is in one split
    assert [entry.file for entry in found.left_out] == [same[number].key for number in left_out]
    assert all("looks the same as" in entry.reason for entry in found.left_out)
    assert len({found.splits[image.key] for image in same if image.key in found.splits}) == 1
    assert found.joined == ({99} if left_out else set())
    # AND nothing else is
    assert len(found.splits) == len(others) + len(same) - len(left_out)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"train": 10}, {"train": 6, "valid": 2, "test": 2}),
        ({"train": 10, "test": 4}, {"train": 8, "valid": 2, "test": 4}),
        ({"train": 10, "valid": 4}, {"train": 8, "valid": 4, "test": 2}),
        ({"train": 10, "valid": 4, "test": 3}, {"train": 10, "valid": 4, "test": 3}),
    ],
)
def test_own_splits_are_kept_and_missing_ones_cut_from_train(own: dict[str, int], expected: dict[str, int]) -> None:
    images = [
        image
        for number, (split, count) in enumerate(own.items())
        for image in photos("cat", count, split, first=100 * number)
    ]
    first = assign(images)
    assert counted(images, first, "cat") == expected

    # AND what was cut from train stays where it is when the user adds to train
    memory = {image.sha256: first.splits[image.key] for image in images}
    images += photos("cat", 10, "train", first=1000)
    second = assign(images, memory=memory)
    assert {key: second.splits[key] for key in first.splits} == first.splits


def test_a_split_that_the_user_makes_later_is_kept() -> None:
    # GIVEN a first version that had train alone, so that a test split was cut from it
    images = photos("cat", 10, "train")
    memory = {image.sha256: assign(images).splits[image.key] for image in images}

    # WHEN the user brings valid and test
    more = photos("cat", 3, "valid", first=100) + photos("cat", 3, "test", first=200)
    found = assign([*images, *more], memory=memory)

    # THEN the folders say where everything is
    assert all(found.splits[image.key] == image.split for image in [*images, *more])


def test_a_few_images_beside_a_sorted_class_train() -> None:
    images = [image for number, split in enumerate(SPLITS) for image in photos("cat", 3, split, first=10 * number)]
    loose = photos("cat", 1, first=100)
    assert assign([*images, *loose]).splits[loose[0].key] == "train"


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (photos("cat", 2), ["'cat'", "2"]),
        (photos("cat", 5, "train") + photos("dog", 2, "train"), ["'dog'", "2"]),
        (photos("cat", 5, "train") + photos("dog", 5, "test"), ["'dog'", "none to train on"]),
        (photos("cat", 5, "train") + photos("dog", 1), ["'dog'", "1"]),
        ([Image(f"cat/{n}.jpg", "cat", None, "same") for n in range(5)], ["'cat'", "4 of them copies"]),
    ],
    ids=["two", "two-to-cut", "test-alone", "one-beside-others", "copies"],
)
def test_classes_too_small_are_named(images: list[Image], words: list[str]) -> None:
    with pytest.raises(JobError) as caught:
        assign(images)
    assert caught.value.code == "TooFewImages"
    assert all(word in caught.value.message for word in words)


def test_a_split_that_has_lost_all_its_images_is_said() -> None:
    # GIVEN a version whose validation images have all been removed
    images = photos("cat", 10) + photos("dog", 10)
    first = assign(images)
    memory = {image.sha256: first.splits[image.key] for image in images}
    left = [image for image in images if first.splits[image.key] != "valid"]

    # WHEN it is split, THEN nothing is moved, and the error says what is missing
    with pytest.raises(JobError, match="'valid'") as caught:
        assign(left, memory=memory)
    assert caught.value.code == "TooFewImages"
    # AND new images go there first
    found = assign([*left, *photos("cat", 2, first=100)], memory=memory)
    assert {found.splits[image.key] for image in photos("cat", 2, first=100)} == {"valid"}


def test_an_image_that_bridges_two_splits_of_earlier_versions() -> None:
    # GIVEN a first version in which two photos that look a little alike train and test
    images = photos("cat", 10)
    first = assign(images)
    memory = {image.sha256: first.splits[image.key] for image in images}
    trains = next(image for image in images if first.splits[image.key] == "train")
    tests = next(image for image in images if first.splits[image.key] == "test")

    # WHEN a third one looks like both
    bridge = Image("cat/bridge.jpg", "cat", None, "bridge")
    groups = [99 if image in (trains, tests) else number for number, image in enumerate(images)] + [99]
    second = assign([*images, bridge], groups, memory)

    # THEN the test image stays, with the new one, and the training image is left out
    assert [entry.file for entry in second.left_out] == [trains.key]
    assert second.splits[tests.key] == second.splits[bridge.key] == "test"
    # AND when the bridge is gone, it trains again
    memory |= {bridge.sha256: "test"}
    assert assign(images, memory=memory).splits == first.splits


@pytest.mark.parametrize("seed", range(12))
def test_no_image_ever_moves(seed: int) -> None:
    """Thirty versions of growth, deletion, return, renaming and relabelling."""
    # GIVEN classes of photos, a third of which belong to groups that look the same
    chance = random.Random(seed)
    labels = ["bird", "cat", "dog"]
    look = {number: chance.choice([number, number, number // 5 * 5 + 10_000]) for number in range(4000)}
    known: dict[int, str] = {}
    ever: dict[str, str] = {}
    memory: dict[str, str] = {}
    new = iter(range(4000))
    for label in labels:
        known |= {next(new): label for _ in range(chance.randint(12, 60))}
    gone: dict[int, str] = {}
    for version in range(30):
        # WHEN a version adds, deletes, brings back, relabels and renames
        known |= {next(new): chance.choice(labels) for _ in range(chance.choice([0, 1, 3, 40]))}
        for number in chance.sample(sorted(known), len(known) // chance.choice([8, 20, 100])):
            gone[number] = known.pop(number)
        for number in chance.sample(sorted(gone), len(gone) // 3):
            known[number] = gone.pop(number)
        for number in chance.sample(sorted(known), len(known) // 30):
            known[number] = chance.choice(labels)
        images = [
            Image(f"{label}/{version if number % 7 == 0 else 0}-{number}.jpg", label, None, f"content {number}")
            for number, label in known.items()
        ]
        chance.shuffle(images)
        groups = [look[int(image.sha256.split()[1])] for image in images]
        found = splits.assign(images, groups, memory, seed)

        # THEN every image is in the split in which it has ever been
        split_of_group = {group: found.splits[image.key] for image, group in zip(images, groups, strict=True)
                          if image.key in found.splits}  # fmt: skip
        left_out = {entry.file for entry in found.left_out}
        for image, group in zip(images, groups, strict=True):
            if image.key not in left_out:
                assert ever.setdefault(image.sha256, found.splits[image.key]) == found.splits[image.key]
            else:
                # One that came when all that look like it were away, and so was placed apart from them.
                assert ever[image.sha256] != split_of_group[group]
        assert len(found.splits) + len(left_out) == len(images)
        assert len(left_out) <= 2
        # AND groups are whole
        for image, group in zip(images, groups, strict=True):
            assert image.key in left_out or found.splits[image.key] == split_of_group[group]
        memory |= {image.sha256: found.splits[image.key] for image in images if image.key in found.splits}
        # AND every class is in every split, near its share of the groups
        for label in labels:
            of_class = {group: split_of_group[group] for image, group in zip(images, groups, strict=True)
                        if image.label == label}  # fmt: skip
            share = Counter(of_class.values())
            assert set(share) == set(SPLITS)
            assert abs(share["test"] / len(of_class) - 0.2) < 0.12
            assert abs(share["valid"] / len(of_class) - 0.2) < 0.12
