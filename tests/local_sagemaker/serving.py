"""A small serving program, its model data, and the calls that make an endpoint of them."""

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.images import load_images
from droptune.local_cloud.sagemaker.jobs import Jobs
from droptune.local_cloud.sagemaker.store import Store
from droptune.local_cloud.sagemaker.workers import Workers

from .conftest import ROLE, wait_for

BUCKET = "models"

# Answers with what it was given. The environment variable MODE and the body make it misbehave.
SERVE = """
import http.server, json, os, pathlib, time

mode = os.environ.get("MODE")
name = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "model/name.txt").read_text()
print("loading", name, flush=True)
if mode == "broken":
    raise RuntimeError("the weights do not fit the network")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: each answer would take 40 ms

    def do_GET(self):
        self.answer(503 if mode == "unready" or self.path != "/ping" else 200, b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"crash":
            os._exit(3)
        if body == b"slow":
            print("a slow answer has begun", flush=True)
            time.sleep(0.5)
        if body.startswith(b"status "):
            self.answer(int(body.split()[1]), b"no cat in sight")
            return
        if body == b"echo" or len(body) > 1000:
            self.answer(200, body, "application/octet-stream")
            return
        document = {"model": name, "path": self.path, "headers": dict(self.headers), "pid": os.getpid(),
                    "environment": dict(os.environ), "files": sorted(
                        str(path.relative_to(os.environ["SAGEMAKER_BASE_DIR"]))
                        for path in pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"]).rglob("*"))}
        self.answer(200, json.dumps(document).encode())

    def answer(self, status, body, content_type="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Amzn-SageMaker-Custom-Attributes", f"served_by={name}")
        self.send_header("Server-Secret", "stays inside")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(
    (os.environ["SAGEMAKER_BIND_TO_HOST"], int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler
).serve_forever()
"""


def serving_images(directory: Path) -> dict[str, Any]:
    """images.json's content: the program as a `cold` and as a `warm` image."""
    program = directory / "serving-program"
    program.mkdir()
    (program / "serve.py").write_text(SERVE)
    cold = {"program": str(program), "serve": ["serve.py"]}
    return {"cold": cold, "warm": {**cold, "preload": ["http.server", "json"]}}


def archive(files: dict[str, bytes]) -> bytes:
    """A model.tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def put_model_data(s3: Any, name: str) -> str:
    """Uploads model data that calls itself `name`; returns its address."""
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=f"{name}/model.tar.gz", Body=archive({"name.txt": name.encode()}))
    return f"s3://{BUCKET}/{name}/model.tar.gz"


@contextmanager
def local_context(directory: Path) -> Iterator[Context]:
    """A context of this very process, without S3."""
    images = directory / "images.json"
    images.write_text(json.dumps(serving_images(directory)))
    context = Context(
        store=Store(directory / "sagemaker.sqlite"),
        state_dir=directory,
        gateway_url="http://127.0.0.1:1",
        images=load_images(images),
        workers=Workers(directory / "logs" / "workers"),
        jobs=Jobs(directory, slots=1, stop_grace_seconds=1),
    )
    try:
        yield context
    finally:
        context.stopping.set()
        context.workers.close()
        context.store.close()


def local_variant(directory: Path, name: str, seconds: float = 60, **environment: str) -> dict[str, Any]:
    """What a `VariantServer` is made of; its model data lies in `directory` already."""
    (directory / "model").mkdir(parents=True)
    (directory / "model" / "name.txt").write_text(name)
    return {
        "VariantName": "AllTraffic",
        "Weight": 1.0,
        "Image": "warm:1",
        "Source": None,
        "Environment": environment,
        "HealthCheckSeconds": seconds,
    }


def make_model(sagemaker: Any, s3: Any, name: str, image: str = "warm:1", **environment: str) -> None:
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={
            "Image": image,
            "ModelDataUrl": put_model_data(s3, name),
            "Environment": environment,
        },
    )


def make_config(sagemaker: Any, s3: Any, name: str, image: str = "warm:1", **environment: str) -> None:
    """A model and an endpoint configuration of the same name, with the variant AllTraffic."""
    make_model(sagemaker, s3, name, image, **environment)
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[variant("AllTraffic", name)],
    )


def variant(name: str, model: str, weight: float = 1.0) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": model,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
        "InitialVariantWeight": weight,
    }


def settled(sagemaker: Any, name: str) -> dict[str, Any]:
    """The endpoint's description once nothing is under way any more."""

    def description() -> dict[str, Any] | None:
        endpoint: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=name)
        return endpoint if endpoint["EndpointStatus"] in ("InService", "Failed") else None

    endpoint: dict[str, Any] = wait_for(f"endpoint {name}", description)
    return endpoint


def make_endpoint(sagemaker: Any, s3: Any, name: str, image: str = "warm:1", **environment: str) -> dict[str, Any]:
    """An endpoint with a configuration and a model of the same name, brought up."""
    make_config(sagemaker, s3, name, image, **environment)
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    return settled(sagemaker, name)
