"""The ASGI application of the local SageMaker."""

import json
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

# Importing these registers their operations.
from droptune.local_cloud.sagemaker import (  # noqa: F401
    endpoint_configs,
    endpoints,
    models,
    processing,
    registry,
    tags,
    training,
    tuning,
)
from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import SageMakerError
from droptune.local_cloud.sagemaker.invocations import close_connections, invoke_endpoint
from droptune.local_cloud.sagemaker.protocol import SHUTDOWN_HOOKS, STARTUP_HOOKS, TARGET_PREFIX, dispatch
from droptune.local_cloud.sagemaker.recovery import fail_interrupted_jobs

logger = logging.getLogger(__name__)

_CONTENT_TYPE = "application/x-amz-json-1.1"


def create_app(context: Context) -> Starlette:
    """`POST /` answers SageMaker's operations, `/endpoints/…/invocations` the runtime's."""

    async def control_plane(request: Request) -> Response:
        body = await request.body()
        return await run_in_threadpool(_answer, context, request.headers.get("x-amz-target", ""), body)

    async def invocations(request: Request) -> Response:
        return await invoke_endpoint(context, request)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(_start, context)
        yield
        await close_connections()
        await run_in_threadpool(_stop, context)

    return Starlette(
        routes=[
            Route("/", control_plane, methods=["POST"]),
            Route("/endpoints/{name}/invocations", invocations, methods=["POST"]),
            Route("/health", health),
        ],
        lifespan=lifespan,
    )


def _answer(context: Context, target: str, body: bytes) -> Response:
    request_id = str(uuid.uuid4())
    name = target.removeprefix(TARGET_PREFIX)
    try:
        if name == target:
            raise SageMakerError(
                "The request names no operation: the header X-Amz-Target: SageMaker.<Operation> is missing.",
                code="UnknownOperationException",
            )
        answer = dispatch(context, name, _parsed(body))
    except SageMakerError as error:
        return _error(error, request_id)
    except Exception as error:
        # The boundary of the process: a defect of ours must be an answer that says so.
        logger.exception("%s failed", target)
        text = f"The local SageMaker failed at {name}: {error!r}. Its log has the details."
        return _error(SageMakerError(text, http_status=500), request_id)
    return Response(json.dumps(answer), media_type=_CONTENT_TYPE, headers={"x-amzn-RequestId": request_id})


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body or b"{}", parse_constant=_refuse_constant)
    except ValueError as error:
        raise SageMakerError(f"The request is no JSON: {error}", code="SerializationException") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _error(error: SageMakerError, request_id: str) -> Response:
    # Errors of the model have the member Message, the common ones message: clients read either.
    body = {"__type": error.code, "message": error.message, "Message": error.message}
    return Response(
        json.dumps(body),
        status_code=error.http_status,
        media_type=_CONTENT_TYPE,
        headers={"x-amzn-RequestId": request_id, "x-amzn-ErrorType": error.code},
    )


def _start(context: Context) -> None:
    fail_interrupted_jobs(context)
    context.jobs.remove_directories()
    for image in context.images.values():
        if image.preload:
            context.workers.prewarm(image)
    for hook in STARTUP_HOOKS:
        hook(context)


def _stop(context: Context) -> None:
    context.stopping.set()
    fail_interrupted_jobs(context)
    for hook in SHUTDOWN_HOOKS:
        hook(context)
    context.workers.close()
