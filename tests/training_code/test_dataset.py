"""Layouts of a dataset: which class and split each record gets, and the errors that end a run."""

from collections.abc import Sequence
from typing import Any

import dataset
import labels_files
import pytest
from contract import JobError

LOCATION = "s3://bucket/datasets/shapes/"


def record(key: str, source: str | None = None, bad: bool = False, unsafe: bool = False) -> dataset.Record:
    found: dict[str, Any] = {"key": key, "source": source or key, "sha256": f"sha of {key}", "size": 1}
    if bad or unsafe:
        return {**found, "reason": "The file is damaged.", "hint": "Mend it.", "unsafe": unsafe}
    return {**found, "block": "0", "row": 0}


def listed(*keys: str, labels: Sequence[labels_files.LabelsFile] = ()) -> dataset.Listing:
    return dataset.read_listing([record(key) for key in keys], labels)


def in_archive(archive: str, *members: str) -> list[dataset.Record]:
    return [record(f"{archive}/{member}", archive) for member in members]


def csv(text: str, key: str = "labels.csv", source: str | None = None) -> labels_files.LabelsFile:
    return labels_files.read(key, source or key, text.encode(), LOCATION)


def test_class_folders_and_split_folders() -> None:
    # GIVEN both layouts, and a class that is called like a split
    # WHEN they are listed
    listing = listed("cat/1.jpg", "train/dog/2.jpg", "test/dog/3.jpg", "train/4.jpg")

    # THEN each file has its class and its split
    assert [(found.key, found.label, found.split) for found in listing.images] == [
        ("cat/1.jpg", "cat", None),
        ("test/dog/3.jpg", "dog", "test"),
        ("train/4.jpg", "train", None),
        ("train/dog/2.jpg", "dog", "train"),
    ]
    assert not listing.quarantined


@pytest.mark.parametrize("name", ["loose.jpg", "cat/deeper/1.jpg", "val/cat/1.jpg", "train/cat/deeper/1.jpg"])
def test_files_outside_a_class_folder_are_listed(name: str) -> None:
    listing = listed("cat/1.jpg", name)
    assert [entry.file for entry in listing.quarantined] == [name]
    assert "outside a class folder" in listing.quarantined[0].reason
    assert len(listing.images) == 1


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        (["cat/1.jpg", "dog/2.jpg"], ["cat", "dog"]),
        (["photos/cat/1.jpg", "photos/dog/2.jpg"], ["cat", "dog"]),
        (["cat/1.jpg", "cat/2.jpg"], ["cat", "cat"]),
        (["train/cat/1.jpg", "test/dog/2.jpg"], ["dog", "cat"]),
        (["photos/train/cat/1.jpg", "photos/test/dog/2.jpg"], ["dog", "cat"]),
        (["train/cat/1.jpg", "train/dog/2.jpg"], ["cat", "dog"]),
    ],
)
def test_layouts_inside_an_archive(members: list[str], labels: list[str]) -> None:
    # GIVEN an archive with class folders, perhaps in a folder of its own, and a file that is ignored
    ignored = {"key": "photos.zip/__MACOSX/x", "source": "photos.zip", "ignored": True}

    # WHEN it is listed
    listing = dataset.read_listing([*in_archive("photos.zip", *members), ignored], [])

    # THEN the classes are found, and the ignored file is counted
    assert [found.label for found in listing.images] == labels
    assert not listing.quarantined
    assert listing.ignored == 1


def test_bad_records_keep_their_reason_and_name_their_class() -> None:
    # GIVEN a damaged photo, a damaged note, and two archives that were refused
    records = [
        record("cat/1.jpg", bad=True),
        record("notes/2.txt", bad=True),
        record("broken.zip", bad=True),
        record("evil.zip", unsafe=True),
    ]

    # WHEN they are listed
    listing = dataset.read_listing(records, [])

    # THEN each is named once, the class of the photo is remembered, and so is what was unsafe
    assert [entry.file for entry in listing.quarantined] == ["broken.zip", "cat/1.jpg", "evil.zip", "notes/2.txt"]
    assert {entry.reason for entry in listing.quarantined} == {"The file is damaged."}
    assert listing.damaged_classes == {"cat"}
    assert listing.unsafe_archives == ["evil.zip"]


def test_a_labels_file_labels_what_it_names_and_leaves_out_the_rest() -> None:
    # GIVEN labels for two of three images, wherever they lie
    listing = listed(
        "a.jpg",
        "some/folder/b.jpg",
        "dog/c.jpg",
        labels=[csv("path,label,split\na.jpg,cat,test\nsome/folder/b.jpg,dog,\n")],
    )  # fmt: skip

    # THEN those have the labels file's class and split, and the third is left out though it lies in a folder
    assert [(image.key, image.label, image.split) for image in listing.images] == [
        ("a.jpg", "cat", "test"),
        ("some/folder/b.jpg", "dog", None),
    ]
    assert [(entry.file, entry.reason) for entry in listing.quarantined] == [
        ("dog/c.jpg", "The file is not named in labels.csv, which labels the images here.")
    ]


