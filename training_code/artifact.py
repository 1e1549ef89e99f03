"""The model artefact: the network's tensors, its graph compiled for serving, and the manifest that seals them.

No torch here: Serve and Evaluate run what `export` has written. Only artefacts of format 1, which hold no
graph, still need it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import images
import numpy as np
import safetensors
import serving_engine
from contract import JobError
from numpy.typing import NDArray
from serving_engine import Engine

FORMAT = 2
# Written by droptune before it exported a graph; endpoints that serve such a model live on.
WITHOUT_GRAPH = 1
TENSORS = "model.safetensors"
GRAPH, WEIGHTS = "model.xml", "model.bin"
MANIFEST = "manifest.json"
FILES = (TENSORS, GRAPH, WEIGHTS, MANIFEST)
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
    """A loaded network and its manifest; `head` is the weight of its last layer, classes x F."""

    engine: Engine
    manifest: dict[str, Any]
    head: NDArray[np.float32]

    @property
    def classes(self) -> list[str]:
        return list(self.manifest["classes"])

    @property
    def image_size(self) -> int:
        return int(self.manifest["image_size"])

    def probabilities(self, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities N x classes of squares N x `image_size` x `image_size` x 3."""
        return self.engine.probabilities(squares)


def unpack(archive: Path, folder: Path) -> None:
    """Takes the artefact's files out of `model.tar.gz`, wherever other members would go.

    Raises JobError `ModelCorrupt` when the archive is missing or damaged.
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
        raise refused(f"{archive.name} cannot be unpacked: {error}") from error


def load(folder: Path) -> Model:
    """Loads an artefact after checking format, hashes, class count, names and shapes.

    Raises JobError `ModelCorrupt` for anything else than a whole model (a trial's `head` too).
    """
    manifest = read_manifest(folder)
    if manifest["format"] == WITHOUT_GRAPH:
        return _load_without_graph(folder, manifest)
    network = _read_network(checked_bytes(folder, GRAPH, manifest), checked_bytes(folder, WEIGHTS, manifest))
    head = _read_head(folder, manifest)
    probabilities = {name: output for output in network.outputs for name in output.names}
    for name, size in (
        (serving_engine.PROBABILITIES, len(manifest["classes"])),
        (serving_engine.FEATURES, head.shape[1]),
    ):
        shape = probabilities[name].partial_shape if name in probabilities else None
        if shape is None or shape.rank.get_length() != 2 or shape[1] != size:
            raise refused(f"the graph gives {name} of {shape}, where {size} of them are needed")
    inputs = network.inputs
    wanted = [-1, manifest["image_size"], manifest["image_size"], 3]
    if len(inputs) != 1 or [size.get_length() if size.is_static else -1 for size in inputs[0].partial_shape] != wanted:
        raise refused(f"the graph takes {[str(each.partial_shape) for each in inputs]}, not squares {wanted}")
    return Model(_compiled(network), manifest, head)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, checked but for the files that it names.

    Raises JobError `ModelCorrupt`.
    """
    if not (folder / MANIFEST).is_file():
        raise refused(f"{MANIFEST} is missing")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise refused(f"{MANIFEST} is no JSON document: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") not in (FORMAT, WITHOUT_GRAPH):
        raise refused(f"{MANIFEST} is not of format {FORMAT}")
    for name, kind in REQUIRED.items():
        value = manifest.get(name)
        if not isinstance(value, (int, float) if kind is float else kind):
            raise refused(f"{MANIFEST} has no valid {name!r}: {value!r}")
    if manifest["artifact"] != "model":
        raise refused(f"it is a trial's {manifest['artifact']!r}, without the backbone")
    for name, known in (("resize", images.RESIZE), ("interpolation", images.INTERPOLATION)):
        if manifest[name] != known:
            raise refused(f"its {name} is {manifest[name]!r}, and only {known} is known")
    if len(set(manifest["classes"])) < 2:
        raise refused("it has fewer than two classes")
    if manifest["image_size"] <= 0:
        raise refused(f"its image_size is {manifest['image_size']}")
    return manifest


def checked_bytes(folder: Path, name: str, manifest: dict[str, Any]) -> bytes:
    """A file's content, hashed and used from the same bytes, so that nothing can change in between.

    Raises JobError `ModelCorrupt` when it is missing or not what the manifest has sealed.
    """
    if not (folder / name).is_file():
        raise refused(f"{name} is missing")
    data = (folder / name).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != manifest["sha256"].get(name):
        raise refused(f"the SHA-256 of {name} is {digest}, not the manifest's")
    return data


def refused(cause: str) -> JobError:
    return JobError(
        "ModelCorrupt", f"The model artefact is refused: {cause}.", "Train again, or restore an older version."
    )


def _read_network(graph: bytes, weights: bytes) -> Any:
    try:
        return serving_engine.read_network(graph, weights)
    except RuntimeError as error:
        raise refused(f"{GRAPH} and {WEIGHTS} cannot be read: {error}") from error


def _compiled(network: Any) -> Engine:
    try:
        return Engine(network)
    except RuntimeError as error:
        raise refused(f"the graph cannot be compiled for this processor: {error}") from error


def _read_head(folder: Path, manifest: dict[str, Any]) -> NDArray[np.float32]:
    """One tensor out of the file of all of them, without holding the others in memory."""
    if not (folder / TENSORS).is_file():
        raise refused(f"{TENSORS} is missing")
    with (folder / TENSORS).open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != manifest["sha256"].get(TENSORS):
        raise refused(f"the SHA-256 of {TENSORS} is {digest}, not the manifest's")
    name = f"{manifest.get('head')}.weight"
    try:
        with safetensors.safe_open(folder / TENSORS, framework="numpy") as opened:
            head: NDArray[np.float32] = opened.get_tensor(name)
    except safetensors.SafetensorError as error:
        raise refused(f"{TENSORS} cannot be read: {error}") from error
    check_head(head.shape, name, manifest)
    return head


def check_head(shape: tuple[int, ...] | None, name: str, manifest: dict[str, Any]) -> None:
    """Raises JobError `ModelCorrupt` unless the head's weight has one row a class."""
    if shape is None or len(shape) != 2 or shape[0] != len(manifest["classes"]):
        found = "nothing" if shape is None else tuple(shape)
        raise refused(f"the head {name!r} is {found}, but the manifest has {len(manifest['classes'])} classes")


def _load_without_graph(folder: Path, manifest: dict[str, Any]) -> Model:
    try:
        # By name, since the serving image has neither it nor torch.
        export = importlib.import_module("export")
    except ImportError as error:
        raise JobError(
            "ModelCorrupt",
            f"The model artefact is of format {WITHOUT_GRAPH}, which needs torch, and this image has none: {error}",
            "Serve it with the container image that it was released with, or start a new run of its dataset.",
        ) from error
    tensors = export.read_tensors(checked_bytes(folder, TENSORS, manifest))
    network, head = export.whole_network(tensors, manifest)
    return Model(_compiled(export.converted(network, manifest)), manifest, tensors[f"{head}.weight"].numpy())
