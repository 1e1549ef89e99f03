"""Prepare: whole runs on versions made by hand, good and bad, one after the other."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import contract
import numpy as np
import prepared
import pytest
from PIL import Image

from tests.training_code import versions
from tests.training_code.versions import Bad, Files, Ignored, Labels, Runs, Usable, encoded, jpeg, lines, photos

SHAPES = {**photos("circle", 10), **photos("square", 10)}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_prepared_version_is_what_the_contract_says(runs: Runs) -> None:
    # GIVEN two classes of ten images, a damaged one and an ignored file
    files: Files = {**SHAPES, "circle/bad.jpg": Bad(), "README": Ignored()}

    # WHEN the version is prepared
    assert runs.run(files) == 0

    # THEN the summary has the contract's entries
    assert runs.summary() == {
        "format": 2,
        "dataset": "shapes",
        "version": 1,
        "classes": ["circle", "square"],
        "backbone": "regnet_x_400mf",
        "image_size": 32,
        "feature_size": versions.FEATURES,
        "counts": {split: {"circle": count, "square": count} for split, count in
                   (("train", 6), ("valid", 2), ("test", 2))},
        "quarantined": [
            {"file": "circle/bad.jpg", "reason": "The file is truncated or damaged.", "hint": "Upload it again."}
        ],
        "ignored": 1,
        "weights_sha256": None,
        "seed": 0,
    }  # fmt: skip
    # AND the index, the manifest and the records have one line an image, sorted by key
    records = {record["key"]: record for record in lines(runs.prepared / "records.jsonl")}
    assert list(records) == sorted(files)
    assert all(record["etag"] for record in records.values())
    index, manifest = runs.index(), lines(runs.version / "manifest.jsonl")
    assert [entry["key"] for entry in index] == [entry["key"] for entry in manifest] == sorted(SHAPES)
    for entry, line in zip(index, manifest, strict=True):
        record = records[entry["key"]]
        assert entry.keys() == {"key", "label", "split", "sha256", "block", "row"}
        assert line.keys() == {"key", "etag", "sha256", "label", "split", "size", "width", "height", "phash"}
        assert all(entry[name] == record[name] for name in ("sha256", "block", "row"))
        assert all(line[name] == record[name] for name in ("etag", "sha256", "size", "width", "height", "phash"))
        assert (line["label"], line["split"]) == (entry["label"], entry["split"])
    # AND the memory of splits is that of the contents
    memory = versions.read(runs.version / "splits.json")
    assert memory == {entry["sha256"]: entry["split"] for entry in index}
    # AND the blocks are named for the next job
    block = index[0]["block"]
    assert json.loads((runs.prepared / "blocks.manifest").read_text("utf-8")) == [
        {"prefix": "s3://bucket/prepared/shapes/recipe/blocks/"},
        f"squares/{block}.npy",
        f"features/{block}.npy",
    ]


def test_what_is_prepared_can_be_read_by_a_training(runs: Runs) -> None:
    # GIVEN a prepared version, whose features are known
    vectors = {key: np.full(versions.FEATURES, number, np.float32) for number, key in enumerate(sorted(SHAPES))}
    assert runs.run({key: Usable(file.content, vectors[key]) for key, file in photos_of(SHAPES).items()}) == 0

    # WHEN it is opened as Train does, THEN every image has the features of its file
    opened = prepared.open_prepared(runs.prepared, runs.root / "processing" / "input")
    for split in ("train", "valid", "test"):
        for key, label, features in zip(opened.files(split), opened.labels(split), opened.features(split), strict=True):
            assert opened.classes[label] == key.split("/")[0]
            assert np.array_equal(features[0], vectors[key])


def photos_of(files: Files) -> dict[str, Usable]:
    return {key: file for key, file in files.items() if isinstance(file, Usable)}


def test_the_next_version_builds_on_the_last(runs: Runs) -> None:
    # GIVEN a version with labels in a file, an archive and a damaged image
    table = "path,label,split\n" + "".join(f"{key},{key[0]},\n" for key in SHAPES) + "in.zip/a.jpg,c,test\n"
    files: Files = {**SHAPES, "labels.csv": Labels(table.encode()), "in.zip/a.jpg": Usable(jpeg(77)), "s.jpg": Bad()}
    assert runs.run(files) == 0
    before = runs.splits()
    assert (runs.doctor()["decoded"], runs.doctor()["reused"]) == (21, 0)

    # WHEN two images come, one goes and one changes, while Decode sees only what is new
    del files["circle/3.jpg"]
    files |= {"circle/4.jpg": Usable(jpeg(1004)), **{f"new/{n}.jpg": Usable(jpeg(500 + n)) for n in range(2)}}
    assert runs.run({**files, "labels.csv": files["labels.csv"]}) == 0

    # THEN the old files, the labels and the damaged one are known from before
    after = runs.splits()
    assert {key: after[key] for key in before if key in after and key != "circle/4.jpg"} == {
        key: split for key, split in before.items() if key not in ("circle/3.jpg", "circle/4.jpg")
    }
    assert runs.labels()["in.zip/a.jpg"] == "c"
    assert (runs.doctor()["decoded"], runs.doctor()["reused"]) == (3, 19)
    reasons = runs.reasons()
    assert reasons["s.jpg"] == "The file is truncated or damaged."
    assert "not named in labels.csv" in reasons["new/0.jpg"]
    assert "circle/3.jpg, which is not in the dataset" in reasons["labels.csv"]
    # AND the content that went is remembered
    gone = next(file.content for key, file in photos_of(SHAPES).items() if key == "circle/3.jpg")
    digest = hashlib.sha256(gone).hexdigest()
    assert versions.read(runs.version / "splits.json")[digest] == before["circle/3.jpg"]
    # AND the blocks of both versions are named
    assert len(json.loads((runs.prepared / "blocks.manifest").read_text("utf-8"))) == 5


def test_splits_are_kept_where_nothing_else_is(runs: Runs) -> None:
    # GIVEN a version, and the same images and more with another recipe, so that all is decoded again
    assert runs.run(SHAPES) == 0
    before = runs.splits()
    more = {**SHAPES, **photos("circle", 30, first=100)}
    runs.has_base = False
    assert runs.run(more, SEED="5") == 0
    after = runs.splits()
    assert {key: after[key] for key in before} == before
    assert Counter(split for key, split in after.items() if key.startswith("circle")) == {
        "train": 24,
        "valid": 8,
        "test": 8,
    }


def test_a_relabelled_and_renamed_image_keeps_its_split(runs: Runs) -> None:
    assert runs.run(SHAPES) == 0
    before = runs.splits()
    moved = {f"square/was-{number}.jpg": SHAPES[f"circle/{number}.jpg"] for number in range(5)}
    kept = {key: file for key, file in SHAPES.items() if key not in {f"circle/{number}.jpg" for number in range(5)}}
    more = photos("circle", 12, first=50)
    assert runs.run({**kept, **moved, **more}) == 0
    after = runs.splits()
    assert all(after[f"square/was-{number}.jpg"] == before[f"circle/{number}.jpg"] for number in range(5))


def test_one_content_in_two_classes_and_in_two_splits(runs: Runs) -> None:
    # GIVEN own splits in which a training image is tested on too, and one image that has two labels
    files: Files = {}
    for split, count, first in (("train", 5, 0), ("valid", 2, 20), ("test", 2, 40)):
        for label in ("circle", "square"):
            files |= {f"{split}/{key}": file for key, file in photos(label, count, first).items()}
    files["test/square/leaked.jpg"] = files["train/square/3.jpg"]
    files["test/circle/wrong.jpg"] = files["train/square/4.jpg"]

    # WHEN the version is prepared
    assert runs.run(files) == 0

    # THEN the test set keeps the first, nobody keeps the second, and both groups are shown
    reasons = runs.reasons()
    assert reasons.keys() == {"train/square/3.jpg", "test/circle/wrong.jpg", "train/square/4.jpg"}
    assert reasons["train/square/3.jpg"] == (
        "The file shows the same image as test/square/leaked.jpg, which is in the split 'test'."
    )
    assert "'square'" in reasons["test/circle/wrong.jpg"]
    assert {
        tuple(group["files"]): (group["kind"], group["splits_joined"]) for group in runs.doctor()["duplicates"]
    } == {
        ("test/circle/wrong.jpg", "train/square/4.jpg"): ("exact", False),
        ("test/square/leaked.jpg", "train/square/3.jpg"): ("exact", True),
    }
    assert runs.splits()["test/square/leaked.jpg"] == "test"
    assert len(runs.splits()) == 17


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(runs: Runs, tmp_path: Path) -> None:
    # GIVEN a version with something of everything
    files: Files = {**SHAPES, "circle/copy.jpg": SHAPES["circle/1.jpg"], "circle/bad.jpg": Bad()}
    assert runs.run(files) == 0
    folders = runs.prepared, runs.version
    first = [contents(folder) for folder in folders]

    # WHEN it is prepared again by the script, as SageMaker runs it, in two other processes
    for seed in ("1", "2"):
        for folder in folders:
            for file in folder.iterdir():
                file.unlink()
        finished = subprocess.run(
            [sys.executable, "-W", "error", Path(contract.__file__).parent / "prepare.py"],
            env={**os.environ, **versions.ENVIRONMENT, "DATASET_VERSION": "1", "OMP_NUM_THREADS": "1",
                 "PYTHONHASHSEED": seed, "SAGEMAKER_BASE_DIR": str(runs.root)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
        assert "Done" in finished.stdout

        # THEN every byte is the same
        assert [contents(folder) for folder in folders] == first
    # AND nothing of the scratch folder is left
    assert sorted(file.name for file in runs.prepared.parent.iterdir()) == ["prepared", "version"]


def test_prepare_starts_without_torch() -> None:
    code = "import prepare, sys; sys.exit(bool({'torch', 'cleanlab', 'sklearn'} & set(sys.modules)))"
    folder = Path(contract.__file__).parent
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode == 0


@pytest.mark.parametrize(
    ("files", "code", "named"),
    [
        ({"README": Ignored()}, "EmptyDataset", "'shapes'"),
        ({"circle/notes.txt": Bad()}, "NoUsableImages", "'circle/notes.txt'"),
        ({"evil.zip": Bad("UnsafeArchive: the member '../x' would leave the archive's folder.", True)},
         "UnsafeArchive", "'../x'"),
        (photos("circle", 4), "TooFewClasses", "'circle'"),
        ({**photos("circle", 2), **photos("square", 4)}, "TooFewImages", "'circle'"),
        ({**SHAPES, "star/1.jpg": Bad()}, "TooFewImages", "'star'"),
        ({**SHAPES, **{f"star/{n}.jpg": SHAPES[f"circle/{n}.jpg"] for n in range(5)}}, "TooFewImages", "'star'"),
    ],
    ids=["empty", "nothing-usable", "unsafe", "one-class", "two-images", "damaged-class", "class-of-contradictions"],
)  # fmt: skip
def test_datasets_that_cannot_be_used(runs: Runs, files: Files, code: str, named: str) -> None:
    # GIVEN a dataset with which no classifier can be trained
    # WHEN it is prepared, THEN the error document says what is wrong with what
    assert runs.run(files) == 1
    document = runs.failure()
    assert document["code"] == code
    assert named in document["message"]
    # AND there is nothing that would make the folder look whole
    assert not (runs.prepared / "summary.json").exists()
    assert sorted(file.name for file in runs.prepared.parent.iterdir()) == ["prepared", "version"]


@pytest.mark.parametrize(
    "environment",
    [
        {"IMAGE_SIZE": "16"},
        {"SEED": "x"},
        {"DATASET": ""},
        {"BACKBONE": ""},
        {"BLOCKS_URI": ""},
    ],
)
def test_settings_that_cannot_be_used(runs: Runs, environment: dict[str, str]) -> None:
    assert runs.run(SHAPES, **environment) == 1
    assert runs.failure()["code"] == "InvalidHyperParameter"
    assert next(iter(environment)) in runs.failure()["message"]


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("version/seal.json", "seal.json"),
        ("version/objects.jsonl", "objects.jsonl"),
        ("decoded/records-algo-1.jsonl", "records-algo-1.jsonl"),
        ("decoded/decode-algo-1.json", "decode-algo-1.json"),
        (f"features/{1:032x}.npy", f"{1:032x}.npy"),
        (f"thumbnails/{1:032x}.zip", f"{1:032x}.zip"),
    ],
)
def test_inputs_that_are_missing_are_named(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, missing: str, named: str
) -> None:
    # GIVEN a version of which one file did not reach the job
    decode = Runs._decode

    def decode_and_lose(self: Runs, inputs: Path, *rest: Any) -> None:
        decode(self, inputs, *rest)
        (inputs / missing).unlink()

    monkeypatch.setattr(Runs, "_decode", decode_and_lose)

    # WHEN it is prepared, THEN the error names it
    assert runs.run({**SHAPES, "circle/copy.jpg": Usable(encoded(Image.new("RGB", (9, 9))))}) == 1
    assert runs.failure()["code"] == "MissingInput"
    assert named in runs.failure()["message"]


def test_an_object_without_a_record_is_named(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a sealed object that Decode said nothing about
    seal = Runs._seal
    monkeypatch.setattr(Runs, "_seal", lambda self, folder, files: seal(self, folder, {**files, "lost.jpg": Bad()}))

    # WHEN the version is prepared, THEN nothing is left out silently
    assert runs.run(SHAPES) == 1
    assert runs.failure()["code"] == "MissingInput"
    assert "'lost.jpg'" in runs.failure()["message"]


def test_hosts_of_decode_with_different_weights_do_not_fit_together(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Runs._decode

    def decode_on_two_hosts(self: Runs, inputs: Path, *rest: Any) -> None:
        decode(self, inputs, *rest)
        (inputs / "decoded" / "decode-algo-2.json").write_text('{"weights_sha256": "other"}', "utf-8")

    monkeypatch.setattr(Runs, "_decode", decode_on_two_hosts)
    assert runs.run(SHAPES) == 1
    assert runs.failure()["code"] == "MissingInput"
    assert "different weights" in runs.failure()["message"]


def test_prepare_says_what_it_does(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.run(SHAPES) == 0
    said = capsys.readouterr().out
    assert "20 usable images" in said
    assert "20 images in 2 classes" in said
