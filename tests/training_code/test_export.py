"""Export: the graph gives the network's own numbers, int8 only where it costs nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artifact
import export
import network_inputs
import numpy as np
import pytest
import serving_heatmap
import torch
import train
from contract import JobError

from .serving import manifest_of, picture, random_network

TRAINING_CODE = Path(export.__file__).parent
RunJob = Callable[..., int]


# Each ends in another way: a pooling layer, a mean in forward(), two linear layers.
@pytest.mark.parametrize(
    ("backbone", "size", "has_map"),
    [("resnet18", 64, True), ("mnasnet0_5", 64, True), ("mobilenet_v3_small", 64, False)],
)
def test_graph_gives_the_networks_numbers(tmp_path: Path, backbone: str, size: int, has_map: bool) -> None:
    # GIVEN a network and pictures
    network = random_network(backbone)
    squares = np.stack([np.asarray(picture(seed, (size, size))) for seed in range(3)])

    # WHEN it is exported and loaded again
    export.save(tmp_path, network.state_dict(), manifest_of(backbone, size))
    model = artifact.load(tmp_path)

    # THEN the graph's probabilities are the network's, one image or several at a time
    with torch.inference_mode():
        expected = network(network_inputs.network_input(squares)).softmax(dim=1).numpy()
    assert model.probabilities(squares) == pytest.approx(expected, abs=1e-4)
    assert model.probabilities(squares[1:2]) == pytest.approx(expected[1:2], abs=1e-4)
    # AND the head makes the same of the features, which are the mean of the map where there is one
    outputs = model.engine.infer(squares, with_map=has_map)
    assert model.engine.has_feature_map == has_map
    bias = network.get_submodule(model.manifest["head"]).bias.detach().numpy()  # type: ignore[operator]
    scores = np.exp(outputs.features @ model.head.T + bias)
    assert scores / scores.sum(axis=1, keepdims=True) == pytest.approx(expected, abs=1e-3)
    if has_map:
        assert outputs.feature_map is not None
        scale = float(np.abs(outputs.features).max())
        assert outputs.feature_map.mean(axis=(2, 3)) == pytest.approx(outputs.features, abs=1e-4 * scale)


def test_heatmap_is_that_of_grad_cam(tmp_path: Path) -> None:
    # GIVEN Grad-CAM as its authors define it: the score's gradient at the last feature map, averaged over places
    network = random_network("resnet18")
    square = np.random.default_rng(2).integers(0, 256, size=(1, 96, 96, 3), dtype=np.uint8)
    maps: list[torch.Tensor] = []
    network.get_submodule("layer4").register_forward_hook(lambda *given: maps.append(given[2]))
    scores = network(network_inputs.network_input(square))
    label = int(scores.argmax())
    (gradient,) = torch.autograd.grad(scores[0, label], maps[0])
    grad_cam = (gradient.mean(dim=(2, 3), keepdim=True) * maps[0]).sum(dim=1)[0].relu()
    expected = (grad_cam / grad_cam.max() * 255).detach().numpy()

    # WHEN the served network explains the same label, at the map's own size
    export.save(tmp_path, network.state_dict(), manifest_of("resnet18", 96))
    model = artifact.load(tmp_path)
    outputs = model.engine.infer(square, with_map=True)
    assert outputs.feature_map is not None
    found = serving_heatmap.heatmap(outputs.feature_map[0], model.head[label], outputs.feature_map.shape[2])

    # THEN it is the same map but for rounding
    assert found.shape == (3, 3)
    assert found == pytest.approx(expected, abs=1)


def test_heatmap_without_evidence_is_black() -> None:
    nothing = serving_heatmap.heatmap(np.ones((2, 3, 3), np.float32), np.array([-1, -1], np.float32), 12)
    assert not nothing.any()


def serving_of(base: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((base / "model" / "manifest.json").read_text("utf-8"))
    found: dict[str, Any] = document["serving"]
    return found


def test_training_keeps_int8_when_it_is_as_accurate(training_dir: Callable[..., Path], run_job: RunJob) -> None:
    # GIVEN a training on colours that any number of bits can tell apart
    base = training_dir(quantize="true", epochs="12", learning_rate="0.02")

    # WHEN it ends, THEN the manifest tells both accuracies, and the graph holds eight-bit numbers
    assert run_job(train, base) == 0
    told = serving_of(base)
    assert told.keys() == {"engine", "precision", "fp32_accuracy", "int8_accuracy", "agreement", "images"}
    assert told["precision"] == "int8"
    assert told["images"] == 6
    assert told["int8_accuracy"] >= told["fp32_accuracy"]
    assert 0.5 < told["agreement"] <= 1
    assert "FakeQuantize" in (base / "model" / "model.xml").read_text("utf-8")
    model = artifact.load(base / "model")
    assert model.manifest["versions"].keys() == {"torch", "torchvision", "droptune", "openvino"}


@pytest.mark.parametrize("why", ["less accurate", "impossible"])
def test_training_falls_back_to_fp32(
    training_dir: Callable[..., Path], run_job: RunJob, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    # GIVEN a network that loses by quantising, or that cannot be quantised
    def fail(*_: object) -> None:
        raise RuntimeError("no such operation")

    if why == "impossible":
        monkeypatch.setattr(export, "_quantized", fail)
    else:
        monkeypatch.setattr(export, "MAX_ACCURACY_LOSS", -2)
    base = training_dir(quantize="true", epochs="2")

    # WHEN it is trained, THEN it will be served with fp32 numbers, and the manifest says why
    assert run_job(train, base) == 0
    told = serving_of(base)
    assert told["precision"] == "fp32"
    assert told.get("int8_error") == ("RuntimeError: no such operation" if why == "impossible" else None)
    assert ("int8_accuracy" in told) == (why != "impossible")
    assert "FakeQuantize" not in (base / "model" / "model.xml").read_text("utf-8")
    assert artifact.load(base / "model")


def test_graph_of_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # GIVEN that no graph is near enough to its network
    network = random_network("resnet18")
    manifest = manifest_of("resnet18", 32)
    monkeypatch.setattr(export, "TOLERANCE", -1.0)

    # WHEN it is exported, THEN the export fails instead of writing it
    with pytest.raises(JobError, match="does not give the network's own"):
        export.save(tmp_path, network.state_dict(), manifest)
    assert not list(tmp_path.iterdir())


def test_the_engine_reports_to_nobody(tmp_path: Path) -> None:
    # GIVEN OpenVINO, which reports its use where its telemetry module can be imported (NNCF does the same)
    code = (
        "import sys, socket\n"
        "def refuse(*_): raise SystemExit('something is sent')\n"
        "socket.getaddrinfo = refuse\n"
        "import serving_engine\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )

    # WHEN it is imported in a home of its own, THEN nothing asks for an address, or leaves a file there
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TRAINING_CODE,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert not list(tmp_path.iterdir())
