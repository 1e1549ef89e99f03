"""Serve: the model behind SageMaker's inference contract, `GET /ping` and `POST /invocations`.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html

Features
    - Loads the artefact once, with its hash checked; a bad one ends the process with a clear message
      before any port is opened.
    - Decodes with the module that Prepare decodes with, so a model sees what it was trained on.
    - Bounded: bytes, pixels, and images waiting for the one worker. What is over is refused at once.
    - SIGTERM ends open requests first, then the process, with exit status 0.

Trade-offs
    - One worker thread that uses all cores answers sooner than several that share them; requests queue.
    - The body is read into memory, since decoding needs the whole file.

Environment
    SAGEMAKER_BIND_TO_HOST (default: all interfaces, as SageMaker calls a container from outside),
    SAGEMAKER_BIND_TO_PORT (default 8080), SAGEMAKER_BASE_DIR.

Errors
    ModelCorrupt at the start. In answers, as {"error": {"code", "message", "hint"}}: 400 InvalidImage, 400
    InvalidParameter, 404 NotFound, 405 MethodNotAllowed, 413 ImageTooLarge, 415 UnsupportedMediaType, 500
    InternalError, 503 Overloaded.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import artifact
import contract
import images
import uvicorn
from contract import JobError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp", "application/x-image")
ATTRIBUTES_HEADER = "x-amzn-sagemaker-custom-attributes"
# SageMaker's own limit for real-time requests:
# https://docs.aws.amazon.com/sagemaker/latest/dg/realtime-endpoints-test-endpoints.html
MAX_BODY_BYTES = 25 * 1024**2
# A minute's work for a slow network on a slow machine, the time after which SageMaker gives up.
MAX_WAITING = 64
DEFAULT_TOP_K = 3
# SageMaker kills a container 30 seconds after SIGTERM.
DRAIN_SECONDS = 25


class Refused(Exception):  # noqa: N818 - an answer, not an error of the program
    """An answer other than 200, in the contract's shape."""

    def __init__(self, status: int, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.status = status
        self.document = {"error": {"code": code, "message": message, "hint": hint}}


class Predictor:
    """The model and the one thread that uses it."""

    def __init__(self, model: artifact.Model) -> None:
        self._model = model
        self._waiting = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    async def predict(self, body: bytes, top_k: int) -> dict[str, Any]:
        """Raises Refused for a body that is no usable image, and when too many are waiting."""
        if self._waiting >= MAX_WAITING:
            raise Refused(503, "Overloaded", f"{MAX_WAITING} images are waiting already.", "Try again later.")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._worker, self._predict, body, top_k)
        finally:
            self._waiting -= 1

    def _predict(self, body: bytes, top_k: int) -> dict[str, Any]:
        try:
            square = images.decode_square(body, self._model.image_size)
        except images.BadImage as error:
            status, code = (413, "ImageTooLarge") if error.too_large else (400, "InvalidImage")
            raise Refused(status, code, error.reason, error.hint) from error
        scores = self._model.probabilities(square[None])[0]
        best = (-scores).argsort(kind="stable")[:top_k]
        manifest = self._model.manifest
        return {
            "predictions": [{"label": self._model.classes[index], "score": float(scores[index])} for index in best],
            "model": {name: manifest[name] for name in ("backbone", "dataset", "dataset_version")},
        }


def application(model: artifact.Model) -> Starlette:
    predictor = Predictor(model)

    async def ping(_: Request) -> Response:
        return Response()

    async def invocations(request: Request) -> Response:
        check_media_type(request)
        top_k = parse_top_k(request.headers.get(ATTRIBUTES_HEADER, ""))
        body = await read_body(request)
        return JSONResponse(await predictor.predict(body, top_k))

    return Starlette(
        routes=[Route("/ping", ping), Route("/invocations", invocations, methods=["POST"])],
        exception_handlers={
            Refused: answer_refused,
            HTTPException: answer_http_error,
            Exception: answer_unforeseen,
        },
    )


async def answer_refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, Refused):
        raise error
    # A client that is still sending would not see the answer if the connection were kept for more.
    headers = {"Connection": "close"} if error.status == 413 else None
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


def check_media_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise Refused(
            415,
            "UnsupportedMediaType",
            f"The body's Content-Type is {media_type!r}.",
            f"Send the image itself, with one of: {', '.join(MEDIA_TYPES)}.",
        )


def parse_top_k(attributes: str) -> int:
    """`top_k` from `name=value` pairs separated by commas; other names are none of our business."""
    pairs = dict(pair.strip().partition("=")[::2] for pair in attributes.split(","))
    text = pairs.get("top_k", str(DEFAULT_TOP_K)).strip()
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise Refused(400, "InvalidParameter", f"top_k is {text!r}.", "Give top_k as an integer from 1 to 1000.")
    return int(text)


async def read_body(request: Request) -> bytes:
    too_large = Refused(
        413,
        "ImageTooLarge",
        f"The body is larger than {MAX_BODY_BYTES:,} bytes.",
        "Scale the image down, or save it as JPEG.",
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise too_large
    return bytes(body)


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
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise JobError(
            "InvalidHyperParameter",
            f"The address {host}:{port} cannot be opened: {error}",
            "Set SAGEMAKER_BIND_TO_HOST and SAGEMAKER_BIND_TO_PORT to a free address of this machine.",
        ) from error


if __name__ == "__main__":
    # No failure file: a serving container is no job, and its disk may be read-only.
    sys.exit(contract.run(main, failure_file=None))
