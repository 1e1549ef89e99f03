"""Lambda code in this process against a real S3 and DynamoDB: a ministack of its own, one for the session."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import app
import httpx
import pytest
from chalice.test import Client, HTTPResponse
from chalicelib import config

BUCKET = "droptune-000000000000-us-east-1"
TABLES = {"DATASETS_TABLE": "dataset", "RUNS_TABLE": "id", "IDEMPOTENCY_TABLE": "id"}


@dataclass(frozen=True)
class Stack:
    """The bucket and the tables, as the functions find them."""

    url: str

    def put(self, key: str, body: bytes | str = b"image") -> None:
        """Put an object."""
        config.client("s3").put_object(Bucket=BUCKET, Key=key, Body=body)

    def delete(self, key: str) -> None:
        """Delete an object."""
        config.client("s3").delete_object(Bucket=BUCKET, Key=key)

    def get(self, key: str) -> str | None:
        """An object's text, or None."""
        s3 = config.client("s3")
        try:
            text: str = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()
        except s3.exceptions.NoSuchKey:
            return None
        return text

    def keys(self, prefix: str) -> list[str]:
        """The keys below a prefix, without it."""
        listing = config.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"].removeprefix(prefix) for entry in listing.get("Contents", [])]

    def item(self, dataset: str) -> dict[str, Any]:
        """The dataset's item."""
        item: dict[str, Any] = config.datasets_table().get_item(Key={"dataset": dataset}).get("Item", {})
        return item


class Api:
    """The application as API Gateway calls it."""

    def __init__(self, client: Client) -> None:
        self._http = client.http

    def get(self, path: str) -> HTTPResponse:
        """The answer to GET."""
        return self._http.get(path)

    def send(self, method: str, path: str, body: Any) -> HTTPResponse:
        """The answer to a request with a body: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._http.request(method, path, headers={"Content-Type": "application/json"}, body=content)


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a ministack that holds nothing yet."""
    home = tmp_path_factory.mktemp("ministack")
    port = _free_port()
    own = {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "TMPDIR": str(home),
    }
    with _process(home, ["ministack.app"], own, f"http://127.0.0.1:{port}/_ministack/health"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def sagemaker(ministack: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a local SageMaker without endpoints and models."""
    home = tmp_path_factory.mktemp("sagemaker")
    port = _free_port()
    (home / "images.json").write_text("{}")
    options = {"state-dir": home, "port": port, "gateway-url": ministack, "images": home / "images.json"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    module = "droptune.local_cloud.sagemaker"
    with _process(home, [module, *arguments], {}, f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def api(stack: Stack, sagemaker: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The HTTP API on the empty stack."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", sagemaker)
    with Client(app.app) as client:
        yield Api(client)


@pytest.fixture
def stack(ministack: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """An empty bucket and empty tables."""
    environment = {
        "AWS_ENDPOINT_URL": ministack,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
        "BUCKET": BUCKET,
        "DROPTUNE_CONFIG": '{"quiet_seconds": 60, "max_wait_seconds": 900, "mail": {"from": "", "to": ""}}',
        **{variable: f"droptune-{variable.removesuffix('_TABLE').lower()}" for variable in TABLES},
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config.client.cache_clear()
    config._table.cache_clear()
    httpx.post(f"{ministack}/_ministack/reset", trust_env=False).raise_for_status()
    config.client("s3").create_bucket(Bucket=BUCKET)
    for variable, key in TABLES.items():
        config.client("dynamodb").create_table(
            TableName=environment[variable],
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
    yield Stack(ministack)
    config.client.cache_clear()
    config._table.cache_clear()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _process(home: Path, module: list[str], environment: dict[str, str], health: str) -> Iterator[None]:
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module], env=os.environ | environment, stdout=output, stderr=output, cwd=home
        )
    try:
        deadline = time.monotonic() + 60
        while not _answers(health):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False
