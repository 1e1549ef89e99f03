"""A plain ministack for S3 and logs, and the local SageMaker beside it, as processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

ROLE = "arn:aws:iam::000000000000:role/droptune"
CREDENTIALS = {
    "region_name": "us-east-1",
    "aws_access_key_id": "test",
    "aws_secret_access_key": "test",
}
NO_RETRIES = Config(retries={"total_max_attempts": 1}, read_timeout=120, s3={"addressing_style": "path"})

# One program for most jobs: the hyper-parameter `do` says what it does.
TRAIN = """
import json, os, pathlib, signal, sys, time

base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
hps = json.loads((base / "input/config/hyperparameters.json").read_text())
do = hps.get("do", "train")
print("doing", do, flush=True)
if do == "fail":
    (base / "output/failure").write_text("no such luck")
    sys.exit(1)
if do == "crash":
    raise ValueError("unexpected")
if do == "sleep":
    signal.signal(signal.SIGTERM, lambda *_: (
        (base / "model/saved.txt").write_text("saved on SIGTERM"), sys.exit(0)))
    (base / "output/data/started").write_text("yes")
    print("sleeping", os.getpid(), flush=True)
    time.sleep(600)
if do == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("sleeping", os.getpid(), flush=True)
    time.sleep(600)
x = float(hps.get("x", "0.5"))
for epoch in range(int(hps.get("epochs", "3"))):
    score = 1 - (x - 0.3) ** 2 - 1 / (epoch + 2)
    print(f"epoch={epoch}; validation:accuracy={score:.6f};", flush=True)
    time.sleep(float(hps.get("pause", "0")))
inputs = sorted(
    str(path.relative_to(base / "input/data")) for path in (base / "input/data").rglob("*") if path.is_file()
)
(base / "model/inputs.json").write_text(json.dumps(inputs))
(base / "model/environment.json").write_text(json.dumps(dict(os.environ)))
(base / "model/config.json").write_text(json.dumps({
    path.stem: json.loads(path.read_text()) for path in (base / "input/config").glob("*.json")}))
if hps.get("output"):
    (base / "output/data/history.json").write_text("[]")
"""

PROCESS = """
import json, os, pathlib, shutil, sys

base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
source, target = base / "processing/input/dataset", base / "processing/output/prepared"
if os.environ.get("DO") == "fail":
    (base / "output/message").write_text('{"code": "TooFewClasses"}')
    sys.exit(1)
for path in sorted(source.rglob("*")):
    if path.is_file():
        destination = target / path.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, destination)
config = json.loads((base / "config/processingjobconfig.json").read_text())
(target / "about.json").write_text(json.dumps({
    "arguments": sys.argv[1:], "job": config["ProcessingJobName"], "dataset": os.environ["DATASET"]}))
(base / "output/message").write_text("prepared")
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Polls until the condition is true, and returns its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


class Server:
    """A local SageMaker process that can be stopped, killed and started again on its state."""

    def __init__(self, directory: Path, gateway: str, images: dict[str, Any], *options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        images_file = directory / "images.json"
        images_file.write_text(json.dumps(images))
        self._command = [
            *(sys.executable, "-m", "droptune.local_cloud.sagemaker"),
            *("--state-dir", str(directory / "state"), "--port", str(self.port)),
            *("--gateway-url", gateway, "--images", str(images_file), *options),
        ]
        self.start()

    def start(self) -> None:
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_for("the start of the server", lambda: answers(self.url + "/health") or self.process.poll())
        assert self.process.poll() is None, self.log()

    def log(self) -> str:
        return (self.directory / "server.log").read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self, service: str = "sagemaker") -> Any:
        return boto3.client(service, endpoint_url=self.url, config=NO_RETRIES, **CREDENTIALS)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A plain ministack's URL."""
    directory = tmp_path_factory.mktemp("ministack")
    port = free_port()
    environment = {
        **os.environ,
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
    }
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"], cwd=directory, env=environment, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for("the start of ministack", lambda: answers(url + "/_ministack/health"))
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def s3(gateway: str) -> Any:
    return boto3.client("s3", endpoint_url=gateway, config=NO_RETRIES, **CREDENTIALS)


@pytest.fixture(scope="session")
def bucket(s3: Any) -> str:
    s3.create_bucket(Bucket="jobs")
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        s3.put_object(Bucket="jobs", Key=f"data/{name}", Body=name.encode())
    s3.put_object(Bucket="jobs", Key="data/", Body=b"")  # a folder marker, as consoles make them
    manifest = [{"prefix": "s3://jobs/data/"}, "b.txt", "sub/c.txt"]
    s3.put_object(Bucket="jobs", Key="list.json", Body=json.dumps(manifest).encode())
    return "jobs"


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    program = tmp_path_factory.mktemp("program")
    (program / "train.py").write_text(textwrap.dedent(TRAIN))
    (program / "process.py").write_text(textwrap.dedent(PROCESS))
    plain = {"program": str(program), "train": ["train.py"]}
    return {"plain": plain, "warm": {**plain, "preload": ["json", "decimal"]}}


@pytest.fixture(scope="session")
def server(
    gateway: str, bucket: str, images: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("sagemaker"), gateway, images, "--stop-grace", "2")
    yield running
    assert running.stop() == 0, running.log()
    assert "Traceback" not in running.log(), running.log()


@pytest.fixture(scope="session")
def sagemaker(server: Server) -> Any:
    return server.client()


def training_request(name: str, image: str = "warm:1", **hyper_parameters: str) -> dict[str, Any]:
    """A CreateTrainingJob request for the program above."""
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {
            "TrainingImage": image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [
                {"Name": "validation:accuracy", "Regex": "validation:accuracy=([0-9.eE+-]+|nan|inf);"}
            ],
        },
        "RoleArn": ROLE,
        "HyperParameters": hyper_parameters,
        "OutputDataConfig": {"S3OutputPath": "s3://jobs/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 300},
    }


def finished_training(sagemaker: Any, name: str) -> dict[str, Any]:
    """Waits for the job's end and returns its description."""

    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = sagemaker.describe_training_job(TrainingJobName=name)
        return job if job["TrainingJobStatus"] in ("Completed", "Failed", "Stopped") else None

    job: dict[str, Any] = wait_for(f"the end of {name}", ended)
    return job
