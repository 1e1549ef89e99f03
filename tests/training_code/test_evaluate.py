"""Evaluate: the numbers against a recount, the champion, the sample, the report."""

import base64
import html.parser
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artifact
import evaluate
import images
import metrics
import numpy as np
import prepared
import pytest
import report
import train
from PIL import Image

RunJob = Callable[..., int]
Failure = Callable[[Path], dict[str, str]]
Pack = Callable[[Path, Path], Path]
TUNING = {"trials": 8, "best": {"learning_rate": 0.02, "batch_size": "16"}, "objective": 0.875}


@pytest.fixture
def evaluation_dir(tmp_path: Path, packed_once: Path, prepared_once: tuple[Path, Path]) -> Path:
    """Base folder of an evaluation job, of a model that is right on most of the test images."""
    inputs = tmp_path / "evaluation" / "processing" / "input"
    shutil.copytree(packed_once, inputs)
    for name, folder in zip(("prepared", "blocks"), prepared_once, strict=True):
        shutil.copytree(folder, inputs / name)
    return tmp_path / "evaluation"


def output(base: Path) -> Path:
    return base / "processing" / "output" / "evaluation"


def document(base: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output(base) / "evaluation.json").read_text(encoding="utf-8"))
    return content


def test_numbers_are_those_of_a_recount(evaluation_dir: Path, run_job: RunJob, tmp_path: Path) -> None:
    # GIVEN a trained model
    # WHEN it is evaluated
    assert run_job(evaluate, evaluation_dir, TUNING_SUMMARY=json.dumps(TUNING)) == 0
    content = document(evaluation_dir)

    # THEN the numbers are those that the artefact itself gives on the test images
    inputs = evaluation_dir / "processing" / "input"
    artifact.unpack(inputs / "model" / "model.tar.gz", tmp_path)
    model = artifact.load(tmp_path)
    data = prepared.open_prepared(inputs / "prepared", inputs / "blocks")
    labels, files = data.labels("test"), data.files("test")
    probabilities = model.probabilities(data.images("test")[:])
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == labels).sum())
    assert content["test_images"] == 6
    assert content["accuracy"] == pytest.approx(right / 6)
    assert content["accuracy_interval"] == pytest.approx(metrics.wilson_interval(right, 6))
    assert content["top_3_accuracy"] == 1.0
    assert content["majority_accuracy"] == pytest.approx(1 / 3)
    assert {row["label"]: row["images"] for row in content["per_class"]} == {"blue": 2, "green": 2, "red": 2}
    assert [row["f1"] for row in content["per_class"]] == sorted(row["f1"] for row in content["per_class"])
    assert len(content["worst_mistakes"]) == 6 - right
    for mistake in content["worst_mistakes"]:
        row = files.index(mistake["file"])
        assert mistake["true"] == model.classes[labels[row]] != mistake["predicted"]
        assert mistake["predicted"] == model.classes[predicted[row]]
        assert mistake["score"] == pytest.approx(probabilities[row].max(), rel=1e-4)

    # AND the rest of the contract's entries are there
    assert content["images"] == {"train": 18, "valid": 6, "test": 6}
    assert (content["dataset"], content["dataset_version"]) == ("shapes", 1)
    assert content["run"] == "shapes-261122143912-9f3a"
    assert content["champion"] is None
    assert (content["quarantined"], content["quarantined_count"]) == ([], 0)
    assert content["classes"] == model.classes
    assert content["hyper_parameters"]["learning_rate"] == 0.02
    assert content.keys() == {
        "dataset", "dataset_version", "run", "test_images", "accuracy", "accuracy_interval", "top_3_accuracy",
        "macro_f1", "majority_accuracy", "per_class", "confused_pairs", "worst_mistakes", "champion",
        "quarantined", "quarantined_count", "sample", "hyper_parameters", "backbone", "classes", "serving", "images",
    }  # fmt: skip

    # AND the sample is an image that the model labels right when it is sent as a file
    sample = (output(evaluation_dir) / "sample.jpg").read_bytes()
    best = model.probabilities(images.decode_square(sample, model.image_size)[None]).argmax()
    assert model.classes[best] == content["sample"]["label"] == content["sample"]["file"].split("/")[0]


