"""The model artefact: written, packed, and refused when anything is off."""

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artifact
import numpy as np
import pytest
import safetensors.torch
import torch
from contract import JobError


def edit_manifest(folder: Path, **changes: object) -> None:
    file = folder / artifact.MANIFEST
    document = {**json.loads(file.read_text(encoding="utf-8")), **changes}
    file.write_text(
        json.dumps({name: value for name, value in document.items() if value is not None}), encoding="utf-8"
    )


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the tensors and seals the artefact again, so that only their content is off."""
    file = folder / artifact.TENSORS
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    data = safetensors.torch.save(tensors)
    file.write_bytes(data)
    edit_manifest(folder, sha256={artifact.TENSORS: hashlib.sha256(data).hexdigest()})


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / artifact.TENSORS).read_bytes())
    data[-1] ^= 1
    (folder / artifact.TENSORS).write_bytes(data)


def cut_off(folder: Path) -> None:
    data = (folder / artifact.TENSORS).read_bytes()[:1000]
    (folder / artifact.TENSORS).write_bytes(data)
    sealed = json.loads((folder / artifact.MANIFEST).read_text("utf-8"))["sha256"]
    edit_manifest(folder, sha256={**sealed, artifact.TENSORS: hashlib.sha256(data).hexdigest()})


def edit_graph(folder: Path, old: str, new: str) -> None:
    """Changes the text of the graph and seals the artefact again."""
    text = (folder / artifact.GRAPH).read_text("utf-8")
    assert old in text
    data = text.replace(old, new).encode()
    (folder / artifact.GRAPH).write_bytes(data)
    sealed = json.loads((folder / artifact.MANIFEST).read_text("utf-8"))["sha256"]
    edit_manifest(folder, sha256={**sealed, artifact.GRAPH: hashlib.sha256(data).hexdigest()})


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / artifact.MANIFEST).unlink(), "manifest.json is missing"),
    "no tensors": (lambda folder: (folder / artifact.TENSORS).unlink(), "model.safetensors is missing"),
    "no graph": (lambda folder: (folder / artifact.GRAPH).unlink(), "model.xml is missing"),
    "no weights": (lambda folder: (folder / artifact.WEIGHTS).unlink(), "model.bin is missing"),
    "no JSON": (lambda folder: (folder / artifact.MANIFEST).write_text("{"), "no JSON document"),
    "a list": (lambda folder: (folder / artifact.MANIFEST).write_text("[]"), "not of format 2"),
    "other format": (lambda folder: edit_manifest(folder, format=3), "not of format 2"),
    "other bytes": (flip_a_bit, "SHA-256"),
    "half the bytes": (cut_off, "cannot be read"),
    "no hash": (lambda folder: edit_manifest(folder, sha256={}), "SHA-256"),
    "no backbone": (lambda folder: edit_manifest(folder, backbone=None), "'backbone'"),
    "class missing": (lambda folder: edit_manifest(folder, classes=["blue", "red"]), "2 classes"),
    "classes twice": (lambda folder: edit_manifest(folder, classes=["red"] * 3), "fewer than two classes"),
    "a trial's head": (lambda folder: edit_manifest(folder, artifact="head"), "without the backbone"),
    "other filter": (lambda folder: edit_manifest(folder, interpolation="bicubic"), "bicubic"),
    "other shape": (lambda folder: edit_manifest(folder, resize="centre-crop"), "centre-crop"),
    "no size": (lambda folder: edit_manifest(folder, image_size=0), "image_size is 0"),
    "other size": (lambda folder: edit_manifest(folder, image_size=64), "not squares [-1, 64, 64, 3]"),
    "no head": (lambda folder: edit_manifest(folder, head="classifier"), "cannot be read"),
    "no graph's text": (lambda folder: edit_graph(folder, "<net ", "<nothing "), "cannot be read"),
    "other outputs": (lambda folder: edit_graph(folder, "probabilities", "scores"), "gives probabilities of None"),
}
SPOILED_WITHOUT_GRAPH: dict[str, tuple[Callable[[Path], object], str]] = {
    "half the bytes": (cut_off, "cannot be read"),
    "class missing": (lambda folder: edit_manifest(folder, classes=["blue", "red"]), "2 classes"),
    "tensor missing": (
        lambda folder: edit_tensors(folder, lambda tensors: tensors.pop("stem.0.weight")),
        "are not those of regnet_x_400mf",
    ),
    "tensor too many": (
        lambda folder: edit_tensors(folder, lambda tensors: tensors.update(extra=torch.ones(1))),
        "are not those of regnet_x_400mf",
    ),
    "no head": (lambda folder: edit_tensors(folder, lambda tensors: tensors.pop("fc.weight")), "is nothing"),
}


def without_graph(folder: Path) -> None:
    """Makes of an artefact what was written before there were graphs."""
    (folder / artifact.GRAPH).unlink()
    (folder / artifact.WEIGHTS).unlink()
    sealed = json.loads((folder / artifact.MANIFEST).read_text("utf-8"))["sha256"]
    edit_manifest(folder, format=1, head=None, serving=None, sha256={artifact.TENSORS: sealed[artifact.TENSORS]})


def check_refusal(folder: Path, reason: str) -> None:
    with pytest.raises(JobError) as caught:
        artifact.load(folder)
    assert caught.value.code == "ModelCorrupt"
    assert reason in caught.value.message


@pytest.mark.parametrize("name", SPOILED)
def test_anything_but_a_whole_model_is_refused(trained_dir: Path, name: str) -> None:
    # GIVEN a good artefact, spoiled in one way
    spoil, reason = SPOILED[name]
    spoil(trained_dir / "model")

    # WHEN it is loaded, THEN it is refused, with the reason
    check_refusal(trained_dir / "model", reason)


@pytest.mark.parametrize("name", SPOILED_WITHOUT_GRAPH)
def test_anything_but_a_whole_model_without_graph_is_refused(trained_dir: Path, name: str) -> None:
    without_graph(trained_dir / "model")
    spoil, reason = SPOILED_WITHOUT_GRAPH[name]
    spoil(trained_dir / "model")
    check_refusal(trained_dir / "model", reason)


def test_models_of_before_there_were_graphs_still_answer(trained_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a model, and the same one as format 1 had it
    squares = np.random.default_rng(0).integers(0, 256, size=(3, 32, 32, 3), dtype=np.uint8)
    expected = artifact.load(trained_dir / "model").probabilities(squares)
    without_graph(trained_dir / "model")

    # WHEN it is loaded where torch is, THEN it answers the same
    assert artifact.load(trained_dir / "model").probabilities(squares) == pytest.approx(expected, abs=1e-5)

    # AND where torch is not, as in the serving image, it says what to do
    monkeypatch.setitem(sys.modules, "export", None)
    with pytest.raises(JobError, match="needs torch") as caught:
        artifact.load(trained_dir / "model")
    assert caught.value.code == "ModelCorrupt"
    assert "new run" in caught.value.hint


def test_backbone_that_nobody_knows(trained_dir: Path) -> None:
    without_graph(trained_dir / "model")
    edit_manifest(trained_dir / "model", backbone="resnet51")
    with pytest.raises(JobError) as caught:
        artifact.load(trained_dir / "model")
    assert caught.value.code == "UnknownBackbone"


@pytest.mark.parametrize("prefix", ["", "./"])
def test_archives_are_unpacked_to_the_artefacts_files(tmp_path: Path, trained_dir: Path, prefix: str) -> None:
    # GIVEN an archive with more in it: a member that would leave the folder, and a link
    file = tmp_path / "model.tar.gz"
    with tarfile.open(file, "w:gz", compresslevel=1) as opened:
        for name in artifact.FILES:
            opened.add(trained_dir / "model" / name, arcname=f"{prefix}{name}")
        stray = tarfile.TarInfo("../stray")
        stray.size = 1
        opened.addfile(stray, io.BytesIO(b"x"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
    target = tmp_path / "inner" / "target"
    target.mkdir(parents=True)

    # WHEN it is unpacked, THEN the artefact is there, and nothing else anywhere
    artifact.unpack(file, target)
    assert sorted(path.name for path in target.iterdir()) == sorted(artifact.FILES)
    assert not (tmp_path / "inner" / "stray").exists()
    assert artifact.load(target)


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_archives_that_are_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.tar.gz").write_bytes(content)
    with pytest.raises(JobError, match="cannot be unpacked"):
        artifact.unpack(tmp_path / "model.tar.gz", tmp_path)


def test_manifest_has_the_contracts_entries(trained_dir: Path) -> None:
    document: dict[str, Any] = json.loads((trained_dir / "model" / "manifest.json").read_text("utf-8"))
    assert document.keys() == {
        "format", "backbone", "classes", "image_size", "resize", "mean", "std", "interpolation", "dropout",
        "artifact", "sha256", "metrics", "hyper_parameters", "versions", "pretrained_weights", "dataset",
        "dataset_version", "seed", "trained_on", "serving", "head",
    }  # fmt: skip
