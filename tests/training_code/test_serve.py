"""Serve: the inference contract over real HTTP, as a process of its own."""

import base64
import concurrent.futures
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import artifact
import contract
import httpx
import images
import numpy as np
import pytest
import serve
import serving_engine
from PIL import ExifTags, Image

from .serving import (
    CLASSES,
    SIZE,
    TRAINING_CODE,
    check_error,
    check_error_document,
    encoded,
    free_port,
    invoke,
    make_model,
    picture,
    serving,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base folder of an endpoint: a model of random weights below `model`. To be read only."""
    folder = tmp_path_factory.mktemp("endpoint")
    make_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def model(base: Path) -> artifact.Model:
    return artifact.load(base / "model")


@pytest.fixture(scope="module")
def client(base: Path) -> Iterator[httpx.Client]:
    """A client of a running server. That it ends well when it is told to is checked at the end."""
    with serving(base) as (opened, _):
        yield opened


def expected(model: artifact.Model, body: bytes) -> dict[str, float]:
    """Labels and scores, best first, by another way than the server's."""
    scores = model.probabilities(images.decode_square(body, SIZE)[None])[0]
    return {CLASSES[row]: float(scores[row]) for row in np.argsort(-scores)}


def told(document: dict[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in document["predictions"]}


class TestOneImage:
    def test_answer_is_the_models_best_first(self, client: httpx.Client, model: artifact.Model) -> None:
        body = encoded(picture(1))
        answer = invoke(client, body, attributes="top_k=4")
        assert answer.status_code == 200
        assert answer.json().keys() == {"predictions", "model"}
        assert answer.json()["model"] == {"backbone": "shufflenet_v2_x0_5", "dataset": "shapes", "dataset_version": 1}
        assert told(answer.json()) == pytest.approx(expected(model, body), abs=1e-5)
        assert list(told(answer.json())) == list(expected(model, body))

    @pytest.mark.parametrize(
        ("kind", "media_type"),
        [
            ("PNG", "image/png"),
            ("WEBP", "image/webp"),
            ("BMP", "image/bmp"),
            ("TIFF", "image/tiff"),
            ("PNG", "application/x-image"),
            ("PNG", "IMAGE/PNG; charset=binary"),
        ],
    )
    def test_lossless_kinds_answer_alike(self, client: httpx.Client, kind: str, media_type: str) -> None:
        # GIVEN the same pixels in a lossless file of each kind
        body = encoded(picture(2), kind, **({"lossless": True} if kind == "WEBP" else {}))
        # WHEN they are sent, THEN the answers are those of a plain PNG
        assert told(invoke(client, body, media_type).json()) == pytest.approx(
            told(invoke(client, encoded(picture(2), "PNG"), "image/png").json()), abs=1e-6
        )

    @pytest.mark.parametrize("kind", ["GIF", "TIFF"])
    def test_the_first_frame_counts(self, client: httpx.Client, kind: str) -> None:
        # GIVEN two frames, in a file of several, and the first one alone
        frames = [picture(3).quantize(64), picture(4).quantize(64)]
        several = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        alone = encoded(frames[0], "PNG")
        # WHEN both are sent, THEN the answers are the same
        answer = told(invoke(client, several, f"image/{kind.lower()}").json())
        assert answer == pytest.approx(told(invoke(client, alone, "image/png").json()), abs=1e-6)

    def test_exif_orientation_is_respected(self, client: httpx.Client) -> None:
        # GIVEN a photo lying on its side that says so, and the same one upright
        upright = picture(5, (SIZE, SIZE))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        lying = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
        # WHEN both are sent, THEN the answers are the same, and those for the unturned pixels others
        answer = told(invoke(client, lying, "image/png").json())
        assert answer == pytest.approx(told(invoke(client, encoded(upright, "PNG"), "image/png").json()), abs=1e-6)
        unturned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG")
        assert answer != pytest.approx(told(invoke(client, unturned, "image/png").json()), abs=1e-6)

    @pytest.mark.parametrize(
        ("attributes", "count"), [("top_k=1", 1), ("trace=a, top_k=2", 2), ("top_k=1000", 4), ("trace=a", 3), ("", 3)]
    )
    def test_top_k(self, client: httpx.Client, attributes: str, count: int) -> None:
        answer = invoke(client, encoded(picture(6)), attributes=attributes)
        assert len(answer.json()["predictions"]) == count

    def test_embedding_and_heatmap_on_demand(self, client: httpx.Client, model: artifact.Model) -> None:
        # GIVEN a photo
        body = encoded(picture(7))
        # WHEN everything is asked for
        document = invoke(client, body, attributes="embedding=true,explain=true,top_k=1").json()
        # THEN the features are those of the head
        outputs = model.engine.infer(images.decode_square(body, SIZE)[None])
        assert document["embedding"] == pytest.approx(outputs.features[0].tolist(), abs=1e-4)
        # AND the heatmap is a grey picture of the square's size, which says something
        with Image.open(io.BytesIO(base64.b64decode(document["heatmap"]))) as heatmap:
            assert (heatmap.format, heatmap.mode, heatmap.size) == ("PNG", "L", (SIZE, SIZE))
            assert len(set(heatmap.tobytes())) > 2
        assert len(document["predictions"]) == 1

    @pytest.mark.parametrize("accept", ["application/jsonlines", "application/x-ndjson, */*"])
    def test_one_line_on_demand(self, client: httpx.Client, accept: str) -> None:
        answer = invoke(client, encoded(picture(8)), accept=accept)
        assert answer.headers["content-type"].startswith("application/jsonlines")
        (line,) = answer.text.splitlines()
        assert told(json.loads(line)) == told(invoke(client, encoded(picture(8))).json())


class TestABatch:
    def test_lines_are_answered_in_their_order(self, client: httpx.Client) -> None:
        # GIVEN more images than one inference takes, and bad ones among them
        bodies = [encoded(picture(seed)) for seed in range(20)]
        lines = [json.dumps({"image": base64.b64encode(body).decode()}) for body in bodies]
        lines[3] = '{"image": "no base64"}'
        lines[5] = "{"
        lines[7] = json.dumps({"image": base64.b64encode(bodies[7][:100]).decode()})
        lines[9] = '["image"]'
        batch = "\n".join(lines).encode()

        # WHEN they are sent, THEN each has its line, the bad ones an error and the others what one image is answered
        answer = invoke(client, batch, "application/jsonlines", attributes="top_k=4")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("application/jsonlines")
        documents = [json.loads(line) for line in answer.text.splitlines()]
        assert len(documents) == 20
        for number, document in enumerate(documents):
            if number in (3, 5, 9):
                check_error_document(document, "InvalidBatch")
                assert document["error"]["message"].startswith(f"Line {number + 1} ")
            elif number == 7:
                check_error_document(document, "InvalidImage")
            else:
                alone = invoke(client, bodies[number], attributes="top_k=4").json()
                assert told(document) == pytest.approx(told(alone), abs=1e-5)
        # AND the same as one JSON document
        whole = invoke(client, batch, "application/x-ndjson", accept="application/json", attributes="top_k=4").json()
        assert [document.get("error") for document in whole["results"]] == [each.get("error") for each in documents]

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [(b"", 400, "InvalidBatch"), (b" \n\n", 400, "InvalidBatch"), (b"{}\n" * 1001, 413, "ImageTooLarge")],
        ids=["empty", "blank", "too many"],
    )
    def test_bodies_that_are_no_batch(self, client: httpx.Client, body: bytes, status: int, code: str) -> None:
        check_error(invoke(client, body, "application/jsonlines"), status, code)


def test_what_is_wrong_is_said_in_the_contracts_shape(client: httpx.Client) -> None:
    body = encoded(picture(9))
    bomb = encoded(Image.new("1", (10_001, 10_000)), "PNG")
    check_error(invoke(client, b""), 400, "InvalidImage")
    check_error(invoke(client, b"dear diary"), 400, "InvalidImage")
    check_error(invoke(client, body[: len(body) // 2]), 400, "InvalidImage")
    for attributes in (
        "top_k=0",
        "top_k=many",
        "top_k=1001",
        "top_k=٣",
        "top_k=" + "9" * 5000,
        "explain=1",
        "embedding",
    ):
        check_error(invoke(client, body, attributes=attributes.encode()), 400, "InvalidParameter")
    check_error(invoke(client, body, "text/plain"), 415, "UnsupportedMediaType")
    check_error(invoke(client, body, ""), 415, "UnsupportedMediaType")
    check_error(invoke(client, body, accept="image/png"), 406, "NotAcceptable")
    check_error(invoke(client, bomb, "image/png"), 413, "ImageTooLarge")
    check_error(client.get("/invocations"), 405, "MethodNotAllowed")
    check_error(client.get("/models"), 404, "NotFound")
    # AND after all that it still answers
    assert invoke(client, body).status_code == 200


def test_concurrent_callers_get_their_own_answers(client: httpx.Client, model: artifact.Model) -> None:
    # GIVEN many callers at the same time, whose images come into one batch
    bodies = [encoded(picture(seed)) for seed in range(60)]
    # WHEN they ask, some of them for more
    with concurrent.futures.ThreadPoolExecutor(12) as callers:
        answers = list(
            callers.map(
                lambda number: invoke(
                    client, bodies[number], attributes="top_k=4" + (",explain=true" if number % 3 == 0 else "")
                ),
                range(60),
            )
        )
    # THEN each gets the answer for its own image, and nothing that it did not ask for
    for number, answer in enumerate(answers):
        assert told(answer.json()) == pytest.approx(expected(model, bodies[number]), abs=1e-5)
        assert ("heatmap" in answer.json()) == (number % 3 == 0)


def test_sigterm_ends_what_was_begun_first(base: Path) -> None:
    # GIVEN a server that is answering
    body = json.dumps({"image": base64.b64encode(encoded(picture(1, (1500, 1000)), "PNG")).decode()}).encode()
    with serving(base) as (client, process), concurrent.futures.ThreadPoolExecutor(4) as callers:
        waiting = [callers.submit(invoke, client, b"\n".join([body] * 12), "application/jsonlines") for _ in range(4)]
        while not any(caller.running() for caller in waiting):
            time.sleep(0.01)
        time.sleep(0.3)
        # WHEN it is told to end
        process.send_signal(signal.SIGTERM)
        # THEN it answers what it has begun, and ends with status 0 and without a word of error
        answers = [caller.result() for caller in waiting]
    assert [len(answer.text.splitlines()) for answer in answers] == [12] * 4
    assert all("predictions" in line for answer in answers for line in answer.text.splitlines())


def test_bad_artefact_ends_the_process(trained_dir: Path, run_script: Callable[..., Any]) -> None:
    # GIVEN an artefact that was changed
    weights = trained_dir / "model" / artifact.WEIGHTS
    weights.write_bytes(weights.read_bytes() + b"\0")

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


def test_small_answers_are_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN asyncio, which sets TCP_NODELAY only where a socket names its protocol; what is accepted inherits that
    monkeypatch.setenv("SAGEMAKER_BIND_TO_HOST", "127.0.0.1")
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", str(free_port()))
    with serve.listening_socket() as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_serving_needs_no_torch(base: Path) -> None:
    # GIVEN an interpreter in which torch cannot be imported, as in the serving image
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import pathlib, artifact, serve\n"
        f"model = artifact.load(pathlib.Path({str(base / 'model')!r}))\n"
        "print(model.probabilities(serve.images.blank_square(64)[None]).shape)\n"
    )
    # WHEN the model is loaded there, THEN it answers
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=TRAINING_CODE, capture_output=True, text=True, check=False
    )
    assert (finished.stdout, finished.stderr) == ("(1, 4)\n", "")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
    ids=["one and a half", "half", "unlimited", "version 1", "version 1 unlimited", "no container"],
)
def test_cores_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int | None
) -> None:
    # GIVEN a machine of 64 cores, and the files of a container's quota
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(serving_engine, "CGROUP", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    # WHEN asked, THEN the quota counts, and all cores where there is none
    assert serving_engine.available_cores() == (cores or 64)
