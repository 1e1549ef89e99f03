"""The gateway: one port for every AWS service, and a second one with a friendly address for the prediction API.

It is ministack's ASGI application with SageMaker attached (integrations.py), its state kept through a SIGKILL
(persistence.py), and, on the API port, each request's path rewritten to the deployed API's stage, so that
`http://127.0.0.1:<api port>/health` answers what `https://<id>.execute-api.<region>.amazonaws.com/api/health`
answers on AWS.

ministack reads its settings from the environment when it is imported: start this module through
`lifecycle.LocalCloud`, which sets them.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from hypercorn.asyncio import serve
from hypercorn.config import Config

from droptune.local_cloud.integrations import attach, write_errors
from droptune.local_cloud.outbox import Outbox
from droptune.local_cloud.persistence import RequestLog, Snapshots
from droptune.local_cloud.queue_metrics import QueueMetrics

logger = logging.getLogger("droptune.gateway")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
FLUSH_PATH = "/_droptune/flush"
# Requests that change only what the busy services hold, or nothing that a snapshot has to look for.
QUIET_SERVICES = frozenset({"s3", "sagemaker", "sqs", "states", "sts", "ses", "logs", "dynamodb"})
# DynamoDB operations that change items, and so are logged (names: DynamoDB API reference).
DYNAMODB_WRITES = frozenset(
    f"DynamoDB_20120810.{name}"
    for name in ("BatchWriteItem", "DeleteItem", "PutItem", "TransactWriteItems", "UpdateItem")
)
# An execution that was answered must be known after a kill: a run that is started a second time under its name finds
# the names of its jobs taken.
START_EXECUTION = "AWSStepFunctions.StartExecution"


class Gateway:
    """ASGI application around ministack's: the API port, logged writes, the snapshot loop.

    Args:
        application: ministack's ASGI application.
        api_port: requests that arrive on this port go to the deployed API.
        deployment_file: JSON document `{"rest_api_id": …, "stage": …}`, written when the stack is deployed.
        log_directory: where writes are kept until a snapshot has them.
    """

    def __init__(self, application: Application, api_port: int, deployment_file: Path, log_directory: Path) -> None:
        self._application = application
        self._api_port = api_port
        self._deployment_file = deployment_file
        self._log = RequestLog(log_directory)
        self._snapshots: Snapshots | None = None
        self._loops: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http" and scope["server"][1] == self._api_port:
            await self._api(scope, receive, send)
        elif scope["type"] == "http":
            await self._aws(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_after_start(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                # ministack has restored its last snapshot, and no client has been let in yet.
                await self._replay()
                self._snapshots = Snapshots(self._log)
                await self._snapshots.flush()
                metrics = QueueMetrics(on_change=lambda: self._mark("monitoring"))
                self._loops = [asyncio.create_task(each.run()) for each in (self._snapshots, metrics)]
            await send(message)

        await self._application(scope, receive, send_after_start)
        for loop in self._loops:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop

    async def _replay(self) -> None:
        count = 0
        for request, body in self._log.replay():
            headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request["headers"]]
            scope = {
                **SCOPE,
                "method": request["method"],
                "path": request["path"],
                "raw_path": request["path"].encode(),
                "query_string": request["query_string"].encode("latin-1"),
                "headers": headers,
            }
            await self._application(scope, _body_once(body), _discard)
            count += 1
        if count:
            logger.warning("sent %d writes again that came after the last snapshot", count)

    async def _api(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            deployment = json.loads(self._deployment_file.read_text())
        except FileNotFoundError:
            await _answer(send, 503, _error("NotDeployed", "No stack is deployed here yet.", "Run: droptune up"))
            return
        prefix = f"/_aws/execute-api/{deployment['rest_api_id']}/{deployment['stage']}"
        path = prefix + scope["path"]
        await self._application({**scope, "path": path, "raw_path": quote(path).encode()}, receive, send)
        self._mark("states")

    async def _aws(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = _headers(scope).get("x-amz-target", "")
        if scope["path"] == FLUSH_PATH and self._snapshots is not None:
            await self._snapshots.flush()
            await _answer(send, 200, {})
        elif operation in DYNAMODB_WRITES:
            await self._logged(scope, receive, send)
            self._mark("dynamodb")
        elif operation == START_EXECUTION:
            await self._application(scope, receive, self._once_saved("stepfunctions", send))
            self._mark("stepfunctions")
        elif scope["method"] in READ_METHODS:
            await self._application(scope, receive, send)
        else:
            await self._application(scope, receive, _refuse_unwritten(send))
            self._mark(_service_of(scope))

    async def _logged(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()

        async def receive_and_keep() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def log_and_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self._log.append(_request(scope), bytes(body))
            await send(message)

        await self._application(scope, receive_and_keep, log_and_send)

    def _once_saved(self, service: str, send: Send) -> Send:
        async def save_and_send(message: Message) -> None:
            if message["type"] == "http.response.start" and self._snapshots is not None:
                await self._snapshots.save(service)
            await send(message)

        return save_and_send

    def _mark(self, service: str) -> None:
        if self._snapshots is not None:
            self._snapshots.mark("stepfunctions" if service in QUIET_SERVICES else service)


def _refuse_unwritten(send: Send) -> Send:
    """Answer with an error in S3's form when an object of this request did not reach the disk."""
    errors: list[OSError] = []
    write_errors.set(errors)

    async def send_or_refuse(message: Message) -> None:
        if not errors:
            await send(message)
        elif message["type"] == "http.response.start":
            # botocore repeats a 503, and a full disk stays full.
            text = escape(f"The object could not be written: {errors[0]}. Free some space, then upload it again.")
            body = f"<Error><Code>InsufficientStorage</Code><Message>{text}</Message></Error>".encode()
            headers = [(b"content-type", b"application/xml"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 507, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    return send_or_refuse


# What a replayed request has in common with every request of a client.
SCOPE: Scope = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "scheme": "http",
    "root_path": "",
    "client": ("127.0.0.1", 0),
    "server": ("127.0.0.1", 0),
    "extensions": {},
}


def _request(scope: Scope) -> dict[str, Any]:
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    return {
        "method": scope["method"],
        "path": scope["path"],
        "query_string": scope["query_string"].decode("latin-1"),
        "headers": headers,
    }


def _body_once(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _discard(_: Message) -> None:
    """The client that waited for this answer got it before the kill."""


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _service_of(scope: Scope) -> str:
    from ministack.core.router import detect_service

    service: str = detect_service(scope["method"], scope["path"], _headers(scope), {})
    return service


def _error(code: str, message: str, hint: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "hint": hint, "request_id": None}}


async def _answer(send: Send, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _serve(gateway: Gateway, port: int, api_port: int) -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{port}", f"127.0.0.1:{api_port}"]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    await serve(gateway, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="port of all AWS services")
    parser.add_argument("--api-port", type=int, required=True, help="port of the deployed API")
    parser.add_argument("--sagemaker-url", required=True, help="where the local SageMaker listens")
    parser.add_argument("--deployment-file", type=Path, required=True, help="says which API is deployed")
    parser.add_argument("--smtp-port", type=int, required=True, help="where the mailbox listens")
    parser.add_argument("--outbox", type=Path, required=True, help="keeps mails until the mailbox has them")
    parser.add_argument("--log-directory", type=Path, required=True, help="keeps writes between snapshots")
    arguments = parser.parse_args()

    from ministack.app import app

    logging.getLogger("hypercorn.access").disabled = True
    outbox = Outbox(arguments.outbox, arguments.smtp_port)
    outbox.start()
    attach(arguments.sagemaker_url, f"http://127.0.0.1:{arguments.port}", outbox)
    gateway = Gateway(app, arguments.api_port, arguments.deployment_file, arguments.log_directory)
    asyncio.run(_serve(gateway, arguments.port, arguments.api_port))
    # Executions and Lambda workers run in threads that nothing joins; everything is saved by now.
    os._exit(0)


if __name__ == "__main__":
    main()
