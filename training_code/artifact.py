"""The model artefact: `model.safetensors` and the `manifest.json` that describes and seals it."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import backbones
import images
import network_inputs
import numpy as np
import safetensors
import safetensors.torch
import torch
from contract import JobError
from numpy.typing import NDArray
from torch import nn

FORMAT = 1
TENSORS = "model.safetensors"
MANIFEST = "manifest.json"
FILES = (TENSORS, MANIFEST)
# What a loader reads from the manifest, and its type.
REQUIRED = {
    "backbone": str,
    "classes": list,
    "image_size": int,
    "resize": str,
    "mean": list,
    "std": list,
    "interpolation": str,
    "dropout": float,
    "artifact": str,
    "sha256": dict,
    "dataset": str,
    "dataset_version": int,
}


@dataclass(frozen=True)
class Model:
    """A loaded network, made fast by `backbones.for_inference`, and its manifest."""

    network: nn.Module
    manifest: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        return list(self.manifest["classes"])

    @property
    def image_size(self) -> int:
        return int(self.manifest["image_size"])

    def probabilities(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities N x classes of squares N x `image_size` x `image_size` x 3."""
        with torch.inference_mode():
            inputs = network_inputs.normalise(
                torch.from_numpy(np.ascontiguousarray(squares)),
                tuple(self.manifest["mean"]),
                tuple(self.manifest["std"]),
            )
            scores = self.network(inputs).softmax(dim=1)
        result: NDArray[np.float32] = scores.numpy()
        return result


def save(folder: Path, tensors: dict[str, torch.Tensor], manifest: dict[str, Any]) -> None:
    """Writes both files into `folder` (made if needed); `format` and `sha256` of the manifest are filled in here."""
    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TENSORS).write_bytes(data)
    sealed = {"format": FORMAT, **manifest, "sha256": {TENSORS: hashlib.sha256(data).hexdigest()}}
    (folder / MANIFEST).write_text(json.dumps(sealed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def unpack(archive: Path, folder: Path) -> None:
    """Takes the two files out of `model.tar.gz`, wherever other members would go.

    Raises JobError `ModelCorrupt` when the archive is missing, damaged, or lacks one of them.
    """
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                name = member.name.removeprefix("./")
                source = opened.extractfile(member) if member.isfile() and name in FILES else None
                if source is not None:
                    with source:
                        (folder / name).write_bytes(source.read())
    except (OSError, tarfile.TarError, EOFError) as error:
        raise _refused(f"{archive.name} cannot be unpacked: {error}") from error


def load(folder: Path) -> Model:
    """Loads an artefact after checking format, hash, class count, names and shapes.

    Raises JobError `ModelCorrupt` for anything else than a whole model (a trial's `head` too).
    """
    manifest = _read_manifest(folder)
    if not (folder / TENSORS).is_file():
        raise _refused(f"{TENSORS} is missing")
    # Hashed and read from the same bytes, so that nothing can change in between.
    data = (folder / TENSORS).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != manifest["sha256"].get(TENSORS):
        raise _refused(f"the SHA-256 of {TENSORS} is {digest}, not the manifest's")
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise _refused(f"{TENSORS} cannot be read: {error}") from error

    network = backbones.create_on_meta(manifest["backbone"])
    name = backbones.head_name(network, manifest["backbone"])
    matrix = tensors.get(f"{name}.weight")
    if matrix is None or matrix.ndim != 2 or matrix.shape[0] != len(manifest["classes"]):
        shape = "nothing" if matrix is None else tuple(matrix.shape)
        raise _refused(f"the head {name!r} is {shape}, but the manifest has {len(manifest['classes'])} classes")
    with torch.device("meta"):
        head = backbones.Head(matrix.shape[1], matrix.shape[0], dropout=0.0)
    backbones.set_head(network, name, head)
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise _refused(f"the tensors are not those of {manifest['backbone']}: {error}") from error
    return Model(backbones.for_inference(network), manifest)


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise _refused(f"{MANIFEST} is missing")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(f"{MANIFEST} is no JSON document: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _refused(f"{MANIFEST} is not of format {FORMAT}")
    for name, kind in REQUIRED.items():
        value = manifest.get(name)
        if not isinstance(value, (int, float) if kind is float else kind):
            raise _refused(f"{MANIFEST} has no valid {name!r}: {value!r}")
    if manifest["artifact"] != "model":
        raise _refused(f"it is a trial's {manifest['artifact']!r}, without the backbone")
    for name, known in (("resize", images.RESIZE), ("interpolation", images.INTERPOLATION)):
        if manifest[name] != known:
            raise _refused(f"its {name} is {manifest[name]!r}, and only {known} is known")
    if len(set(manifest["classes"])) < 2:
        raise _refused("it has fewer than two classes")
    if manifest["image_size"] <= 0:
        raise _refused(f"its image_size is {manifest['image_size']}")
    return manifest


def _refused(cause: str) -> JobError:
    return JobError(
        "ModelCorrupt", f"The model artefact is refused: {cause}.", "Train again, or restore an older version."
    )