def test_an_archives_labels_file_rules_in_the_archive_alone() -> None:
    # GIVEN an archive with labels of its own, another with class folders, and a class folder
    records = [
        *in_archive("a.zip", "wrap/1.jpg", "wrap/2.jpg"),
        *in_archive("b.zip", "cat/3.jpg"),
        record("dog/4.jpg"),
    ]
    labels = csv("path,label\n1.jpg,bird\n", "a.zip/wrap/labels.csv", "a.zip")

    # WHEN they are listed
    listing = dataset.read_listing(records, [labels])

    # THEN the file rules over its own archive
    assert {image.key: image.label for image in listing.images} == {
        "a.zip/wrap/1.jpg": "bird",
        "b.zip/cat/3.jpg": "cat",
        "dog/4.jpg": "dog",
    }
    assert [entry.file for entry in listing.quarantined] == ["a.zip/wrap/2.jpg"]


def test_a_stray_table_leaves_class_folders_as_they_are() -> None:
    # GIVEN a CSV that is no labels file beside class folders
    listing = listed("cat/1.jpg", "dog/2.jpg", labels=[csv("name;weight\ncat;4\n", "notes.csv")])

    # THEN it is listed, and nothing else changes
    assert [image.label for image in listing.images] == ["cat", "dog"]
    assert [entry.file for entry in listing.quarantined] == ["notes.csv"]
    assert "'path'" in listing.quarantined[0].reason


def test_one_content_in_two_classes_is_left_out_of_both() -> None:
    # GIVEN three copies in two classes, and two in one
    def image(key: str, content: str) -> dataset.Image:
        return dataset.Image(key, key.split("/")[0], None, content)

    images = [image("cat/1.jpg", "a"), image("cat/2.jpg", "a"), image("dog/3.jpg", "a")]
    images += [image("cat/4.jpg", "b"), image("cat/5.jpg", "b")]

    # WHEN contradictions are looked for, THEN all of the first are named, each with one of the other class
    found = dataset.contradictions(images)
    assert [entry.file for entry in found] == ["cat/1.jpg", "cat/2.jpg", "dog/3.jpg"]
    assert found[0].reason == "The file shows the same image as dog/3.jpg, which is in the class 'dog'."
    assert found[2].reason == "The file shows the same image as cat/1.jpg, which is in the class 'cat'."


@pytest.mark.parametrize(
    ("records", "labels", "code", "words"),
    [
        ([], [], "EmptyDataset", ["'shapes'"]),
        ([{"key": "README", "source": "README", "ignored": True}], [], "EmptyDataset", ["'shapes'"]),
        ([record("cat/1.txt", bad=True)], [], "NoUsableImages", ["'cat/1.txt'", "damaged"]),
        ([record("evil.zip", unsafe=True)], [], "UnsafeArchive", ["'evil.zip'"]),
        ([record("evil.zip", unsafe=True), record("b.zip", bad=True)], [], "NoUsableImages", ["2 files"]),
        ([record("cat/1.jpg")], [], "TooFewClasses", ["'cat'"]),
        ([record("cat/1.jpg"), record("dog/2.jpg", bad=True)], [], "TooFewImages", ["'dog'", ": 0"]),
        ([record("a.jpg")], [csv("path,label\nimages/a.jpg,cat\n")], "NoUsableImages",
         ["labels no image", "row 2 names images/a.jpg"]),
        ([record("images/a.jpg")], [csv("file,label\na.jpg,cat\n")], "TooFewClasses",
         ["'images'", "'labels.csv'", "one column 'path'"]),
    ],
    ids=["nothing", "only-ignored", "only-bad", "only-unsafe", "unsafe-and-bad", "one-class", "class-of-bad-files",
         "labels-that-fit-nothing", "labels-without-paths"],
)  # fmt: skip
def test_datasets_without_classes_to_learn(
    records: list[dataset.Record], labels: list[labels_files.LabelsFile], code: str, words: list[str]
) -> None:
    # GIVEN a dataset with which no classifier can be trained
    listing = dataset.read_listing(records, labels)

    # WHEN its classes are asked for, THEN the error says why
    with pytest.raises(JobError) as caught:
        dataset.check_classes("shapes", listing, listing.images)
    assert caught.value.code == code
    assert all(word in caught.value.message for word in words)
    assert caught.value.hint
