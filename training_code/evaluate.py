"""Evaluate: how good the new model is on images it never saw, and whether it beats the one in service.

Features
    - Loads the artefact with the checked loader that Serve uses, and runs its graph on the test split: what
      is measured is what will be served, int8 included.
    - Measures the champion on the same images. Classes it does not know count as its mistakes.
    - Writes `evaluation.json` for the workflow, `report.html` for people, and `sample.jpg`, an image that
      the new model labels right, with which a release can be proven live.

Trade-offs
    - Runs on the CPU: a test split is small, and numbers then do not depend on the accelerator.
    - `per_class` in `evaluation.json` lists the ten worst classes only (the report has all), so that the
      document stays small enough for a mail.

Environment
    DATASET, DATASET_VERSION, RUN, CHAMPION_VERSION (empty: there is none), TUNING_SUMMARY (JSON, may be
    empty), SAGEMAKER_BASE_DIR.

Errors (JobError codes; see docs/reference/contracts.md)
    MissingInput (prepared data, a model archive), ModelCorrupt (either model), InvalidHyperParameter (a
    bad environment variable), OutOfMemory, InternalError.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import artifact
import contract
import images
import metrics
import numpy as np
import report
from contract import JobError
from numpy.typing import NDArray
from PIL import Image
from prepared import Prepared, open_prepared

# Lists in evaluation.json; a mail shows no more, and a state machine's payload is limited.
MAX_ENTRIES = 10
TOP_K = 3
BATCH_IMAGES = 8
SAMPLE_QUALITY = 95


@dataclass(frozen=True)
class Test:
    """The test split as one model sees it: labels N (indices into `classes`), probabilities N x classes."""

    classes: list[str]
    files: list[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.int64]:
        best: NDArray[np.int64] = np.argmax(self.probabilities, axis=1)
        return best

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.equal(self.predicted, self.labels)


def main() -> None:
    data = open_prepared(contract.processing_input("prepared"), contract.processing_input("blocks"))
    model = load_archive(contract.processing_input("model"))
    if model.classes != data.classes:
        raise JobError(
            "ModelCorrupt",
            f"The model's classes are {model.classes}, the prepared data's {data.classes}.",
            "Evaluate a model with the dataset version it was trained on.",
        )
    test = Test(data.classes, data.files("test"), np.array(data.labels("test")), predict(model, data))
    print(f"Model: {test.right.sum()} of {len(test.labels)} test images right.", flush=True)
    champion = measure_champion(test, data)

    target = contract.processing_output("evaluation")
    matrix = metrics.confusion_matrix(test.labels, test.predicted, len(test.classes))
    rows = metrics.per_class(matrix, test.classes)
    document = {
        "dataset": contract.environment_text("DATASET"),
        "dataset_version": contract.environment_integer("DATASET_VERSION", 1, 10**9),
        "run": contract.environment_text("RUN"),
        "test_images": len(test.labels),
        "accuracy": float(test.right.mean()),
        "accuracy_interval": list(metrics.wilson_interval(int(test.right.sum()), len(test.labels))),
        "top_3_accuracy": metrics.top_k_accuracy(test.labels, test.probabilities, TOP_K),
        "macro_f1": metrics.macro_f1(rows),
        "majority_accuracy": majority_accuracy(test, data),
        "per_class": sorted(rows, key=lambda row: (row["f1"], row["label"]))[:MAX_ENTRIES],
        "confused_pairs": metrics.confused_pairs(matrix, test.classes)[:MAX_ENTRIES],
        "worst_mistakes": worst_mistakes(test)[:MAX_ENTRIES],
        "champion": champion,
        "quarantined": data.summary["quarantined"][:MAX_ENTRIES],
        "quarantined_count": len(data.summary["quarantined"]),
        "sample": save_sample(test, model, data, target / "sample.jpg"),
        "hyper_parameters": model.manifest["hyper_parameters"],
        "backbone": model.manifest["backbone"],
        "classes": test.classes,
        "serving": model.manifest.get("serving"),
        "images": {split: sum(counts.values()) for split, counts in data.summary["counts"].items()},
    }
    write_report(target / "report.html", document, matrix, rows, data)
    # Last, so that an evaluation.json stands for a whole folder.
    (target / "evaluation.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")


def load_archive(folder: Path) -> artifact.Model:
    archive = folder / "model.tar.gz"
    if not archive.is_file():
        raise JobError(
            "MissingInput", f"There is no model.tar.gz in {folder}.", "Give the job a training job's output."
        )
    with tempfile.TemporaryDirectory(prefix="model-") as unpacked:
        artifact.unpack(archive, Path(unpacked))
        return artifact.load(Path(unpacked))


def predict(model: artifact.Model, data: Prepared) -> NDArray[np.float32]:
    """Probabilities of the test split, N x the model's classes."""
    squares = data.images("test")
    blocks = []
    for start in range(0, len(squares), BATCH_IMAGES):
        block = np.array(squares[start : start + BATCH_IMAGES])
        if block.shape[1] != model.image_size:
            block = np.stack([resized(square, model.image_size) for square in block])
        blocks.append(model.probabilities(block))
    return np.concatenate(blocks)


