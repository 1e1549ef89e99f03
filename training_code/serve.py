"""Serve: the model behind SageMaker's inference contract, `GET /ping` and `POST /invocations`.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html

Features
    - Loads the artefact once, with its hashes checked; a bad one ends the process with a clear message
      before any port is opened.
    - Decodes with the module that Decode decodes with, so a model sees what it was trained on.
    - Runs the graph that `export` wrote and Evaluate measured, without torch, on all cores of the container.
    - One image or a batch in JSON lines; labels, and on demand the features and a heatmap.
    - Bounded: bytes, pixels, memory for decoding, and images that wait. What is over is refused at once.
    - SIGTERM ends open requests first, then the process, with exit status 0.

Trade-offs
    - One process: several would each hold the network, and share the same cores.
    - The body is read into memory, since decoding needs the whole file.

Environment
    SAGEMAKER_BIND_TO_HOST (default: all interfaces, as SageMaker calls a container from outside),
    SAGEMAKER_BIND_TO_PORT (default 8080), SAGEMAKER_BASE_DIR.

Errors
    ModelCorrupt at the start. In answers, as {"error": {"code", "message", "hint"}}: 400 InvalidImage, 400
    InvalidBatch, 400 InvalidParameter, 400 ExplainUnavailable, 404 NotFound, 405 MethodNotAllowed, 406
    NotAcceptable, 413 ImageTooLarge, 415 UnsupportedMediaType, 429 Overloaded, 500 InternalError.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import artifact
import contract
import images
import serving_heatmap
import serving_requests as requests
import uvicorn
from contract import JobError
from serving_batches import Admission, Pipeline
from serving_engine import MAX_BATCH, Outputs
from serving_requests import JSON, LINES, Refused, Wishes
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

# SageMaker's own limit for real-time requests:
# https://docs.aws.amazon.com/sagemaker/latest/dg/realtime-endpoints-test-endpoints.html
MAX_BODY_BYTES = 25 * 1024**2
# SageMaker kills a container 30 seconds after SIGTERM.
DRAIN_SECONDS = 25


class Predictor:
    """The model, and the words in which its outputs are answered."""

    def __init__(self, model: artifact.Model) -> None:
        self._model = model
        self._classes = model.classes
        self._about = {name: model.manifest[name] for name in ("backbone", "dataset", "dataset_version")}
        self.pipeline = Pipeline(model.engine, model.image_size)

    async def one(self, data: bytes, wishes: Wishes) -> dict[str, Any]:
        """The answer for one image. Raises Refused for a body that is no usable image."""
        return {**await self._answer(data, wishes), "model": self._about}

    async def batch(self, body: bytes, wishes: Wishes) -> list[dict[str, Any]]:
        """The answers for a body of JSON lines, in their order; an image that is refused has its error instead.

        Raises Refused for a body that has none, or too many.
        """
        self.check(wishes)
        lines = await self.pipeline.in_thread(requests.parse_lines, body)
        answers: list[dict[str, Any]] = []
        for start in range(0, len(lines), MAX_BATCH):
            answers += await asyncio.gather(*(self._line(line, wishes) for line in lines[start : start + MAX_BATCH]))
        return answers

    def check(self, wishes: Wishes) -> None:
        """Raises Refused 400 `ExplainUnavailable` when a heatmap is wished for that this network cannot give."""
        if wishes.explain and not self._model.engine.has_feature_map:
            raise Refused(
                400,
                "ExplainUnavailable",
                f"A heatmap needs a network that ends in a mean over places; {self._about['backbone']} does not, "
                "or its images are too small to leave more than one place.",
                "Leave explain out, or train with another backbone, for example resnet50 or mobilenet_v2.",
            )

    async def _line(self, line: bytes | Refused, wishes: Wishes) -> dict[str, Any]:
        if isinstance(line, Refused):
            return line.document
        try:
            return await self.one(line, wishes)
        except Refused as refused:
            return refused.document

    async def _answer(self, data: bytes, wishes: Wishes) -> dict[str, Any]:
        self.check(wishes)
        try:
            outputs = await self.pipeline.outputs(data, wishes.explain)
        except images.BadImage as error:
            status, code = (413, "ImageTooLarge") if error.too_large else (400, "InvalidImage")
            raise Refused(status, code, error.reason, error.hint) from error
        scores = outputs.probabilities[0]
        best = (-scores).argsort(kind="stable")[: wishes.top_k]
        answer: dict[str, Any] = {
            "predictions": [{"label": self._classes[index], "score": float(scores[index])} for index in best]
        }
        if wishes.embedding:
            answer["embedding"] = outputs.features[0].tolist()
        if wishes.explain:
            answer["heatmap"] = await self.pipeline.in_thread(self._heatmap, outputs, best[0])
        return answer

    def _heatmap(self, outputs: Outputs, label: int) -> str:
        assert outputs.feature_map is not None
        pixels = serving_heatmap.heatmap(outputs.feature_map[0], self._model.head[label], self._model.image_size)
        return serving_heatmap.as_png(pixels)


def application(model: artifact.Model) -> Starlette:
    predictor = Predictor(model)
    pipeline = predictor.pipeline

    async def ping(_: Request) -> Response:
        return Response()

    async def invocations(request: Request) -> Response:
        kind = requests.media_type(request.headers.get("content-type", ""))
        lines = kind == LINES
        answered = requests.answer_type(request.headers.get("accept", ""), LINES if lines else JSON)
        wishes = requests.parse_wishes(request.headers.get(requests.ATTRIBUTES_HEADER, ""))
        # As many of a batch are worked on at the same time.
        with pipeline.admission(MAX_BATCH if lines else 1) as admission:
            await read_body(request, admission)
            if lines:
                return batch_response(await predictor.batch(admission.body(), wishes), answered)
            return one_response(await predictor.one(admission.body(), wishes), answered)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        pipeline.close()

    return Starlette(
        routes=[Route("/ping", ping), Route("/invocations", invocations, methods=["POST"])],
        exception_handlers={
            Refused: answer_refused,
            HTTPException: answer_http_error,
            Exception: answer_unforeseen,
        },
        lifespan=lifespan,
    )


def one_response(answer: dict[str, Any], kind: str) -> Response:
    return JSONResponse(answer) if kind == JSON else lines_response([answer])


def batch_response(answers: list[dict[str, Any]], kind: str) -> Response:
    return JSONResponse({"results": answers}) if kind == JSON else lines_response(answers)


def lines_response(answers: list[dict[str, Any]]) -> Response:
    text = "".join(json.dumps(answer, ensure_ascii=False, separators=(",", ":")) + "\n" for answer in answers)
    return Response(text.encode("utf-8"), media_type=LINES)


async def answer_refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, Refused):
        raise error
    # A client that is still sending would not see the answer if the connection were kept for more.
    headers = {"Connection": "close"} if error.status == 413 else error.headers
    return JSONResponse(error.document, status_code=error.status, headers=headers)


async def answer_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "InvalidParameter")
    refused = Refused(
        error.status_code,
        code,
        f"{request.method} {request.url.path}: {error.detail}",
        "Use GET /ping or POST /invocations.",
    )
    return JSONResponse(refused.document, status_code=error.status_code, headers=error.headers)


async def answer_unforeseen(_: Request, error: Exception) -> Response:
    # Starlette raises the exception again after this answer, so the log gets its traceback.
    failure = contract.known_error(error)
    refused = Refused(500, failure.code, failure.message, failure.hint)
    return JSONResponse(refused.document, status_code=500)


async def read_body(request: Request, admission: Admission) -> None:
    """Reads the request's body. Raises Refused 413 `ImageTooLarge`."""
    too_large = Refused(
        413,
        "ImageTooLarge",
        f"The body is larger than {MAX_BODY_BYTES:,} bytes.",
        "Scale the image down, or save it as JPEG.",
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise too_large
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > MAX_BODY_BYTES:
            raise too_large
        admission.add(chunk)


def main() -> None:
    model = artifact.load(contract.model_dir())
    # The first pass sets up the kernels for this shape; without it the first caller would wait for that.
    size = model.image_size
    model.probabilities(images.blank_square(size)[None])

    server = uvicorn.Server(
        uvicorn.Config(
            application(model),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )

    # Uvicorn drains on SIGTERM, then raises the signal once more for the handler that was there before
    # it. The default one would end the process by the signal instead of with status 0.
    def end(*_: object) -> None:
        server.should_exit = True

    signal.signal(signal.SIGTERM, end)
    with listening_socket() as opened:
        described = {name: model.manifest[name] for name in ("dataset", "dataset_version", "backbone")}
        print(f"Serving {json.dumps(described)} on {opened.getsockname()}", flush=True)
        server.run(sockets=[opened])


def listening_socket() -> socket.socket:
    port = contract.environment_integer("SAGEMAKER_BIND_TO_PORT", 1, 65535, default=8080)
    # All interfaces by default: SageMaker calls from outside the container.
    host = os.environ.get("SAGEMAKER_BIND_TO_HOST", "").strip() or "0.0.0.0"  # noqa: S104
    # Asyncio sends small answers at once only where the protocol is named; else they wait 40 ms for the
    # acknowledgement of what was sent before.
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen()
        return opened
    except OSError as error:
        opened.close()
        raise JobError(
            "InvalidHyperParameter",
            f"The address {host}:{port} cannot be opened: {error}",
            "Set SAGEMAKER_BIND_TO_HOST and SAGEMAKER_BIND_TO_PORT to a free address of this machine.",
        ) from error


if __name__ == "__main__":
    # No failure file: a serving container is no job, and its disk may be read-only.
    sys.exit(contract.run(main, failure_file=None))
