"""The processes behind an endpoint: one HTTP server per variant, started, watched and drained.

A `VariantServer` keeps one serving process alive; a `Deployment` holds those of one endpoint
configuration; `Routes` says which deployment answers for an endpoint's name, counts the requests it
is answering, and switches to another one without losing any.
"""

import logging
import os
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.model_data import ModelDataError, fetch
from droptune.local_cloud.sagemaker.store import Document
from droptune.local_cloud.sagemaker.workers import WorkerProcess

logger = logging.getLogger(__name__)

INVOCATION_SECONDS = 60.0
"""What SageMaker gives a container to answer (API reference of InvokeEndpoint)."""
STOP_SECONDS = 30.0
"""What SageMaker gives a container between SIGTERM and SIGKILL ("How containers serve")."""

_PING_SECONDS = 2.0  # SageMaker's own limit for an answer to /ping
_POLL_SECONDS = 0.05
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0
_STEADY_SECONDS = 60.0  # a process that lived this long has not failed because of how it starts
_STARTS = 2  # the second for the rare case that somebody took the free port before the server did
_LOG_LINES = 8


class ServingError(Exception):
    """A variant does not serve. The text is the endpoint's FailureReason."""


class VariantServer:
    """The serving process of one variant, under the container contract.

    However many instances a variant asks for, this machine is one instance: one process.
    """

    def __init__(self, context: Context, endpoint: str, variant: Document, folder: Path) -> None:
        """`variant` has VariantName, Weight, Image, Source, Environment and HealthCheckSeconds;
        `folder` stands for the container's `/opt/ml`.
        """
        self.name: str = variant["VariantName"]
        self.weight: float = variant["Weight"]
        self.port: int | None = None  # None: not ready
        self._context = context
        self._endpoint = endpoint
        self._variant = variant
        self._folder = folder
        self._log = context.state_dir / "logs" / "endpoints" / endpoint / f"{self.name}.log"
        self._process: WorkerProcess | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Fetch the model data, start the process and return when `/ping` answers 200.

        Raises ServingError when that does not happen in time; nothing runs then.
        """
        self._prepare()
        self._launch()
        self._context.run_in_background(self._supervise)

    def resume(self) -> None:
        """Start in the background and go on trying: for a variant that has served before."""
        self._context.run_in_background(self._supervise)

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """End the process: SIGTERM, then SIGKILL to its group after `grace` seconds."""
        self._stopping.set()
        process = self._process
        self.port = None
        if process is not None:
            _end(process, grace)

    def _ending(self) -> bool:
        return self._stopping.is_set() or self._context.stopping.is_set()

    def _prepare(self) -> None:
        model = self._folder / "model"
        if model.exists():
            return
        # Renamed when it is whole: a folder called `model` needs no second look after a crash.
        partial = self._folder / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        if source := self._variant["Source"]:
            try:
                fetch(self._context, source, partial)
            except ModelDataError as error:
                raise ServingError(str(error)) from error
        else:
            partial.mkdir()
        partial.rename(model)

    def _launch(self) -> None:
        image = self._context.image(self._variant["Image"])
        if image is None or not image.serve:
            raise ServingError(
                f"The image '{self._variant['Image']}' for production variant {self.name} does not exist, or "
                "has no serving entry point. Please make sure all images included in the model for the "
                f"production variant {self.name} exist. This machine has: "
                f"{', '.join(sorted(name for name, known in self._context.images.items() if known.serve))}."
            )
        self._log.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _STARTS + 1):
            log_start = self._log.stat().st_size if self._log.exists() else 0
            port = _free_port()
            process = self._context.workers.start(
                image,
                image.command(image.serve),
                environment={
                    # Like a container on its own instance, the process may use every core.
                    "OMP_NUM_THREADS": str(os.cpu_count() or 1),
                    **self._variant["Environment"],
                    "SAGEMAKER_BASE_DIR": str(self._folder),
                    "SAGEMAKER_BIND_TO_PORT": str(port),
                    "SAGEMAKER_BIND_TO_HOST": "127.0.0.1",
                },
                directory=image.program,
                log=self._log,
            )
            trouble = self._await_ping(process, port)
            if trouble is None:
                self._process, self.port = process, port
                if self._stopping.is_set():  # stop() came before it could see the process
                    self.port = None
                    _end(process)
                return
            ended_by_itself = process.returncode is not None
            _end(process, grace=1.0)
            if self._ending() or attempt == _STARTS or not ended_by_itself:
                raise ServingError(self._ping_failure(trouble, log_start))

    def _await_ping(self, process: WorkerProcess, port: int) -> str | None:
        """Wait until the server is ready; returns None, or why it will not be."""
        deadline = time.monotonic() + self._variant["HealthCheckSeconds"]
        url = f"http://127.0.0.1:{port}/ping"
        with httpx.Client(trust_env=False, timeout=_PING_SECONDS) as client:
            while time.monotonic() < deadline:
                if self._ending():
                    return "The local SageMaker is stopping."
                returncode = process.wait(_POLL_SECONDS)
                if returncode is not None:
                    return f"The container ended with code {returncode} before it answered."
                try:
                    if client.get(url).status_code == 200:
                        return None
                except httpx.TransportError:
                    continue  # not listening yet
        return "The container did not answer /ping with 200 in time."

    def _ping_failure(self, trouble: str, log_start: int) -> str:
        with self._log.open("rb") as log:
            log.seek(log_start)
            lines = log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
        reason = (
            f"The primary container for production variant {self.name} did not pass the ping health check. "
            f"Please check CloudWatch logs for this endpoint. {trouble} Its log, {self._log}, ends with: "
        )
        # SageMaker cuts a FailureReason at 1,024 characters; the end of a traceback is what counts.
        return reason + "\n".join(lines)[-max(0, 1024 - len(reason)) :]

    def _supervise(self) -> None:
        """Start the process whenever it does not run, with growing pauses, until `stop`."""
        failures = 0
        while not self._ending():
            if self._process is None:
                try:
                    self._prepare()
                    self._launch()
                except ServingError as error:
                    if self._ending():
                        return
                    failures += 1
                    logger.error("Endpoint %s does not serve, and is tried again: %s", self._endpoint, error)
                    self._pause(failures)
                    continue
            assert self._process is not None
            began = time.monotonic()
            returncode = self._process.wait()
            self.port = None
            self._process = None
            if self._ending():
                return
            failures = 0 if time.monotonic() - began > _STEADY_SECONDS else failures + 1
            logger.warning(
                "The container of endpoint %s, variant %s, ended with code %s and is started again; see %s",
                self._endpoint,
                self.name,
                returncode,
                self._log,
            )
            self._pause(failures)

    def _pause(self, failures: int) -> None:
        self._stopping.wait(min(_FIRST_BACKOFF_SECONDS * 2 ** max(0, failures - 1), _LONGEST_BACKOFF_SECONDS))


class Deployment:
    """The servers of one endpoint configuration of an endpoint."""

    def __init__(self, context: Context, endpoint: str, document: Document) -> None:
        """`document` is `{"Id", "EndpointConfigName", "Variants": […]}`."""
        self.folder = deployment_folder(context, endpoint, document["Id"])
        self.servers = tuple(
            VariantServer(context, endpoint, variant, self.folder / variant["VariantName"])
            for variant in document["Variants"]
        )
        self.in_flight = 0  # guarded by the lock of Routes

    def start(self) -> None:
        """Start all variants, one after the other. Raises ServingError; nothing is left then."""
        try:
            for server in self.servers:
                server.start()
        except BaseException:
            self.discard()
            raise

    def resume(self) -> None:
        for server in self.servers:
            server.resume()

    def stop(self, grace: float = STOP_SECONDS) -> None:
        for server in self.servers:
            server.stop(grace)

    def discard(self) -> None:
        """Stop the servers and remove the files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def choose(self, variant: str | None) -> VariantServer | None:
        """Draw a server by the variants' weights, or take the named one; None if there is no such one."""
        if variant is not None:
            return next((server for server in self.servers if server.name == variant), None)
        weights = [server.weight for server in self.servers]
        if not any(weights):
            return random.choice(self.servers)  # noqa: S311 (routing, not secrets)
        return random.choices(self.servers, weights)[0]  # noqa: S311


