"""Layouts of a dataset folder, and the splits."""

import hashlib
import zipfile
from collections import Counter
from pathlib import Path

import dataset
import pytest
from contract import JobError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def listed(tmp_path: Path) -> dataset.Listing:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return dataset.read_listing(tmp_path / "data", scratch)


def zip_of(file: Path, *names: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as opened:
        for name in names:
            opened.writestr(name, name)


def test_class_folders_and_split_folders(tmp_path: Path) -> None:
    # GIVEN both layouts, and a class that is called like a split
    touch(tmp_path / "data", "cat/1.jpg", "train/dog/2.jpg", "test/dog/3.jpg", "train/4.jpg")

    # WHEN it is listed
    listing = listed(tmp_path)

    # THEN each file has its class and its split
    assert [(found.key, found.label, found.split) for found in listing.candidates] == [
        ("cat/1.jpg", "cat", None),
        ("test/dog/3.jpg", "dog", "test"),
        ("train/4.jpg", "train", None),
        ("train/dog/2.jpg", "dog", "train"),
    ]
    assert not listing.quarantined


@pytest.mark.parametrize("name", ["loose.jpg", "cat/deeper/1.jpg", "val/cat/1.jpg", "train/cat/deeper/1.jpg"])
def test_files_outside_a_class_folder_are_listed(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "data", "cat/1.jpg", name)
    listing = listed(tmp_path)
    assert [entry.file for entry in listing.quarantined] == [name]
    assert "outside a class folder" in listing.quarantined[0].reason
    assert len(listing.candidates) == 1


@pytest.mark.parametrize(
    "name",
    ["cat/.DS_Store", "_READY", "cat/Thumbs.db", "desktop.ini", "__MACOSX/cat/1.jpg", "COPYRIGHT", "LICENSE",
     "README.md", "cat/readme.txt"],
)  # fmt: skip
def test_ignored_files_are_counted_and_not_bad(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "data", "cat/1.jpg", name)
    listing = listed(tmp_path)
    assert listing.ignored == 1
    assert not listing.quarantined
    assert len(listing.candidates) == 1


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        (["cat/1.jpg", "dog/2.jpg"], ["cat", "dog"]),
        (["photos/cat/1.jpg", "photos/dog/2.jpg"], ["cat", "dog"]),
        (["photos/cat/1.jpg", "photos/dog/2.jpg", "__MACOSX/._x", "README"], ["cat", "dog"]),
        (["cat/1.jpg", "cat/2.jpg"], ["cat", "cat"]),
        (["train/cat/1.jpg", "test/dog/2.jpg"], ["dog", "cat"]),
        (["photos/train/cat/1.jpg", "photos/test/dog/2.jpg"], ["dog", "cat"]),
        (["train/cat/1.jpg", "train/dog/2.jpg"], ["cat", "dog"]),
    ],
)
def test_layouts_inside_an_archive(tmp_path: Path, members: list[str], labels: list[str]) -> None:
    # GIVEN an archive with class folders, perhaps in a folder of its own
    zip_of(tmp_path / "data" / "photos.zip", *members)

    # WHEN it is listed
    listing = listed(tmp_path)

    # THEN the classes are found, and keys tell the archive and the member
    assert [found.label for found in listing.candidates] == labels
    assert all(found.key.removeprefix("photos.zip/") in members for found in listing.candidates)
    assert not listing.quarantined


def test_bad_archives_are_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    # GIVEN a good photo, an archive that would leave its folder, a damaged one, and one in a class folder
    touch(tmp_path / "data", "cat/1.jpg", "damaged.zip", "cat/inside.zip")
    zip_of(tmp_path / "data" / "evil.zip", "cat/2.jpg", "../../evil.jpg")

    # WHEN it is listed
    listing = listed(tmp_path)

    # THEN the photo is a candidate and each archive has its reason
    assert [found.key for found in listing.candidates] == ["cat/1.jpg"]
    reasons = {entry.file: entry.reason for entry in listing.quarantined}
    assert reasons["evil.zip"].startswith("UnsafeArchive: the member '../../evil.jpg'")
    assert "cannot be unpacked" in reasons["damaged.zip"]
    assert "inside a folder" in reasons["cat/inside.zip"]
    assert listing.unsafe_archives == ["evil.zip"]


