"""Tiny datasets, and real runs of the entry points on them.

`run_job` runs an entry point's body in this process, which saves the seconds that importing torch takes;
`run_script` runs it as SageMaker does, as a process of its own.
"""

import functools
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import contract
import decode
import evaluate
import numpy as np
import prepare
import pytest
import train
from chalicelib import names
from chalicelib.dataset_objects import hash_objects
from PIL import Image
from prepared import FEATURES, THUMBNAILS, write_lines

TRAINING_CODE = Path(contract.__file__).parent
# Random weights, for mechanics. The smallest network of torchvision whose activations do not vanish then:
# it can tell colours apart.
BACKBONE = "regnet_x_400mf"
ENVIRONMENT = {
    "DATASET": "shapes",
    "DATASET_VERSION": "1",
    "BACKBONE": BACKBONE,
    "IMAGE_SIZE": "32",
    "SEED": "0",
    "PRETRAINED": "false",
    "BLOCKS_URI": "s3://droptune/prepared/shapes/recipe/blocks/",
    "RUN": "shapes-261122143912-9f3a",
    "CHAMPION_VERSION": "",
    "TUNING_SUMMARY": "",
}
COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}
FAILURE_FILES = {decode: "message", prepare: "message", evaluate: "message", train: "failure"}

RunJob = Callable[..., int]
RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


class PreparedFolders(NamedTuple):
    """The two folders of a prepared version, in the order in which `open_prepared` takes them."""

    version: Path
    blocks: Path


def make_photo(file: Path, colour: tuple[int, int, int], seed: int) -> Path:
    """A noisy JPEG of one colour, 60 x 40 pixels."""
    # Photos of two colours must not look the same in grey: they would be duplicates.
    noise = np.random.default_rng([*colour, seed]).integers(-40, 40, size=(40, 60, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, format="JPEG")
    return file


def fill(folder: Path, images_per_class: int = 10, classes: tuple[str, ...] = tuple(COLOURS), first: int = 0) -> None:
    for label in classes:
        for number in range(first, first + images_per_class):
            make_photo(folder / label / f"{number}.jpg", COLOURS[label], seed=number)


@pytest.fixture
def photo() -> Callable[[Path, tuple[int, int, int], int], Path]:
    return make_photo


@pytest.fixture
def dataset_dir(tmp_path: Path) -> Path:
    """The input folder of a decode job below `tmp_path`, empty."""
    folder = tmp_path / "processing" / "input" / "dataset"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def fill_dataset(dataset_dir: Path) -> Callable[..., None]:
    """Fills `dataset_dir` (or a folder below it) with classes of photos; photos of one number are equal."""

    def fill_below(
        below: str = "", images_per_class: int = 10, classes: tuple[str, ...] = tuple(COLOURS), first: int = 0
    ) -> None:
        fill(dataset_dir / below, images_per_class, classes, first)

    return fill_below


def run_in_process(patch: pytest.MonkeyPatch, module: ModuleType, base: Path, **environment: str) -> int:
    handler = signal.getsignal(signal.SIGTERM)
    for name, value in {**ENVIRONMENT, **environment, "SAGEMAKER_BASE_DIR": str(base)}.items():
        patch.setenv(name, value)
    try:
        return contract.run(module.main, base / "output" / FAILURE_FILES[module])
    finally:
        signal.signal(signal.SIGTERM, handler)


def seal(base: Path, version: int) -> None:
    """Writes the seal of the dataset below `base` as Settle does, as a first version, into Prepare's input."""
    dataset = base / "processing" / "input" / "dataset"
    paths = {file.relative_to(dataset).as_posix(): file for file in dataset.rglob("*") if file.is_file()}
    objects = [
        {
            "key": key,
            "size": path.stat().st_size,
            "etag": hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
        }
        for key, path in sorted(paths.items())
        if names.is_data(key)
    ]
    folder = base / "processing" / "input" / "version"
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "objects.jsonl", objects)
    diff = {"parent": None, "added": [entry["key"] for entry in objects], "removed": [], "changed": []}
    (folder / "diff.json").write_text(json.dumps(diff), "utf-8")
    document = {
        "dataset": ENVIRONMENT["DATASET"],
        "version": version,
        "parent": None,
        "content_hash": hash_objects(objects),
        "objects": len(objects),
        "bytes": sum(path.stat().st_size for path in paths.values()),
        "added": len(objects),
        "removed": 0,
        "changed": 0,
        "sealed_at": "2026-11-22T14:39:12Z",
    }
    (folder / "seal.json").write_text(json.dumps(document), "utf-8")


