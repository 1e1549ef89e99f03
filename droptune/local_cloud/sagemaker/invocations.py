"""InvokeEndpoint: SageMaker Runtime's one call, passed on to the process that serves."""

import asyncio
import logging
import time

import httpx
from botocore.session import Session
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.endpoint_server import INVOCATION_SECONDS, VariantServer
from droptune.local_cloud.sagemaker.endpoints import ROUTES

logger = logging.getLogger(__name__)

MAX_BODY_BYTES: int = Session().get_service_model("sagemaker-runtime").shape_for("BodyBlob").metadata["max"]
"""6,291,456: the limit that the service's own model documents for a request's body."""

READY_SECONDS = 30.0
"""How long an invocation waits for a container that is being started again. API Gateway gives up
after 29 s, so that nobody in front of us waits longer."""

_POLL_SECONDS = 0.05
_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_TARGET_VARIANT = "X-Amzn-SageMaker-Target-Variant"
# SageMaker strips all request headers but those of its own API.
_PASSED_ON = ("Content-Type", "Accept", _ATTRIBUTES, "X-Amzn-SageMaker-Inference-Id")

_clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}


async def invoke_endpoint(context: Context, request: Request) -> Response:
    """Answer `POST /endpoints/{name}/invocations` as SageMaker Runtime does.

    The container's answer comes back as it is when its status is 2xx; any other status is a
    `ModelError` (424) that holds it. Errors of the call itself are `ValidationError` (400),
    `ServiceUnavailable` (503) and, for a body over 6 MB, a bare 413.
    """
    name = request.path_params["name"]
    try:
        body = await _body(request)
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it
    if body is None:
        return _error(413, None, f"HTTP content length exceeded {MAX_BODY_BYTES} bytes.")
    headers = {key: request.headers[key] for key in _PASSED_ON if key in request.headers}
    variant = request.headers.get(_TARGET_VARIANT)
    deadline = time.monotonic() + READY_SECONDS
    while True:
        # The lease is short while nothing is ready: an update may bring one that is.
        with ROUTES.lease(name) as deployment:
            if deployment is None:
                return _error(400, "ValidationError", f"Endpoint {name} of account {context.account} not found.")
            server = deployment.choose(variant)
            if server is None:
                known = ", ".join(server.name for server in deployment.servers)
                return _error(
                    400,
                    "ValidationError",
                    f"Variant {variant} of endpoint {name} of account {context.account} not found. It has: {known}.",
                )
            answer = await _answer(context, name, server, headers, body)
        if answer is not None:
            return answer
        if context.stopping.is_set() or time.monotonic() > deadline:
            return _error(
                503,
                "ServiceUnavailable",
                f"The container of endpoint {name}, variant {server.name}, is not ready. Try again, and "
                f"look into {context.state_dir / 'logs' / 'endpoints' / name} if this lasts.",
            )
        await asyncio.sleep(_POLL_SECONDS)


async def _answer(
    context: Context, name: str, server: VariantServer, headers: dict[str, str], body: bytes
) -> Response | None:
    """The container's answer in SageMaker's form, or None if the container is not ready."""
    if server.port is None:
        return None
    url = f"http://127.0.0.1:{server.port}/invocations"
    try:
        async with asyncio.timeout(INVOCATION_SECONDS):
            answer = await _client().post(url, headers=headers, content=body)
    except httpx.ConnectError:
        # The process has just died and will be started again. Nothing was sent, so the caller may
        # try again, which is not safe after any other error.
        return None
    except TimeoutError:
        return _model_error(
            context,
            name,
            0,
            "Your invocation timed out while waiting for a response from container primary. Review the "
            "latency metrics for each container in Amazon CloudWatch, resolve the issue, and try again.",
        )
    except httpx.TransportError as error:
        logger.warning("Endpoint %s, variant %s: the container broke off: %r", name, server.name, error)
        return _model_error(context, name, 500, "An error occurred while handling request as the model process exited.")
    if not answer.is_success:
        return _model_error(context, name, answer.status_code, answer.content.decode(errors="replace"))
    returned = {"x-Amzn-Invoked-Production-Variant": server.name}
    for key in ("Content-Type", _ATTRIBUTES):
        if key in answer.headers:
            returned[key] = answer.headers[key]
    return Response(answer.content, headers=returned)


async def _body(request: Request) -> bytes | None:
    """The request's body, or None if it is too large."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        # What is too much is read and dropped: a client that is cut off while it sends sees a
        # broken connection instead of the answer.
        if size <= MAX_BODY_BYTES:
            chunks.append(chunk)
    return b"".join(chunks) if size <= MAX_BODY_BYTES else None


def _client() -> httpx.AsyncClient:
    """The event loop's client: connections to the containers are kept and used again."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = httpx.AsyncClient(
            trust_env=False,
            timeout=None,  # noqa: S113 (the whole call has a time limit of its own)
            # Shorter than any server's own limit (uvicorn: 5 s): a connection that the server closes
            # just when we use it again would break a request off.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0),
            headers={"Accept-Encoding": "identity"},
        )
    return _clients[loop]


async def close_connections() -> None:
    """Close the connections to the containers."""
    client = _clients.pop(asyncio.get_running_loop(), None)
    if client is not None:
        await client.aclose()


def _model_error(context: Context, name: str, status: int, message: str) -> Response:
    group = f"/aws/sagemaker/Endpoints/{name}"
    side = "client" if 400 <= status < 500 else "server"
    url = (
        f"https://{context.region}.console.aws.amazon.com/cloudwatch/home?region={context.region}"
        f"#logEventViewer:group={group}"
    )
    return _error(
        424,
        "ModelError",
        f'Received {side} error ({status}) from primary with message "{message}". See {url} in account '
        f"{context.account} for more information.",
        OriginalStatusCode=status,
        OriginalMessage=message,
        LogStreamArn=f"arn:aws:logs:{context.region}:{context.account}:log-group:{group}",
    )


def _error(status: int, code: str | None, message: str, **members: str | int) -> Response:
    headers = {} if code is None else {"x-amzn-ErrorType": code}
    return JSONResponse({"Message": message, **members}, status_code=status, headers=headers)