def test_champion_is_measured_on_the_same_images(
    evaluation_dir: Path,
    run_job: RunJob,
    decode_and_prepare: RunJob,
    pack: Pack,
    tmp_path: Path,
    fill_dataset: Callable[..., None],
) -> None:
    # GIVEN a champion that knows only two of the three classes, and sees smaller images
    fill_dataset(classes=("blue", "red"))
    old = tmp_path / "champion"
    assert decode_and_prepare(tmp_path, IMAGE_SIZE="40") == 0
    (old / "input").mkdir(parents=True)
    (tmp_path / "processing" / "output").rename(old / "input" / "data")
    (old / "input" / "config").mkdir()
    (old / "input" / "config" / "hyperparameters.json").write_text(
        json.dumps({"backbone": "regnet_x_400mf", "epochs": "12", "learning_rate": "0.02"}), encoding="utf-8"
    )
    assert run_job(train, old) == 0
    inputs = evaluation_dir / "processing" / "input"
    pack(old / "model", inputs / "champion" / "model.tar.gz")

    # WHEN the new model is evaluated beside it
    assert run_job(evaluate, evaluation_dir, CHAMPION_VERSION="3") == 0

    # THEN its accuracy is measured with its own image size, green images counting as its mistakes
    champion = artifact.load(old / "model")
    data = prepared.open_prepared(inputs / "prepared", inputs / "blocks")
    resized = np.stack([evaluate.resized(square, champion.image_size) for square in data.images("test")])
    predicted = [champion.classes[row.argmax()] for row in champion.probabilities(resized)]
    true = [data.classes[label] for label in data.labels("test")]
    expected = sum(a == b for a, b in zip(predicted, true, strict=True)) / 6
    assert 0 < expected <= 4 / 6
    assert document(evaluation_dir)["champion"] == {"version": 3, "accuracy": pytest.approx(expected)}
    page = (output(evaluation_dir) / "report.html").read_text(encoding="utf-8")
    assert "version 3" in page


class Page(html.parser.HTMLParser):
    """Collects what a page would load, and checks that its tags are closed in order."""

    VOID = ("meta", "img", "br", "line")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_report_is_one_self_contained_page(evaluation_dir: Path, run_job: RunJob) -> None:
    # GIVEN prepared data with bad files, one with a name that would be HTML
    file = evaluation_dir / "processing" / "input" / "prepared" / "summary.json"
    summary = json.loads(file.read_text(encoding="utf-8"))
    bad = [{"file": f"<script>alert({n})</script>.jpg", "reason": "Cut.", "hint": "Again."} for n in range(12)]
    file.write_text(json.dumps({**summary, "quarantined": bad}), encoding="utf-8")

    # WHEN the model is evaluated
    assert run_job(evaluate, evaluation_dir, TUNING_SUMMARY=json.dumps(TUNING)) == 0
    text = (output(evaluation_dir) / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)

    # THEN the page is well-formed and loads nothing but what it holds
    assert page.open == []
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.loads)
    assert not re.search(r"@import|url\(", text)
    assert "<script" not in text
    # AND it shows what a reader wants to know
    words = " ".join(" ".join(page.text).split())
    content = document(evaluation_dir)
    assert report.percent(content["accuracy"]) in words
    assert "There is no model in service" in words
    assert "Tuning tried 8 settings" in words
    assert "88 %" in words
    assert "<script>alert(11)</script>.jpg" in words
    assert "12 files of the dataset could not be used" in words
    assert text.count("<polyline") == 4
    # AND evaluation.json lists ten of the bad files, and counts all
    assert len(content["quarantined"]) == 10
    assert content["quarantined_count"] == 12


@pytest.mark.slow
def test_evaluation_runs_as_a_process_without_the_optional_inputs(
    evaluation_dir: Path, run_script: Callable[..., Any]
) -> None:
    # GIVEN no output of the training, no champion and no tuning
    (evaluation_dir / "processing" / "input" / "output" / "output.tar.gz").unlink()

    # WHEN the script runs as SageMaker runs it, THEN it says what is missing and does the rest
    finished = run_script("evaluate.py", evaluation_dir)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "no learning curve" in finished.stdout
    page = (output(evaluation_dir) / "report.html").read_text(encoding="utf-8")
    assert "Learning curve" not in page
    assert "were not tuned" in page


