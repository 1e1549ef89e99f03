"""Serve: the inference contract over real HTTP, as a process of its own."""

import asyncio
import io
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import artifact
import contract
import httpx
import images
import network_inputs
import numpy as np
import pytest
import serve
from PIL import Image

START_SECONDS = 60
Photo = Callable[[Path, tuple[int, int, int], int], Path]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


def wait_until_ready(client: httpx.Client, process: Any) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            if client.get("/ping").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"The server was not ready within {START_SECONDS} seconds.")


@pytest.fixture
def server(trained_dir: Path, start_script: Callable[..., Any]) -> Iterator[tuple[httpx.Client, Any]]:
    """A client of a running server, and the server's process."""
    port = free_port()
    process = start_script(
        "serve.py", trained_dir, SAGEMAKER_BIND_TO_HOST="127.0.0.1", SAGEMAKER_BIND_TO_PORT=str(port)
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        wait_until_ready(client, process)
        yield client, process


def invoke(client: httpx.Client, body: bytes, media_type: str = "image/jpeg", attributes: str = "") -> httpx.Response:
    headers = {"Content-Type": media_type, "X-Amzn-SageMaker-Custom-Attributes": attributes}
    return client.post("/invocations", content=body, headers=headers)


def test_contract_over_http(server: tuple[httpx.Client, Any], trained_dir: Path, tmp_path: Path, photo: Photo) -> None:
    client, process = server
    body = photo(tmp_path / "red.jpg", (210, 50, 40), 99).read_bytes()

    # WHEN a photo is sent, THEN the answer is the model's, best first
    model = artifact.load(trained_dir / "model")
    scores = model.probabilities(images.decode_square(body, model.image_size)[None])[0]
    answer = invoke(client, body)
    assert answer.status_code == 200
    document = answer.json()
    assert document["model"] == {"backbone": "regnet_x_400mf", "dataset": "shapes", "dataset_version": 1}
    assert [entry["label"] for entry in document["predictions"]] == [model.classes[i] for i in np.argsort(-scores)]
    assert [entry["score"] for entry in document["predictions"]] == pytest.approx(sorted(scores)[::-1], abs=1e-5)

    # AND the other media types and top_k do what they say
    with Image.open(io.BytesIO(body)) as image:
        for kind, media_type in (("PNG", "image/png"), ("WEBP", "image/webp"), ("PNG", "application/x-image")):
            buffer = io.BytesIO()
            image.save(buffer, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
            assert (
                invoke(client, buffer.getvalue(), media_type).json()["predictions"][0]["label"]
                == (document["predictions"][0]["label"])
            )
    for attributes, count in (("top_k=1", 1), ("trace=a, top_k=2", 2), ("top_k=1000", 3), ("trace=a", 3)):
        assert len(invoke(client, body, attributes=attributes).json()["predictions"]) == count

    # AND what is wrong is said in the contract's shape
    bomb = io.BytesIO()
    Image.new("1", (10_001, 10_000)).save(bomb, format="PNG")
    refused = [
        (invoke(client, b""), 400, "InvalidImage"),
        (invoke(client, b"dear diary"), 400, "InvalidImage"),
        (invoke(client, body[: len(body) // 2]), 400, "InvalidImage"),
        (invoke(client, body, attributes="top_k=0"), 400, "InvalidParameter"),
        (invoke(client, body, attributes="top_k=many"), 400, "InvalidParameter"),
        (invoke(client, body, "text/plain"), 415, "UnsupportedMediaType"),
        (invoke(client, body, ""), 415, "UnsupportedMediaType"),
        (invoke(client, bomb.getvalue(), "image/png"), 413, "ImageTooLarge"),
        (client.get("/invocations"), 405, "MethodNotAllowed"),
        (client.get("/models"), 404, "NotFound"),
    ]
    for response, status, code in refused:
        assert response.status_code == status
        error = response.json()["error"]
        assert error.keys() == {"code", "message", "hint"}
        assert error["code"] == code
        assert all(error.values())

    # AND after all that it still answers, and SIGTERM ends it with status 0 and without a word of error
    assert invoke(client, body).status_code == 200
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_bad_artefact_ends_the_process(trained_dir: Path, run_script: Callable[..., Any]) -> None:
    # GIVEN an artefact that was changed
    tensors = trained_dir / "model" / artifact.TENSORS
    tensors.write_bytes(tensors.read_bytes() + b"\0")

    # WHEN the server is started, THEN it says why it does not serve, and leaves no failure file of a job
    finished = run_script("serve.py", trained_dir, SAGEMAKER_BIND_TO_HOST="127.0.0.1")
    assert finished.returncode == 1
    assert '"ModelCorrupt"' in finished.stderr
    assert not (trained_dir / "output" / "failure").exists()


def test_address_in_use_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("SAGEMAKER_BIND_TO_HOST", "127.0.0.1")
        monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", str(taken.getsockname()[1]))
        with pytest.raises(contract.JobError, match="cannot be opened"):
            serve.listening_socket()


def asgi_client(model: artifact.Model) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(serve.application(model), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://serve")


def post(model: artifact.Model, *bodies: bytes, **headers: str) -> list[httpx.Response]:
    """Sends bodies at the same time to an application in this process."""

    async def send() -> list[httpx.Response]:
        async with asgi_client(model) as client:
            sent = {"Content-Type": "image/jpeg", **headers}
            requests = [client.post("/invocations", content=body, headers=sent) for body in bodies]
            return list(await asyncio.gather(*requests))

    return asyncio.run(send())


def test_body_limit_holds_with_and_without_a_declared_length(
    trained_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: Photo
) -> None:
    # GIVEN a limit of exactly one photo's size
    model = artifact.load(trained_dir / "model")
    body = photo(tmp_path / "red.jpg", (210, 50, 40), 1).read_bytes()
    monkeypatch.setattr(serve, "MAX_BODY_BYTES", len(body))

    # WHEN a body meets it, or exceeds it by a byte, openly or not, THEN only the first is taken
    assert [answer.status_code for answer in post(model, body)] == [200]
    for headers in ({}, {"Content-Length": "1"}):
        (answer,) = post(model, body + b"\0", **headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "ImageTooLarge"


def test_more_images_than_may_wait_are_refused(
    trained_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: Photo
) -> None:
    # GIVEN room for two
    model = artifact.load(trained_dir / "model")
    body = photo(tmp_path / "red.jpg", (210, 50, 40), 1).read_bytes()
    monkeypatch.setattr(serve, "MAX_WAITING", 2)

    # WHEN five come at once, THEN two are answered and three are asked to come again
    answers = post(model, *[body] * 5)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
    assert {a.json()["error"]["code"] for a in answers if a.status_code == 503} == {"Overloaded"}


def test_unforeseen_errors_have_the_contracts_shape_too(
    trained_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: Photo
) -> None:
    # GIVEN a decoder that fails in a way nobody foresaw
    def fail(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(images, "decode_square", fail)
    body = photo(tmp_path / "red.jpg", (210, 50, 40), 1).read_bytes()

    # WHEN a photo is sent, THEN the answer is a 500 with code, message and hint
    (answer,) = post(artifact.load(trained_dir / "model"), body)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "InternalError"


def test_serve_sees_the_same_pixels_as_prepare(trained_dir: Path, dataset_dir: Path, prepared_once: Path) -> None:
    # GIVEN a photo that Prepare has stored, and the same photo as a file
    key = json.loads((prepared_once / "files-test.json").read_text(encoding="utf-8"))[0]
    body = (prepared_once.parents[2] / "processing" / "input" / "dataset" / key).read_bytes()
    stored = np.load(prepared_once / "images-test.npy")[:1]
    model = artifact.load(trained_dir / "model")

    # WHEN both become the network's input, THEN they are the same to the last bit
    served = images.decode_square(body, model.image_size)[None]
    assert np.array_equal(stored, served)
    assert np.array_equal(network_inputs.network_input(stored), network_inputs.network_input(served))
    # AND what Prepare cached are the features of that input
    cached = np.load(prepared_once / "features-test.npy")[0, 0]
    weight = model.network.get_parameter("fc.weight").numpy()
    bias = model.network.get_parameter("fc.bias").numpy()
    scores = np.exp(cached @ weight.T + bias)
    assert model.probabilities(served)[0] == pytest.approx(scores / scores.sum(), abs=1e-4)
