"""What training and processing jobs share: slots, stopping, folders, the process and its end."""

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from droptune.local_cloud.sagemaker.errors import ResourceLimitExceeded
from droptune.local_cloud.sagemaker.s3_data import DataCache
from droptune.local_cloud.sagemaker.workers import WorkerProcess

logger = logging.getLogger(__name__)

Document = dict[str, Any]

TRAINING = "training-job"
PROCESSING = "processing-job"
TUNING = "hyper-parameter-tuning-job"

STATUS = {
    TRAINING: "TrainingJobStatus",
    PROCESSING: "ProcessingJobStatus",
    TUNING: "HyperParameterTuningJobStatus",
}
"""The member that holds the status, for each kind of job."""

INTERRUPTED = "InternalServerError: the local SageMaker stopped while the job ran. Start it again."
CURRENT_HOST = "algo-1"
_TICK_SECONDS = 0.2
_MAX_REASON = 1024  # characters of FailureReason and ExitMessage


class JobStopped(Exception):  # noqa: N818 (no error)
    """The job was told to stop before its process ran."""


@dataclass
class Control:
    """How the outside reaches a running job."""

    changed: threading.Event = field(default_factory=threading.Event)
    """Something happened that the thread that waits for the job should look at."""
    _stopped: bool = False

    def request_stop(self) -> None:
        self._stopped = True
        self.changed.set()

    def is_stopped(self) -> bool:
        return self._stopped