class Routes:
    """Which deployment answers for which endpoint. Thread-safe: invocations read it in the event
    loop while control-plane threads switch it.
    """

    def __init__(self) -> None:
        self._idle = threading.Condition()
        self._deployments: dict[str, Deployment] = {}

    def switch(self, endpoint: str, deployment: Deployment | None) -> Deployment | None:
        """Let new requests go to `deployment` (None: nowhere); returns the one before."""
        with self._idle:
            before = self._deployments.pop(endpoint, None)
            if deployment is not None:
                self._deployments[endpoint] = deployment
            return before

    @contextmanager
    def lease(self, endpoint: str) -> Iterator[Deployment | None]:
        """The endpoint's deployment, which is not stopped by `drain` while it is leased."""
        with self._idle:
            deployment = self._deployments.get(endpoint)
            if deployment is not None:
                deployment.in_flight += 1
        try:
            yield deployment
        finally:
            if deployment is not None:
                with self._idle:
                    deployment.in_flight -= 1
                    self._idle.notify_all()

    def drain(self, deployment: Deployment) -> None:
        """Wait until a deployment that gets no more requests has answered its last."""
        with self._idle:
            # Longer than an answer may take: only a defect of ours reaches it.
            self._idle.wait_for(lambda: deployment.in_flight == 0, timeout=INVOCATION_SECONDS + 10)

    def clear(self) -> list[Deployment]:
        """Forget all routes; returns what was routed to."""
        with self._idle:
            deployments = list(self._deployments.values())
            self._deployments.clear()
        return deployments


def deployment_folder(context: Context, endpoint: str, identity: str) -> Path:
    return context.state_dir / "endpoints" / endpoint / identity


def _end(process: WorkerProcess, grace: float = STOP_SECONDS) -> None:
    process.send_signal(signal.SIGTERM)
    if process.wait(grace) is None:
        process.send_signal(signal.SIGKILL)
        process.wait(5.0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
