"""Export: a trained network as the graph that is served, int8 where that costs no accuracy.

The graph takes squares of 8-bit RGB as Decode stores them; the normalisation is part of it, traced from the
code that training runs, so the two cannot differ. It is OpenVINO's intermediate representation, `model.xml`
and `model.bin`, and runs on any x86-64 or arm64 processor. Its outputs are in `serving_engine`.

Post-training quantisation to int8 (NNCF: symmetric weights and activations, fast bias correction) is
calibrated on training images and kept only if the validation split says so. What that is worth, and what it
costs: docs/decisions/0010-the-serving-engine.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import artifact
import backbones
import network_inputs
import numpy as np
import safetensors
import safetensors.torch
import torch
from contract import JobError
from numpy.typing import NDArray
from prepared import Prepared, Rows
from serving_engine import FEATURE_MAP, FEATURES, INPUT, PROBABILITIES, Engine, openvino
from torch import nn

logger = logging.getLogger("droptune.training_code")

# Loss of top-1 accuracy on the validation split that int8 may cost.
MAX_ACCURACY_LOSS = 0.005
# On the example photos, more change neither accuracy nor agreement (docs/decisions/0010-the-serving-engine.md).
CALIBRATION_IMAGES = 64
# Enough to tell half a point, and minutes less than all of a large split.
MAX_VALIDATION_IMAGES = 500
# How closely a graph has to follow the network that it was made from.
TOLERANCE = 1e-3


def save(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    manifest: dict[str, Any],
    data: Prepared | None = None,
) -> None:
    """Writes the artefact into `folder` (made if needed); `format`, `sha256` and `serving` are filled in here.

    `tensors` are the whole network's, or those of a trial's head, which is not exported. `data` is what the
    int8 graph is calibrated and measured on; without it the graph stays fp32.

    Raises JobError `InternalError` when the network cannot be turned into a graph that gives the same numbers.
    """
    content = {artifact.TENSORS: safetensors.torch.save(_on_cpu(tensors))}
    sealed: dict[str, Any] = {"format": artifact.FORMAT, **manifest, "serving": None}
    if manifest["artifact"] == "model":
        network, sealed["head"] = whole_network(tensors, manifest)
        graph = converted(network, manifest)
        graph, sealed["serving"] = _smallest(graph, data)
        sealed["versions"] = {**manifest["versions"], "openvino": openvino.get_version()}
        content |= _serialised(graph)
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in content.items():
        (folder / name).write_bytes(file)
    sealed["sha256"] = {name: hashlib.sha256(file).hexdigest() for name, file in content.items()}
    text = json.dumps(sealed, indent=1, ensure_ascii=False)
    (folder / artifact.MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Raises JobError `ModelCorrupt` for bytes that are no safetensors file."""
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise artifact.refused(f"{artifact.TENSORS} cannot be read: {error}") from error


def whole_network(tensors: dict[str, torch.Tensor], manifest: dict[str, Any]) -> tuple[nn.Module, str]:
    """The network in evaluation mode, on the CPU, and the name of its head.

    Raises JobError `ModelCorrupt` when the tensors are not the network's, or the head is not the classes'.
    """
    network = backbones.create_on_meta(manifest["backbone"])
    name = backbones.head_name(network, manifest["backbone"])
    matrix = tensors.get(f"{name}.weight")
    artifact.check_head(None if matrix is None else tuple(matrix.shape), name, manifest)
    assert matrix is not None
    with torch.device("meta"):
        head = backbones.Head(matrix.shape[1], matrix.shape[0], dropout=0.0)
    backbones.set_head(network, name, head)
    state = OrderedDict(_on_cpu(tensors))
    # A state dict's own versions, which files of tensors do not keep; MNASNet asks for them.
    state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise artifact.refused(f"the tensors are not those of {manifest['backbone']}: {error}") from error
    return network.requires_grad_(False).eval(), name