class Jobs:
    """The running jobs of one local SageMaker.

    At most `slots` of them run a process at the same time; the others wait in the order in which
    they came. `stop_grace_seconds` lie between SIGTERM and SIGKILL (SageMaker: 120).
    """

    def __init__(self, state_dir: Path, *, slots: int | None = None, stop_grace_seconds: float = 120) -> None:
        self.cache = DataCache(state_dir / "cache")
        self.stop_grace_seconds = stop_grace_seconds
        self.slots = slots or max(2, cpu_count() // 2)
        self._state_dir = state_dir
        self._controls: dict[tuple[str, str], Control] = {}
        self._waiting: list[Control] = []
        self._running = 0
        self._condition = threading.Condition()

    def log_path(self, kind: str, name: str) -> Path:
        return self._state_dir / "logs" / kind / f"{name}.log"

    def register(self, kind: str, name: str) -> Control:
        """Makes the job known to `stop`; call it before the job's document can be seen."""
        with self._condition:
            return self._controls.setdefault((kind, name), Control())

    def forget(self, kind: str, name: str) -> None:
        with self._condition:
            self._controls.pop((kind, name), None)

    def stop(self, kind: str, name: str) -> None:
        """Asks the job to end; nothing happens if it has."""
        with self._condition:
            control = self._controls.get((kind, name))
            if control is not None:
                control.request_stop()
                self._condition.notify_all()

    @contextmanager
    def slot(self, control: Control) -> Iterator[int]:
        """Waits for a slot and holds it; gives the number of jobs that then run.

        Raises:
            JobStopped: the job was stopped while it waited.
        """
        with self._condition:
            self._waiting.append(control)
            try:
                self._condition.wait_for(
                    lambda: control.is_stopped() or (self._running < self.slots and self._waiting[0] is control)
                )
            finally:
                self._waiting.remove(control)
                self._condition.notify_all()
            if control.is_stopped():
                raise JobStopped
            self._running += 1
            running = self._running
        try:
            yield running
        finally:
            with self._condition:
                self._running -= 1
                self._condition.notify_all()

    @contextmanager
    def directory(self, kind: str, name: str) -> Iterator[Path]:
        """The job's own `/opt/ml` and its parents, removed afterwards."""
        root = self._state_dir / "jobs" / kind / name
        shutil.rmtree(root, ignore_errors=True)
        base = root / "opt" / "ml"
        base.mkdir(parents=True)
        self.log_path(kind, name).parent.mkdir(parents=True, exist_ok=True)
        try:
            yield base
        finally:
            shutil.rmtree(root, ignore_errors=True)
            self.cache.trim()

    def remove_directories(self) -> None:
        """Clears what a killed server left behind."""
        shutil.rmtree(self._state_dir / "jobs", ignore_errors=True)


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its code (below zero: a signal), and whether we made it end."""

    returncode: int
    stopped: bool
    timed_out: bool


def run_process(
    jobs: Jobs,
    control: Control,
    process: WorkerProcess,
    max_seconds: float,
    tick: Callable[[], None],
) -> Outcome:
    """`run_processes` of one."""
    (outcome,) = run_processes(jobs, control, [process], max_seconds, tick)
    return outcome


def run_processes(
    jobs: Jobs,
    control: Control,
    processes: Sequence[WorkerProcess],
    max_seconds: float,
    tick: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Waits for all processes, for one that fails, for a stop or for the time limit.

    Ends those that still run then. Calls `tick` a few times a second.

    Raises:
        RuntimeError: a process ended because its fork server died.
    """
    deadline = time.monotonic() + max_seconds
    for process in processes:
        process.on_end(control.changed.set)
    try:
        codes = [process.wait(0) for process in processes]
        while None in codes and not any(codes) and not control.is_stopped() and time.monotonic() < deadline:
            control.changed.wait(min(_TICK_SECONDS, max(0.0, deadline - time.monotonic())))
            control.changed.clear()
            codes = [process.wait(0) for process in processes]
            tick()
    except BaseException:
        for process in processes:
            process.send_signal(signal.SIGKILL)
        raise
    stopped = control.is_stopped() or any(codes)
    running = [process for process, code in zip(processes, codes, strict=True) if code is None]
    terminate(running, jobs.stop_grace_seconds)
    for process in processes:
        if process.lost is not None:
            raise RuntimeError(process.lost)
    return [
        Outcome(process.wait() or 0, stopped=code is None and stopped, timed_out=code is None and not stopped)
        for process, code in zip(processes, codes, strict=True)
    ]


def terminate(processes: Sequence[WorkerProcess], grace_seconds: float) -> None:
    """SIGTERM, time to save what there is, then SIGKILL; waits for the end of all."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    for process in processes:
        if process.wait(max(0.0, deadline - time.monotonic())) is None:
            process.send_signal(signal.SIGKILL)
            process.wait()


def exit_code(returncode: int) -> int:
    """The code as a container engine shows it: 128 + n for a process ended by signal n."""
    return 128 - returncode if returncode < 0 else returncode


def algorithm_error(message: str, returncode: int) -> str:
    """SageMaker's FailureReason for a program that failed, with what it left in its failure file."""
    suffix = f", exit code: {exit_code(returncode)}"
    reason = f"AlgorithmError: {message.strip() or 'See job logs for more information'}"
    return reason[: _MAX_REASON - len(suffix)] + suffix


def failure_text(path: Path) -> str:
    """What the job wrote into its failure or message file: the first 1,024 characters."""
    try:
        return path.read_text(errors="replace")[:_MAX_REASON]
    except FileNotFoundError:
        return ""


def shorten(reason: str) -> str:
    return reason[:_MAX_REASON]


def cannot_pull(image: str) -> str:
    return shorten(
        f"ClientError: Cannot pull image {image}: the local SageMaker does not have it. Name it in the images "
        "file that the server was started with, or correct the image's URI."
    )


def check_instance_count(count: int, instance_type: str, usage: str) -> None:
    """
    Raises:
        ResourceLimitExceeded: more than one instance is asked for: this is one machine.
    """
    if count > 1:
        raise ResourceLimitExceeded(
            f"The account-level service limit '{instance_type} for {usage} usage' is 1 Instances, with "
            f"current utilization of 0 Instances and a request delta of {count} Instances. The local "
            "SageMaker is a single machine: set InstanceCount to 1."
        )


def cpu_count() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_count() -> int:
    """NVIDIA devices of this machine."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def resource_config(instance_type: str, hosts: Sequence[str] = (CURRENT_HOST,), host: str = CURRENT_HOST) -> Document:
    """`resourceconfig.json` of one `host` of a cluster of `hosts`."""
    group = {
        "instance_group_name": "homogeneousCluster",
        "instance_type": instance_type,
        "hosts": list(hosts),
    }
    return {
        "current_host": host,
        "current_instance_type": instance_type,
        "current_group_name": group["instance_group_name"],
        "hosts": list(hosts),
        "instance_groups": [group],
        "network_interface_name": "lo",
    }
