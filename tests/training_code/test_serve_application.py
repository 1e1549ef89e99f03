"""Serve inside this process: limits, overload, and what nobody foresaw."""

import asyncio
from pathlib import Path
from typing import Any

import artifact
import httpx
import images
import numpy as np
import prepared
import pytest
import serve
import serving_batches
import serving_engine
import serving_requests

from .serving import check_error, encoded, make_model, picture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> artifact.Model:
    """A model of random weights."""
    return artifact.load(make_model(tmp_path_factory.mktemp("model")))


def told(document: dict[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in document["predictions"]}


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