class _Served(nn.Module):
    """From squares N x S x S x 3 to the outputs of `serving_engine`."""

    def __init__(self, network: nn.Module, head: str, manifest: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self._mean, self._std = tuple(manifest["mean"]), tuple(manifest["std"])
        self._seen: dict[str, torch.Tensor] = {}
        network.get_submodule(head).register_forward_pre_hook(self._keep_features)

    def _keep_features(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._seen[FEATURES] = inputs[0]

    def keep_feature_map(self, squares: torch.Tensor) -> None:
        """Makes the map whose spatial mean the features are an output, if there is one.

        Found by comparing numbers, since networks pool in as many ways as they have authors.
        """
        maps: dict[nn.Module, torch.Tensor] = {}

        def remember(module: nn.Module, _: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4:
                # Moved to the end: a module that is called twice counts where it was called last.
                maps.pop(module, None)
                maps[module] = output

        hooks = [module.register_forward_hook(remember) for module in self.network.modules()]
        self(squares)
        for hook in hooks:
            hook.remove()
        features = self._seen[FEATURES]
        found = [
            module
            for module, output in maps.items()
            # A map of one pixel, such as the pooled one, says nothing about places.
            if output.shape[:2] == features.shape
            and output.shape[2:].numel() > 1
            and (output.mean((2, 3)) - features).abs().max() <= TOLERANCE * features.abs().max()
        ]
        if found:
            # The last, since an activation in place changes the output of the module before it as well.
            found[-1].register_forward_hook(lambda _module, _inputs, output: self._seen.update({FEATURE_MAP: output}))

    def forward(self, squares: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.network(network_inputs.normalise(squares, self._mean, self._std))
        return {PROBABILITIES: scores.softmax(dim=1), **self._seen}


def converted(network: nn.Module, manifest: dict[str, Any]) -> openvino.Model:
    """The network as a graph of fp32 numbers, for any number of squares at a time.

    Raises JobError `InternalError` when the graph does not give the network's own numbers.
    """
    size = manifest["image_size"]
    served = _Served(network, backbones.head_name(network, manifest["backbone"]), manifest)
    # Two, since a traced network may take a batch of one for a constant.
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    squares = torch.from_numpy(noise)
    with torch.no_grad(), _traceable(), warnings.catch_warnings():
        # The tracer is deprecated, and warns of each number that it takes for a constant; torch's newer
        # exporter took the batch of one network in three for a constant, and five times as long.
        warnings.simplefilter("ignore")
        served.keep_feature_map(squares)
        expected = served(squares)
        traced = torch.jit.trace(served, squares, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
        graph = openvino.convert_model(
            traced, example_input=squares, input=[(INPUT, [-1, size, size, 3], openvino.Type.u8)]
        )
    # The first squares come alone: that the graph takes any number is part of what is checked.
    engine = Engine(graph)
    given = [engine.infer(noise[:1]), engine.infer(noise)]
    for name in (PROBABILITIES, FEATURES):
        numbers = [getattr(outputs, name) for outputs in given]
        wanted = expected[name].numpy()
        scale = float(np.abs(wanted).max())
        if any(np.abs(each - wanted[: len(each)]).max() > TOLERANCE * max(1.0, scale) for each in numbers):
            raise JobError(
                "InternalError",
                f"The graph of {manifest['backbone']} does not give the network's own {name}.",
                "Choose another backbone, and report this one.",
            )
    return graph


@contextlib.contextmanager
def _traceable() -> Iterator[None]:
    # Attention's fused kernel is one operation that no graph format knows.
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _smallest(graph: openvino.Model, data: Prepared | None) -> tuple[openvino.Model, dict[str, Any]]:
    """The int8 graph if it is as accurate, else the one given; and `serving` of the manifest."""
    told: dict[str, Any] = {"engine": "openvino", "precision": "fp32"}
    if data is None:
        return graph, told
    squares, labels = _validation(data)
    before = Engine(graph).probabilities(squares).argmax(axis=1)
    told |= {"fp32_accuracy": float((before == labels).mean()), "images": len(labels)}
    try:
        small = _quantized(graph, data.images("train"))
        after = Engine(small).probabilities(squares).argmax(axis=1)
    except Exception as error:
        # NNCF and OpenVINO raise whatever they like, and a model at full precision is better than none.
        logger.exception("The network cannot be quantised; it will be served with fp32 numbers.")
        return graph, told | {"int8_error": f"{type(error).__name__}: {error}"[:500]}
    told |= {"int8_accuracy": float((after == labels).mean()), "agreement": float((after == before).mean())}
    kept = told["int8_accuracy"] >= told["fp32_accuracy"] - MAX_ACCURACY_LOSS
    print(
        f"Serving {'int8' if kept else 'fp32'}: on {told['images']} validation images fp32 has accuracy "
        f"{told['fp32_accuracy']:.4f}, int8 {told['int8_accuracy']:.4f}; they agree on {told['agreement']:.4f}.",
        flush=True,
    )
    return (small, told | {"precision": "int8"}) if kept else (graph, told)


def _quantized(graph: openvino.Model, squares: Rows) -> openvino.Model:
    import nncf  # takes a second to import, which only a whole model needs

    nncf.set_log_level(logging.ERROR)
    rows = _spread(len(squares), CALIBRATION_IMAGES)
    # Rows are read one after the other while NNCF asks for them, not all at once.
    calibration = nncf.Dataset([int(row) for row in rows], lambda row: squares[row : row + 1])
    # It draws progress bars on standard output, where a job's log has its metrics.
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(graph, calibration, subset_size=len(rows))


def _validation(data: Prepared) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rows = _spread(len(data.labels("valid")), MAX_VALIDATION_IMAGES)
    return data.images("valid")[rows], data.labels("valid")[rows]


def _spread(available: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` of `available` rows, evenly spread: files are sorted by class."""
    return np.unique(np.linspace(0, available - 1, min(wanted, available)).astype(np.int64))


def _serialised(graph: openvino.Model) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="graph-") as folder:
        # Not half precision, OpenVINO's default: what was measured is what is written.
        openvino.save_model(graph, Path(folder) / artifact.GRAPH, compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in (artifact.GRAPH, artifact.WEIGHTS)}


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
