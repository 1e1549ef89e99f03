"""A small model in service, and pictures to send it."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import backbones
import contract
import export
import httpx
import images
import network_inputs
import numpy as np
import torch
from PIL import Image

TRAINING_CODE = Path(contract.__file__).parent
START_SECONDS = 60
# The smallest network of torchvision that ends in a mean over places, and the size that leaves it several.
BACKBONE, SIZE = "shufflenet_v2_x0_5", 64
CLASSES = ["blue", "green", "red", "yellow"]


def random_network(backbone: str = BACKBONE) -> torch.nn.Module:
    """A network of random weights for `CLASSES`, in which pictures differ as much as in a trained one.

    Torchvision's first weights alone let the activations of a deep network vanish: all pictures would be alike.
    """
    network = backbones.create_random(backbone)
    name = backbones.head_name(network, backbone)
    torch.manual_seed(0)
    features = network.get_submodule(name).in_features
    assert isinstance(features, int)
    head = backbones.Head(features, len(CLASSES), 0.2)
    backbones.set_head(network, name, head)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # One batch decides the statistics.
            module.momentum = 1.0
    with torch.no_grad():
        # Evidence for each label, so that there is something to show on a heatmap.
        head.weight.abs_()
        squares = np.stack([np.asarray(picture(seed, (SIZE, SIZE))) for seed in range(100, 116)])
        inputs = network_inputs.network_input(squares)
        network.train()(inputs)
        # Scores around zero that differ by about one: probabilities far from both 0 and 1.
        scores = network.eval()(inputs)
        head.weight.div_(scores.std(dim=0).mean())
        head.bias.sub_(network(inputs).mean(dim=0))
    return network


def manifest_of(backbone: str = BACKBONE, size: int = SIZE) -> dict[str, Any]:
    return {
        "backbone": backbone,
        "classes": CLASSES,
        "image_size": size,
        "resize": images.RESIZE,
        "mean": list(images.MEAN),
        "std": list(images.STD),
        "interpolation": images.INTERPOLATION,
        "dropout": 0.2,
        "artifact": "model",
        "versions": {},
        "dataset": "shapes",
        "dataset_version": 1,
    }


def make_model(folder: Path, backbone: str = BACKBONE) -> Path:
    """Writes the artefact of a `random_network` into `folder`."""
    export.save(folder, random_network(backbone).state_dict(), manifest_of(backbone))
    return folder


def picture(seed: int, size: tuple[int, int] = (40, 24)) -> Image.Image:
    """Coarse noise: no two seeds look alike, and scaling keeps it."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(3, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


@contextmanager
def serving(base: Path) -> Iterator[tuple[httpx.Client, "subprocess.Popen[str]"]]:
    """A server's process for the model below `base`, and a client of it.

    It has to end well when it is told to, and must have written nothing but its greeting.
    """
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(TRAINING_CODE / "serve.py")],
        env={
            **os.environ,
            "PYTHONWARNINGS": "error",
            "SAGEMAKER_BASE_DIR": str(base),
            "SAGEMAKER_BIND_TO_HOST": "127.0.0.1",
            "SAGEMAKER_BIND_TO_PORT": str(port),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, process)
            yield client, process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert len(output.splitlines()) == 1
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_until_ready(client: httpx.Client, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            if client.get("/ping").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"The server was not ready within {START_SECONDS} seconds.")


def invoke(client: httpx.Client, body: bytes, media_type: str = "image/jpeg", **headers: str | bytes) -> httpx.Response:
    """`attributes` and `accept` are headers too."""
    sent: dict[str, str | bytes] = {"Content-Type": media_type}
    if "attributes" in headers:
        sent["X-Amzn-SageMaker-Custom-Attributes"] = headers["attributes"]
    if "accept" in headers:
        sent["Accept"] = headers["accept"]
    return client.post("/invocations", content=body, headers=cast(dict[str, str], sent))


def check_error(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    check_error_document(response.json(), code)


def check_error_document(document: Any, *codes: str) -> None:
    assert document.keys() == {"error"}, json.dumps(document)
    error = document["error"]
    assert error.keys() == {"code", "message", "hint"}
    assert error["code"] in codes
    assert all(error.values())