def no_model(inputs: Path) -> None:
    (inputs / "model" / "model.tar.gz").unlink()


def broken_model(inputs: Path) -> None:
    (inputs / "model" / "model.tar.gz").write_bytes(b"no archive")


def other_classes(inputs: Path) -> None:
    file = inputs / "prepared" / "summary.json"
    summary = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**summary, "classes": ["a", "b", "c"]}), encoding="utf-8")


def broken_output(inputs: Path) -> None:
    (inputs / "output" / "output.tar.gz").write_bytes(b"no archive")


@pytest.mark.parametrize(
    ("spoil", "environment", "code"),
    [
        (no_model, {}, "MissingInput"),
        (broken_model, {}, "ModelCorrupt"),
        (other_classes, {}, "ModelCorrupt"),
        (broken_output, {}, "MissingInput"),
        (None, {"CHAMPION_VERSION": "3"}, "MissingInput"),
        (None, {"CHAMPION_VERSION": "three"}, "InvalidHyperParameter"),
        (None, {"TUNING_SUMMARY": "{"}, "InvalidHyperParameter"),
        (None, {"RUN": ""}, "InvalidHyperParameter"),
    ],
)
def test_evaluations_that_cannot_run(
    evaluation_dir: Path,
    run_job: RunJob,
    failure: Failure,
    spoil: Callable[[Path], None] | None,
    environment: dict[str, str],
    code: str,
) -> None:
    if spoil:
        spoil(evaluation_dir / "processing" / "input")
    assert run_job(evaluate, evaluation_dir, **environment) == 1
    assert failure(evaluation_dir)["code"] == code
    assert not (output(evaluation_dir) / "evaluation.json").exists()


def test_no_sample_when_no_image_is_labelled_right(trained_dir: Path, tmp_path: Path) -> None:
    # GIVEN a test split on which the model is always wrong
    model = artifact.load(trained_dir / "model")
    channels = trained_dir / "input" / "data"
    data = prepared.open_prepared(channels / "prepared", channels / "blocks")
    probabilities = evaluate.predict(model, data)
    wrong = (probabilities.argmax(axis=1) + 1) % 3
    test = evaluate.Test(model.classes, data.files("test"), wrong, probabilities)

    # WHEN a sample is asked for, THEN there is none, and no file
    assert evaluate.save_sample(test, model, data, tmp_path / "sample.jpg") is None
    assert not (tmp_path / "sample.jpg").exists()


@pytest.mark.parametrize(
    ("champion", "words"),
    [
        (None, "no model in service"),
        ({"version": 3, "accuracy": 0.5}, "better than version 3"),
        ({"version": 3, "accuracy": 0.9}, "worse than version 3"),
        ({"version": 3, "accuracy": 0.8}, "as good as version 3"),
    ],
)
def test_verdict(champion: dict[str, Any] | None, words: str) -> None:
    sentence = report.verdict(
        {"accuracy": 0.8, "test_images": 50, "accuracy_interval": [0.67, 0.89], "champion": champion}
    )
    assert "80 % of 50 images" in sentence
    assert words in sentence


def test_plots_of_a_diverged_training_leave_out_what_is_no_number() -> None:
    names = ("train:loss", "train:accuracy", "validation:loss", "validation:accuracy")
    history = [{"epoch": epoch, **dict.fromkeys(names, 0.5)} for epoch in (1, 2, 3)]
    history[1]["validation:loss"] = float("nan")
    _, loss = report.plots(history)
    assert [len(line["points"].split()) for line in loss["lines"]] == [3, 2]
    assert report.plots(history[:1]) == []


def test_thumbnails_are_small_jpegs() -> None:
    uri = report.thumbnail(np.full((256, 256, 3), 200, dtype=np.uint8))
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))) as image:
        assert image.size == (report.THUMBNAIL_PIXELS, report.THUMBNAIL_PIXELS)
