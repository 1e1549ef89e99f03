"""A real ministack for S3, Step Functions and CloudFormation, and an HTTP server that answers as the API does."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from droptune.client import Cloud

BUCKET = "droptune-000000000000-us-east-1"
# The paths through a run that the commands must be able to show, without the work in it.
DEFINITION = {
    "QueryLanguage": "JSONata",
    "StartAt": "Settle",
    "States": {
        "Settle": {"Type": "Wait", "Seconds": "{% $states.input.settle %}", "Next": "Prepare"},
        "Prepare": {"Type": "Wait", "Seconds": "{% $states.input.prepare %}", "Next": "Gate"},
        "Gate": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $states.input.fail %}", "Next": "Broken"}],
            "Default": "Mail",
        },
        "Broken": {"Type": "Fail", "Error": "TooFewClasses", "Cause": "One class."},
        "Mail": {"Type": "Pass", "End": True},
    },
}
ROLE = "arn:aws:iam::000000000000:role/states"
TEMPLATE = {
    "Resources": {
        "Retrain": {
            "Type": "AWS::StepFunctions::StateMachine",
            "Properties": {
                "StateMachineName": "droptune-retrain",
                "RoleArn": ROLE,
                "DefinitionString": json.dumps(DEFINITION),
            },
        }
    },
    "Outputs": {"StateMachineArn": {"Value": {"Ref": "Retrain"}}},
}


@dataclass
class Api:
    """What the HTTP server holds; `predict` gets the dataset, the media type and the body."""

    url: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    reports: dict[str, str] = field(default_factory=dict)
    predict: Callable[[str, str, bytes], tuple[int, dict[str, Any]]] | None = None
    requests: list[str] = field(default_factory=list)


def error(code: str, message: str = "It is so.", hint: str = "Do this.") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "hint": hint, "request_id": "1"}}


def run_document(run_id: str, **fields: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": run_id,
        "dataset": "pets",
        "status": "SUCCEEDED",
        "verdict": "promoted",
        "started_at": "2026-11-22T14:00:00Z",
        "ended_at": "2026-11-22T14:02:03Z",
        "dataset_version": 1,
        "model_version": 1,
        "accuracy": 0.875,
        "error": None,
    }
    return {**document, **fields}


@pytest.fixture
def api() -> Iterator[Api]:
    state = Api(url="")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if url.path == "/runs":
                wanted = query.get("dataset", [None])[0]
                found = [run for run in state.runs if wanted in (None, run["dataset"])]
                self.answer(200, {"runs": found[: int(query["limit"][0])]})
            elif match := re.fullmatch(r"/runs/([^/]+)/report", url.path):
                location = state.reports.get(match[1])
                if location is None:
                    self.answer(404, error("NotFound", "There is no report."))
                else:
                    self.answer(302, {}, {"Location": location})
            elif match := re.fullmatch(r"/runs/([^/]+)", url.path):
                run = next((run for run in state.runs if run["id"] == match[1]), None)
                if run is None:
                    self.answer(404, error("UnknownRun", f"There is no run '{match[1]}'."))
                else:
                    self.answer(200, {**run, "states": []})
            else:
                self.answer(502, None)

        def do_POST(self) -> None:
            state.requests.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert state.predict is not None
            dataset = urlsplit(self.path).path.removeprefix("/predict/")
            self.answer(*state.predict(dataset, self.headers["Content-Type"], body))

        def answer(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(document).encode() if document is not None else b"<html>bad gateway</html>"
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a ministack with the bucket and a stack `droptune` whose state machine does nothing."""
    home = tmp_path_factory.mktemp("ministack")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "TMPDIR": str(home),
    }
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack.app"], env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=home
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process, log)
        cloud = Cloud(environment_of(url, url))
        with cloud:
            cloud.s3.create_bucket(Bucket=BUCKET)
        formation = cloud._client("cloudformation")
        formation.create_stack(StackName="droptune", TemplateBody=json.dumps(TEMPLATE))
        formation.get_waiter("stack_create_complete").wait(StackName="droptune", WaiterConfig={"Delay": 0.1})
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/_ministack/health", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(log.read_text())


def environment_of(endpoint_url: str, api_url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "DROPTUNE_API_URL": api_url,
        "DROPTUNE_BUCKET": BUCKET,
    }


@pytest.fixture(name="run_document")
def run_document_fixture() -> Callable[..., dict[str, Any]]:
    return run_document


@pytest.fixture(name="environment_of")
def environment_of_fixture() -> Callable[[str, str], dict[str, str]]:
    return environment_of


@pytest.fixture(name="api_error")
def api_error_fixture() -> Callable[..., dict[str, Any]]:
    return error


@pytest.fixture
def cloud(ministack: str, api: Api) -> Iterator[Cloud]:
    with Cloud(environment_of(ministack, api.url)) as cloud:
        yield cloud


@pytest.fixture
def execution(cloud: Cloud) -> Callable[..., str]:
    """Starts an execution of the state machine as a run does, and returns its ARN."""

    def start(run_id: str, *, settle: int = 0, prepare: int = 0, fail: bool = False) -> str:
        answer = cloud.stepfunctions.start_execution(
            stateMachineArn=cloud.outputs["StateMachineArn"],
            name=run_id,
            input=json.dumps({"settle": settle, "prepare": prepare, "fail": fail}),
        )
        return str(answer["executionArn"])

    return start
