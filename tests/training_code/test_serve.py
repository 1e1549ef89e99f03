"""Serve: the inference contract over real HTTP, as a process of its own."""

import asyncio
import base64
import collections
import concurrent.futures
import io
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import artifact
import contract
import httpx
import images
import numpy as np
import prepared
import psutil
import pytest
import serve
import serving_batches
import serving_engine
import serving_requests
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


def post(model: artifact.Model, *bodies: bytes, **headers: str) -> list[httpx.Response]:
    """Sends bodies at the same time to an application in this process."""

    async def send() -> list[httpx.Response]:
        application = serve.application(model)
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)
        async with (
            application.router.lifespan_context(application),
            httpx.AsyncClient(transport=transport, base_url="http://serve") as client,
        ):
            sent = {"Content-Type": "image/jpeg", **headers}
            requests = [client.post("/invocations", content=body, headers=sent) for body in bodies]
            return list(await asyncio.gather(*requests))

    return asyncio.run(send())


def test_body_limit_holds_with_and_without_a_declared_length(
    model: artifact.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a limit of exactly one photo's size
    body = encoded(picture(1))
    monkeypatch.setattr(serve, "MAX_BODY_BYTES", len(body))

    # WHEN that photo and one a byte longer are sent, THEN the limit itself is still allowed
    fits, exceeds = post(model, body, body + b"\0")
    assert fits.status_code == 200
    check_error(exceeds, 413, "ImageTooLarge")
    assert exceeds.headers["connection"] == "close"

    # AND the same when no length is declared
    async def stream() -> httpx.Response:
        async def pieces() -> Any:
            for piece in (body, b"\0"):
                yield piece

        transport = httpx.ASGITransport(serve.application(model))
        async with httpx.AsyncClient(transport=transport, base_url="http://serve") as client:
            return await client.post("/invocations", content=pieces(), headers={"Content-Type": "image/jpeg"})

    check_error(asyncio.run(stream()), 413, "ImageTooLarge")


@pytest.mark.parametrize("limit", ["MAX_WAITING", "MAX_WAITING_BYTES"])
def test_too_many_waiting_are_refused(model: artifact.Model, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    # GIVEN room for three images, by number or by bytes
    body = encoded(picture(1))
    monkeypatch.setattr(serving_batches, limit, 3 * (len(body) if limit.endswith("BYTES") else 1))

    # WHEN twenty come at the same time
    answers = post(model, *[body] * 20)

    # THEN some are answered, the others are told when to come again
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 3 <= len(answers) - len(refused) < 20
    for answer in refused:
        check_error(answer, 429, "Overloaded")
        assert int(answer.headers["retry-after"]) >= 1
    # AND one that is larger than all of the room is taken when nothing else waits
    monkeypatch.setattr(serving_batches, limit, 1)
    (alone,) = post(model, body)
    assert alone.status_code == 200


def test_nothing_is_counted_twice_or_forgotten(model: artifact.Model) -> None:
    async def waiting() -> tuple[int, int]:
        predictor = serve.Predictor(model)
        for body in (encoded(picture(1)), b"no image"):
            with predictor.pipeline.admission() as admission:
                admission.add(body)
                assert predictor.pipeline.waiting_bytes == len(body)
                try:
                    await predictor.one(admission.body(), serving_requests.Wishes())
                except serving_requests.Refused:
                    assert body == b"no image"
        predictor.pipeline.close()
        return predictor.pipeline.waiting, predictor.pipeline.waiting_bytes

    assert asyncio.run(waiting()) == (0, 0)


@pytest.mark.parametrize("part", ["decoding", "inference"])
def test_unforeseen_errors_have_the_contracts_shape_too(
    model: artifact.Model, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    # GIVEN a decoder, or an engine, that fails in a way nobody foresaw
    def fail(*_: object, **__: object) -> None:
        raise KeyError("x")

    if part == "decoding":
        monkeypatch.setattr(images, "decode", fail)
    else:
        monkeypatch.setattr(serving_engine.Engine, "infer", fail)

    # WHEN photos are sent, THEN each answer is a 500 with code, message and hint
    for answer in post(model, encoded(picture(1)), encoded(picture(2))):
        check_error(answer, 500, "InternalError")


def test_networks_without_a_map_of_places_say_so(tmp_path: Path) -> None:
    # GIVEN a network with two linear layers at its end
    model = artifact.load(make_model(tmp_path, "mobilenet_v3_small"))
    # WHEN a heatmap is asked for, THEN there is none, and the rest is answered
    wish = {"X-Amzn-SageMaker-Custom-Attributes": "explain=true"}
    (refused,) = post(model, encoded(picture(1)), **wish)
    check_error(refused, 400, "ExplainUnavailable")
    (batch,) = post(model, b"{}", **{**wish, "Content-Type": "application/jsonlines"})
    check_error(batch, 400, "ExplainUnavailable")
    assert post(model, encoded(picture(1)))[0].status_code == 200


def test_serve_sees_the_same_pixels_as_decode(trained_dir: Path, prepared_once: tuple[Path, Path]) -> None:
    # GIVEN a photo that Decode has stored, and the same photo as a file
    data = prepared.open_prepared(*prepared_once)
    body = (prepared_once[0].parents[1] / "input" / "dataset" / data.files("test")[0]).read_bytes()
    stored = data.images("test")[:1]
    model = artifact.load(trained_dir / "model")

    # WHEN both become the network's input, THEN they are the same to the last bit
    served = images.decode_square(body, model.image_size)[None]
    assert np.array_equal(stored, served)
    # AND what Decode cached are the features of that input, which the graph normalises by itself
    assert model.engine.infer(served).features[0] == pytest.approx(data.features("test")[0, 0], abs=1e-4)
    # AND the server answers what Evaluate measures on the stored pixels
    (answer,) = post(model, body)
    assert told(answer.json()) == pytest.approx(
        dict(zip(model.classes, model.probabilities(stored)[0].tolist(), strict=True)), abs=1e-6
    )


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


KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif", "TIFF": "image/tiff"}
SINGLE, IN_BATCHES = 1500, 9000
MAX_MEMORY = 512 * 1024**2


def mutated(whole: bytes, draw: np.random.Generator) -> bytes:
    """The file with some bytes changed, cut, doubled or put in; often in its header, where the structure is."""
    data = bytearray(whole)
    for _ in range(int(draw.integers(1, 5))):
        place = int(draw.integers(0, len(data) if draw.random() < 0.5 else min(64, len(data))))
        match int(draw.integers(0, 6)):
            case 0 | 1:
                data[place] = int(draw.integers(0, 256))
            case 2:
                data[place] = 0xFF
            case 3:
                del data[place : place + int(draw.integers(1, 16))]
            case 4:
                data[place:place] = data[place // 2 : place // 2 + int(draw.integers(1, 32))]
            case _:
                del data[max(1, place) :]
        if not data:
            break
    return bytes(data)


def png_of(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel that is as large as its header says, and tiny."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row * 1000) for _ in range(height // 1000)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels[:90_000]) + chunk(b"IEND", b"")


def bombs() -> dict[str, tuple[bytes, int]]:
    """Files that ask for more than they look like, and the status that each gets."""
    frames = [Image.new("P", (16, 16), number % 256) for number in range(10_000)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)
    png = png_of(50_000, 50_000)
    assert len(png) < 100_000
    return {
        "PNG of 50,000 x 50,000": (png, 413),
        "GIF of 10,000 frames": (gif, 200),
        "PNG of 64 megapixels": (encoded(Image.new("RGB", (8000, 8000), "red"), "PNG"), 413),
        "PNG of 25 megapixels": (encoded(Image.new("RGB", (5000, 5000), "red"), "PNG"), 200),
        "JPEG of 64 megapixels": (encoded(Image.new("RGB", (8000, 8000), "red"), "JPEG"), 200),
        "progressive JPEG of 64 megapixels": (
            encoded(Image.new("RGB", (8000, 8000), "red"), "JPEG", progressive=True),
            413,
        ),
    }


class Memory(threading.Thread):
    """Watches how much memory a process holds, in bytes; `highest` is the most that was seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._end = threading.Event()
        self.highest = 0

    def run(self) -> None:
        while not self._end.wait(0.02):
            self.highest = max(self.highest, self._process.memory_info().rss)

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


@pytest.mark.slow
def test_nothing_that_is_sent_ends_the_server(base: Path) -> None:
    # GIVEN 10,500 files made of whole ones by mutation, and bombs
    draw = np.random.default_rng(0)
    whole = {kind: [encoded(picture(seed), kind) for seed in range(4)] for kind in KINDS}
    corpus = [
        (kind, mutated(whole[kind][number % 4], draw))
        for number, kind in zip(range(SINGLE + IN_BATCHES), itertools.cycle(KINDS), strict=False)
    ]
    statuses: collections.Counter[int] = collections.Counter()
    with serving(base) as (client, process), Memory(process.pid) as memory:
        # WHEN they are sent one by one
        for kind, data in corpus[:SINGLE]:
            answer = invoke(client, data, KINDS[kind])
            statuses[answer.status_code] += 1
            if answer.status_code != 200:
                check_error_document(answer.json(), "InvalidImage", "ImageTooLarge")
        # AND in batches
        for start in range(SINGLE, len(corpus), serving_requests.MAX_LINES):
            batch = corpus[start : start + serving_requests.MAX_LINES]
            lines = [json.dumps({"image": base64.b64encode(data).decode()}) for _, data in batch]
            answer = invoke(client, "\n".join(lines).encode(), "application/jsonlines")
            documents = [json.loads(line) for line in answer.text.splitlines()]
            assert (answer.status_code, len(documents)) == (200, len(batch))
            for document in documents:
                if "predictions" not in document:
                    check_error_document(document, "InvalidImage", "ImageTooLarge")
        # AND the bombs, several at a time
        with concurrent.futures.ThreadPoolExecutor(4) as callers:
            for name, (data, status) in bombs().items():
                answers = callers.map(lambda data: invoke(client, data, "application/x-image"), [data] * 4)
                assert {answer.status_code for answer in answers} == {status}, name
        # THEN all is answered with 200 or 4xx in the contract's shape, the server lives, and its memory is bounded
        assert statuses.keys() <= {200, 400, 413}
        assert min(statuses[200], statuses[400]) > SINGLE / 20
        assert invoke(client, whole["PNG"][0], "image/png").status_code == 200
    assert memory.highest < MAX_MEMORY