def decode_and_prepare_in_process(patch: pytest.MonkeyPatch, base: Path, **environment: str) -> int:
    """Runs both jobs on the dataset below `base`, with nothing to build on; returns the last exit status.

    The prepared version is below `processing/output`: `prepared` and `blocks`.
    """
    if status := run_in_process(patch, decode, base, **environment):
        return status
    inputs, outputs = base / "processing" / "input", base / "processing" / "output"
    seal(base, int(environment.get("DATASET_VERSION", ENVIRONMENT["DATASET_VERSION"])))
    for name, source in (
        ("decoded", outputs / "decoded"),
        (FEATURES, outputs / "blocks" / FEATURES),
        (THUMBNAILS, outputs / "blocks" / THUMBNAILS),
    ):
        (inputs / name).symlink_to(source)
    return run_in_process(patch, prepare, base, **environment)


@pytest.fixture
def decode_and_prepare(monkeypatch: pytest.MonkeyPatch) -> RunJob:
    """`decode_and_prepare(base_dir, **environment)` → exit status."""
    return functools.partial(decode_and_prepare_in_process, monkeypatch)


@pytest.fixture
def run_job(monkeypatch: pytest.MonkeyPatch) -> RunJob:
    """`run_job(module, base_dir, **environment)` → exit status."""
    return functools.partial(run_in_process, monkeypatch)


@pytest.fixture
def start_script() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """`start_script("train.py", base_dir, **environment)` → a running process; killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, base: Path, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(TRAINING_CODE / script)],
            env={
                **os.environ,
                **ENVIRONMENT,
                "OMP_NUM_THREADS": "1",
                "PYTHONWARNINGS": "error",
                "SAGEMAKER_BASE_DIR": str(base),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run_script(start_script: Callable[..., "subprocess.Popen[str]"]) -> RunScript:
    """Like `start_script`, waiting for the end."""

    def run(script: str, base: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        process = start_script(script, base, **environment)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return run


@pytest.fixture
def failure() -> Callable[[Path], dict[str, str]]:
    """Reads the error document that a failed job left below its base folder."""

    def read(base: Path) -> dict[str, str]:
        for name in ("failure", "message"):
            if (file := base / "output" / name).is_file():
                text = file.read_text(encoding="utf-8")
                assert len(text) <= 1024
                document: dict[str, str] = json.loads(text)
                assert set(document) == {"code", "message", "hint"}
                return document
        raise AssertionError(f"There is no error document below {base}.")

    return read


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory: pytest.TempPathFactory) -> PreparedFolders:
    """Prepared data of 3 classes x 10 photos, to be read only."""
    base = tmp_path_factory.mktemp("prepared")
    fill(base / "processing" / "input" / "dataset")
    with pytest.MonkeyPatch.context() as patch:
        assert decode_and_prepare_in_process(patch, base) == 0
    outputs = base / "processing" / "output"
    return PreparedFolders(outputs / "prepared", outputs / "blocks")


def make_training(base: Path, prepared: PreparedFolders, hyper_parameters: dict[str, str]) -> Path:
    for channel, folder in (("prepared", prepared.version), ("blocks", prepared.blocks)):
        shutil.copytree(folder, base / "input" / "data" / channel)
    config = base / "input" / "config"
    config.mkdir(parents=True)
    # Quantising takes seconds; what comes of it is shown in test_export.py.
    given = {"backbone": BACKBONE, "epochs": "3", "quantize": "false", **hyper_parameters}
    (config / "hyperparameters.json").write_text(json.dumps(given), encoding="utf-8")
    return base


@pytest.fixture
def training_dir(tmp_path: Path, prepared_once: PreparedFolders) -> Callable[..., Path]:
    """`training_dir(epochs="3", …)` → base folder of a training job with those hyper-parameters."""
    numbers = itertools.count()

    def make(**hyper_parameters: str) -> Path:
        return make_training(tmp_path / f"training-{next(numbers)}", prepared_once, hyper_parameters)

    return make


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory, prepared_once: PreparedFolders) -> Path:
    """Base folder of a training that has ended well, to be read only."""
    base = tmp_path_factory.mktemp("trained") / "base"
    make_training(base, prepared_once, {"epochs": "12", "learning_rate": "0.02"})
    with pytest.MonkeyPatch.context() as patch:
        assert run_in_process(patch, train, base) == 0
    return base


@pytest.fixture
def trained_dir(tmp_path: Path, trained_once: Path) -> Path:
    """A copy of `trained_once`."""
    return Path(shutil.copytree(trained_once, tmp_path / "trained"))


def pack_folder(folder: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    # The fastest compression: the tests are about what is in the archive.
    with tarfile.open(archive, "w:gz", compresslevel=1) as opened:
        opened.add(folder, arcname=".")
    return archive


@pytest.fixture
def pack() -> Callable[[Path, Path], Path]:
    """Packs a folder's content as SageMaker does."""
    return pack_folder


@pytest.fixture(scope="session")
def packed_once(tmp_path_factory: pytest.TempPathFactory, trained_once: Path) -> Path:
    """`model/model.tar.gz` and `output/output.tar.gz` of `trained_once`, to be read only."""
    folder = tmp_path_factory.mktemp("packed")
    pack_folder(trained_once / "model", folder / "model" / "model.tar.gz")
    pack_folder(trained_once / "output" / "data", folder / "output" / "output.tar.gz")
    return folder
