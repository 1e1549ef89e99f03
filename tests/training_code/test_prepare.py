"""Prepare: whole runs on tiny datasets, good and bad."""

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset
import numpy as np
import prepare
import pytest

Fill = Callable[..., None]
RunJob = Callable[..., int]
Failure = Callable[[Path], dict[str, str]]


def output(base: Path) -> Path:
    return base / "processing" / "output" / "prepared"


def summary(base: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((output(base) / "summary.json").read_text(encoding="utf-8"))
    return document


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_prepared_data_is_what_the_contract_says(prepared_once: Path) -> None:
    # GIVEN the prepared data of 3 classes x 10 photos
    document = json.loads((prepared_once / "summary.json").read_text(encoding="utf-8"))

    # THEN the summary has the contract's entries
    features = document["feature_size"]
    assert document == {
        "dataset": "shapes",
        "version": 1,
        "classes": ["blue", "green", "red"],
        "backbone": "regnet_x_400mf",
        "image_size": 32,
        "feature_size": 400,
        "counts": {
            split: dict.fromkeys(["blue", "green", "red"], count)
            for split, count in (("train", 6), ("valid", 2), ("test", 2))
        },
        "quarantined": [],
        "ignored": 0,
        "weights_sha256": None,
        "seed": 0,
    }
    # AND the arrays of each split have the contract's shapes and types, in one order
    for split, count in (("train", 18), ("valid", 6), ("test", 6)):
        files = json.loads((prepared_once / f"files-{split}.json").read_text(encoding="utf-8"))
        images = np.load(prepared_once / f"images-{split}.npy")
        labels = np.load(prepared_once / f"labels-{split}.npy")
        vectors = np.load(prepared_once / f"features-{split}.npy")
        assert images.shape == (count, 32, 32, 3)
        assert (labels.shape, labels.dtype) == ((count,), np.int64)
        assert (images.dtype, vectors.dtype) == (np.uint8, np.float32)
        assert vectors.shape == (count, 1, features)
        assert [document["classes"][label] for label in labels] == [name.split("/")[0] for name in files]
        # The photos' colours are their classes: blue, green and red by their strongest channel.
        assert [2 - label for label in labels] == images.mean(axis=(1, 2)).argmax(axis=1).tolist()


@pytest.mark.slow
def test_same_input_and_seed_give_the_same_bytes(
    tmp_path: Path, fill_dataset: Fill, run_script: Callable[..., Any], run_job: RunJob
) -> None:
    # GIVEN a dataset prepared by the script as SageMaker runs it, with two more views
    fill_dataset(images_per_class=4)
    finished = run_script("prepare.py", tmp_path, AUGMENTED_VIEWS="2")
    assert finished.returncode == 0, finished.stderr
    assert "Done" in finished.stdout
    first = contents(output(tmp_path))

    # WHEN it is prepared again, in another process, THEN every byte is the same
    again = run_script("prepare.py", tmp_path, AUGMENTED_VIEWS="2")
    assert again.returncode == 0, again.stderr
    assert contents(output(tmp_path)) == first

    # AND with another seed it is not
    assert run_job(prepare, tmp_path, SEED="1", AUGMENTED_VIEWS="2") == 0
    assert contents(output(tmp_path)).keys() == first.keys()
    assert contents(output(tmp_path)) != first
    # AND only the training split has the other views
    assert np.load(output(tmp_path) / "features-train.npy").shape[1] == 3
    assert np.load(output(tmp_path) / "features-valid.npy").shape[1] == 1


def test_bad_files_are_listed_and_the_run_goes_on(
    tmp_path: Path, dataset_dir: Path, fill_dataset: Fill, run_job: RunJob
) -> None:
    # GIVEN a dataset with one bad file of every kind among good ones
    fill_dataset(images_per_class=4)
    whole = (dataset_dir / "red" / "0.jpg").read_bytes()
    bad = {
        "red/empty.jpg": b"",
        "red/diary.jpg": b"dear diary",
        "red/cut.jpg": whole[: len(whole) // 2],
        "loose.jpg": whole,
        "red/deeper/photo.jpg": whole,
        "notes/todo.txt": b"buy milk",
        "broken.zip": b"PK",
    }
    for name, content in bad.items():
        (dataset_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (dataset_dir / name).write_bytes(content)
    (dataset_dir / "red" / ".DS_Store").write_bytes(b"x")
    with zipfile.ZipFile(dataset_dir / "evil.zip", "w") as archive:
        archive.writestr("../../evil.jpg", whole)

    # WHEN it is prepared
    assert run_job(prepare, tmp_path) == 0

    # THEN each bad file is listed with a reason and a hint, and the good ones are there
    document = summary(tmp_path)
    assert sorted(entry["file"] for entry in document["quarantined"]) == sorted([*bad, "evil.zip"])
    assert all(entry["reason"] and entry["hint"] for entry in document["quarantined"])
    assert document["ignored"] == 1
    assert document["classes"] == ["blue", "green", "red"]
    assert sum(sum(counts.values()) for counts in document["counts"].values()) == 12


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_and_folders_are_one_dataset(
    tmp_path: Path, dataset_dir: Path, fill_dataset: Fill, run_job: RunJob, kind: str
) -> None:
    # GIVEN two classes in an archive with a folder around them, and a third one beside it
    fill_dataset("wrap", 4, ("blue", "green"))
    files = sorted((dataset_dir / "wrap").rglob("*.jpg"))
    if kind == "zip":
        with zipfile.ZipFile(dataset_dir / "photos.zip", "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(dataset_dir))
    else:
        with tarfile.open(dataset_dir / "photos.tar.gz", "w:gz") as packed:
            packed.add(dataset_dir / "wrap", arcname="wrap")
    for file in files:
        file.unlink()
    fill_dataset("", 4, ("red",))

    # WHEN it is prepared
    assert run_job(prepare, tmp_path) == 0

    # THEN all three classes are there, and keys say where each photo came from
    assert summary(tmp_path)["classes"] == ["blue", "green", "red"]
    names = json.loads((output(tmp_path) / "files-train.json").read_text(encoding="utf-8"))
    assert {name.split("/")[0] for name in names} == {f"photos.{kind}", "red"}


def test_contradicting_copies_are_left_out_and_listed(
    tmp_path: Path, dataset_dir: Path, fill_dataset: Fill, run_job: RunJob
) -> None:
    # GIVEN own splits in which a training photo is tested on too, and one photo that has two labels
    fill_dataset("train", 5, ("blue", "red"))
    fill_dataset("test", 1, ("blue", "red"), first=5)
    shutil.copy(dataset_dir / "train" / "red" / "3.jpg", dataset_dir / "test" / "red" / "leaked.jpg")
    shutil.copy(dataset_dir / "train" / "red" / "4.jpg", dataset_dir / "test" / "blue" / "wrong.jpg")

    # WHEN it is prepared
    assert run_job(prepare, tmp_path) == 0

    # THEN the copy of the training photo is left out of test, and both files of the other photo are
    document = summary(tmp_path)
    reasons = {entry["file"]: entry["reason"] for entry in document["quarantined"]}
    assert reasons.keys() == {"test/red/leaked.jpg", "test/blue/wrong.jpg", "train/red/4.jpg"}
    assert "train/red/3.jpg" in reasons["test/red/leaked.jpg"]
    assert "'red'" in reasons["test/blue/wrong.jpg"]
    # AND the rest is used
    used = {
        name
        for split in dataset.SPLITS
        for name in json.loads((output(tmp_path) / f"files-{split}.json").read_text(encoding="utf-8"))
    }
    assert len(used) == 11
    assert "train/red/3.jpg" in used
    assert not reasons.keys() & used


def test_split_folders_are_kept(tmp_path: Path, fill_dataset: Fill, run_job: RunJob) -> None:
    for split, count, first in (("train", 5, 0), ("valid", 1, 5), ("test", 2, 6)):
        fill_dataset(split, count, ("blue", "red"), first)
    assert run_job(prepare, tmp_path) == 0
    counts = summary(tmp_path)["counts"]
    assert {split: counts[split]["red"] for split in counts} == {"train": 5, "valid": 1, "test": 2}


def damaged(dataset: Path, fill: Fill) -> None:
    fill(images_per_class=4, classes=("blue", "green"))
    (dataset / "red").mkdir()
    (dataset / "red" / "1.jpg").write_bytes(b"no photo")


def unsafe(dataset: Path, fill: Fill) -> None:
    with zipfile.ZipFile(dataset / "evil.zip", "w") as archive:
        archive.writestr("../evil.jpg", b"")


def text_only(dataset: Path, fill: Fill) -> None:
    (dataset / "red").mkdir()
    (dataset / "red" / "notes.txt").write_bytes(b"no photo")


@pytest.mark.parametrize(
    ("arrange", "code", "named"),
    [
        (lambda dataset, fill: None, "EmptyDataset", "'shapes'"),
        (lambda dataset, fill: dataset.rmdir(), "EmptyDataset", "'shapes'"),
        (lambda dataset, fill: (dataset / "README").write_text("hello"), "EmptyDataset", "'shapes'"),
        (text_only, "NoUsableImages", "'red/notes.txt'"),
        (unsafe, "UnsafeArchive", "'../evil.jpg'"),
        (lambda dataset, fill: fill(classes=("red",)), "TooFewClasses", "'red'"),
        (lambda dataset, fill: fill(images_per_class=2), "TooFewImages", "'blue'"),
        (damaged, "TooFewImages", "'red'"),
    ],
)
def test_datasets_that_cannot_be_used(
    tmp_path: Path,
    dataset_dir: Path,
    fill_dataset: Fill,
    run_job: RunJob,
    failure: Failure,
    arrange: Callable[[Path, Fill], object],
    code: str,
    named: str,
) -> None:
    # GIVEN a dataset with which no classifier can be trained
    arrange(dataset_dir, fill_dataset)

    # WHEN it is prepared, THEN the error document says what is wrong with what
    assert run_job(prepare, tmp_path) == 1
    document = failure(tmp_path)
    assert document["code"] == code
    assert named in document["message"]
    # AND there is no summary that would make the folder look whole
    assert not (output(tmp_path) / "summary.json").exists()
    # AND nothing of the scratch folder is left
    assert [file.name for file in output(tmp_path).parent.iterdir()] == ["prepared"]


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({"PRETRAINED": "true", "WEIGHTS_URL": ""}, "WeightsMissing"),
        ({"BACKBONE": "resnet51"}, "UnknownBackbone"),
        ({"BACKBONE": "vit_b_16", "IMAGE_SIZE": "64"}, "InvalidHyperParameter"),
        ({"IMAGE_SIZE": "16"}, "InvalidHyperParameter"),
        ({"SEED": "x"}, "InvalidHyperParameter"),
        ({"PRETRAINED": "maybe"}, "InvalidHyperParameter"),
        ({"DATASET": ""}, "InvalidHyperParameter"),
    ],
)
def test_settings_that_cannot_be_used(
    tmp_path: Path,
    fill_dataset: Fill,
    run_job: RunJob,
    failure: Failure,
    environment: dict[str, str],
    code: str,
) -> None:
    fill_dataset(images_per_class=3)
    assert run_job(prepare, tmp_path, **environment) == 1
    assert failure(tmp_path)["code"] == code


def test_weights_whose_hash_does_not_fit(tmp_path: Path, fill_dataset: Fill, run_job: RunJob, failure: Failure) -> None:
    # GIVEN a weights file that was changed after it was named
    fill_dataset(images_per_class=3)
    folder = tmp_path / "processing" / "input" / "weights"
    folder.mkdir(parents=True)
    (folder / "regnet_x_400mf-adf1edd5.pth").write_bytes(b"changed")

    # WHEN the data is prepared, THEN the file is refused
    assert run_job(prepare, tmp_path, PRETRAINED="true") == 1
    document = failure(tmp_path)
    assert document["code"] == "WeightsCorrupt"
    assert "regnet_x_400mf-adf1edd5.pth" in document["message"]


def test_files_over_the_limit_are_listed(
    tmp_path: Path, dataset_dir: Path, fill_dataset: Fill, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN one photo that is larger than the limit
    fill_dataset(images_per_class=4)
    whole = (dataset_dir / "red" / "0.jpg").read_bytes()
    (dataset_dir / "red" / "huge.jpg").write_bytes(whole + bytes(100_000))
    monkeypatch.setattr(prepare, "MAX_FILE_BYTES", 100_000)

    # WHEN the data is prepared, THEN that photo alone is listed
    assert run_job(prepare, tmp_path) == 0
    (entry,) = summary(tmp_path)["quarantined"]
    assert entry["file"] == "red/huge.jpg"
    assert "too large" in entry["reason"]