def resized(square: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The square at another size, for a champion whose images had another one."""
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR))


def measure_champion(test: Test, data: Prepared) -> dict[str, Any] | None:
    if not os.environ.get("CHAMPION_VERSION", "").strip():
        return None
    version = contract.environment_integer("CHAMPION_VERSION", 1, 10**9)
    model = load_archive(contract.processing_input("champion"))
    predicted = np.array(model.classes)[predict(model, data).argmax(axis=1)]
    accuracy = float((predicted == np.array(test.classes)[test.labels]).mean())
    print(f"Champion, version {version}: accuracy {accuracy:.4f} on the same images.", flush=True)
    return {"version": version, "accuracy": accuracy}


def majority_accuracy(test: Test, data: Prepared) -> float:
    """Accuracy of always naming the class with most training images: the least a model must beat."""
    counts = data.summary["counts"]["train"]
    most = max(test.classes, key=lambda label: counts[label])
    return float((test.labels == test.classes.index(most)).mean())


def worst_mistakes(test: Test) -> list[dict[str, Any]]:
    """The wrongly labelled images, those the model was surest about first."""
    scores = test.probabilities.max(axis=1)
    wrong = sorted(np.flatnonzero(~test.right), key=lambda row: -scores[row])
    return [
        {
            "file": test.files[row],
            "true": test.classes[test.labels[row]],
            "predicted": test.classes[test.predicted[row]],
            "score": float(scores[row]),
        }
        for row in wrong
    ]


def save_sample(test: Test, model: artifact.Model, data: Prepared, target: Path) -> dict[str, str] | None:
    """Saves the image that the model labels right most surely, also after the JPEG's own losses."""
    squares = data.images("test")
    surest = sorted(np.flatnonzero(test.right), key=lambda row: -test.probabilities[row].max())
    for row in surest:
        Image.fromarray(np.array(squares[row])).save(target, format="JPEG", quality=SAMPLE_QUALITY)
        again = images.decode_square(target.read_bytes(), model.image_size)
        if model.probabilities(again[None]).argmax() == test.labels[row]:
            return {"file": test.files[row], "label": test.classes[test.labels[row]]}
    target.unlink(missing_ok=True)
    return None


def write_report(
    target: Path,
    document: dict[str, Any],
    matrix: NDArray[np.int64],
    rows: list[dict[str, Any]],
    data: Prepared,
) -> None:
    row_of = {file: row for row, file in enumerate(data.files("test"))}
    squares = data.images("test")
    mistakes = [
        {**mistake, "pixels": np.array(squares[row_of[mistake["file"]]])} for mistake in document["worst_mistakes"]
    ]
    page = report.render(
        document,
        matrix=matrix,
        per_class=rows,
        counts=data.summary["counts"],
        mistakes=mistakes,
        history=read_history(contract.processing_input("output") / "output.tar.gz"),
        tuning=read_tuning(),
        quarantined=data.summary["quarantined"],
    )
    target.write_text(page, encoding="utf-8")


def read_history(archive: Path) -> list[dict[str, Any]]:
    """`history.json` out of a training job's output; without it the report has no learning curve."""
    if not archive.is_file():
        print("There is no output.tar.gz: the report will have no learning curve.", flush=True)
        return []
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                if Path(member.name).name == "history.json" and (source := opened.extractfile(member)):
                    history: list[dict[str, Any]] = json.loads(source.read())
                    return history
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise JobError(
            "MissingInput", f"output.tar.gz cannot be read: {error}", "Run the training job again."
        ) from error
    print("output.tar.gz holds no history.json: the report will have no learning curve.", flush=True)
    return []


def read_tuning() -> dict[str, Any] | None:
    text = os.environ.get("TUNING_SUMMARY", "").strip()
    if not text:
        return None
    try:
        summary: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise JobError(
            "InvalidHyperParameter",
            f"The environment variable TUNING_SUMMARY is no JSON document: {error}",
            'Set it to {"trials": …, "best": {…}, "objective": …}, or leave it empty.',
        ) from error
    return summary


if __name__ == "__main__":
    sys.exit(contract.run(main, contract.processing_failure_file()))