def photos(label: str, count: int, split: str | None = None, first: int = 0) -> list[dataset.Image]:
    return [
        dataset.Image(
            key=f"{split or ''}/{label}/{number}.jpg",
            label=label,
            split=split,
            sha256=hashlib.sha256(f"{label}{number}".encode()).hexdigest(),
        )
        for number in range(first, first + count)
    ]


def counted(images: list[dataset.Image], splits: dict[str, str], label: str) -> dict[str, int]:
    return dict(Counter(splits[image.key] for image in images if image.label == label))


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
    assert counted(images, dataset.assign_splits(images, seed=0), "cat") == expected


def test_split_follows_content_and_seed_alone() -> None:
    # GIVEN the same photos in another order and under other names
    images = photos("cat", 30)
    renamed = [dataset.Image(f"z/{image.key}", image.label, None, image.sha256) for image in reversed(images)]

    # WHEN they are split, THEN each content is in the same split
    splits = dataset.assign_splits(images, seed=1)
    assert dataset.assign_splits(renamed, seed=1) == {f"z/{key}": split for key, split in splits.items()}
    # AND another seed splits otherwise
    assert dataset.assign_splits(images, seed=2) != splits


def test_equal_files_share_a_split() -> None:
    # GIVEN ten photos, each uploaded three times
    images = [
        dataset.Image(f"{copy}/{image.key}", image.label, None, image.sha256)
        for image in photos("cat", 10)
        for copy in range(3)
    ]

    # WHEN they are split
    splits = dataset.assign_splits(images, seed=0)

    # THEN no photo is in two splits
    for image in photos("cat", 10):
        assert len({splits[f"{copy}/{image.key}"] for copy in range(3)}) == 1


def copies_of_one(*places: str) -> list[dataset.Image]:
    """Equal files in places such as `test/cat` or, outside the splits, `cat`."""
    return [
        dataset.Image(f"{place}/{number}.jpg", parts[-1], parts[0] if len(parts) == 2 else None, "same")
        for number, place in enumerate(places)
        for parts in [place.split("/")]
    ]


@pytest.mark.parametrize(
    ("places", "left_out"),
    [
        (["cat", "cat"], []),
        (["train/cat", "train/cat"], []),
        (["cat", "dog"], ["cat/0.jpg", "dog/1.jpg"]),
        (["train/cat", "test/dog", "train/cat"], ["train/cat/0.jpg", "test/dog/1.jpg", "train/cat/2.jpg"]),
        (["test/cat", "train/cat"], ["test/cat/0.jpg"]),
        (["test/cat", "valid/cat", "test/cat"], ["test/cat/0.jpg", "test/cat/2.jpg"]),
        (["train/cat", "train/cat", "valid/cat", "test/cat"], ["valid/cat/2.jpg", "test/cat/3.jpg"]),
        (["cat", "test/cat"], ["cat/0.jpg"]),
    ],
)
def test_copies_that_contradict_themselves(places: list[str], left_out: list[str]) -> None:
    # GIVEN equal files in several places, among others
    images = photos("cat", 3) + copies_of_one(*places) + photos("dog", 3, "train")

    # WHEN contradictions are looked for, THEN those that lose are named, with another file as the reason
    found = dataset.contradictions(images)
    assert [entry.file for entry in found] == left_out
    for entry in found:
        others = {image.key for image in copies_of_one(*places)} - {entry.file}
        assert any(other in entry.reason for other in others)


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
    assert counted(images, dataset.assign_splits(images, seed=0), "cat") == expected


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (photos("cat", 2), ["'cat'", "2"]),
        (photos("cat", 5, "train") + photos("dog", 2, "train"), ["'dog'", "2"]),
        (photos("cat", 5, "train") + photos("dog", 5, "test"), ["'dog'", "none to train on"]),
        ([dataset.Image(f"cat/{n}.jpg", "cat", None, "same") for n in range(5)], ["'cat'", "4 of them copies"]),
    ],
)
def test_classes_too_small_are_named(images: list[dataset.Image], words: list[str]) -> None:
    with pytest.raises(JobError) as caught:
        dataset.assign_splits(images, seed=0)
    assert caught.value.code == "TooFewImages"
    assert all(word in caught.value.message for word in words)
