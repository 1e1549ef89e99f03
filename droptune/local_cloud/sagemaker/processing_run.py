"""A processing job's way from its stored document to its end, under the container contract.

Each instance of its cluster is a host: a process with a root of its own, `algo-1` to `algo-n`.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from droptune.local_cloud.sagemaker import s3_data
from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.images import Image
from droptune.local_cloud.sagemaker.job_logs import LogShipper
from droptune.local_cloud.sagemaker.jobs import (
    CURRENT_HOST,
    PROCESSING,
    Control,
    Document,
    JobStopped,
    Outcome,
    algorithm_error,
    cannot_pull,
    cpu_count,
    failure_text,
    resource_config,
    run_processes,
    shorten,
)
from droptune.local_cloud.sagemaker.training_files import write_json
from droptune.local_cloud.sagemaker.workers import WorkerProcess

logger = logging.getLogger(__name__)

LOG_GROUP = "/aws/sagemaker/ProcessingJobs"
PATH_ROOT = "/opt/ml/"


@dataclass(frozen=True)
class Host:
    """One instance of a job's cluster: its name, its own `/opt/ml`, and the file with what it prints."""

    name: str
    base: Path
    log: Path

    def local(self, path: str) -> Path:
        """A path below `/opt/ml` of the container as one of this host's root."""
        return self.base / path.removeprefix(PATH_ROOT)


def run_processing_job(context: Context, name: str) -> None:
    """Runs a stored job to its end."""
    control = context.jobs.register(PROCESSING, name)
    try:
        with context.jobs.slot(control) as running, context.jobs.directory(PROCESSING, name) as base:
            _run(context, name, control, base, running)
    except JobStopped:
        _finish(context, name, "Stopped")
    except (ClientError, BotoCoreError, Boto3Error, OSError, RuntimeError) as error:
        logger.exception("Processing job %s failed", name)
        _finish(context, name, "Failed", FailureReason=shorten(f"InternalServerError: {error}"))
    finally:
        context.jobs.forget(PROCESSING, name)


def _run(context: Context, name: str, control: Control, base: Path, running: int) -> None:
    job = context.store.update(PROCESSING, name, ProcessingStartTime=time.time())
    uri = job["AppSpecification"]["ImageUri"]
    image = context.image(uri)
    if image is None:
        _finish(context, name, "Failed", FailureReason=cannot_pull(uri))
        return
    if not job["AppSpecification"].get("ContainerEntrypoint"):
        reason = f"ClientError: the image {uri} has no entry point for processing. Name a ContainerEntrypoint."
        _finish(context, name, "Failed", FailureReason=shorten(reason))
        return
    hosts = _hosts(context, job, base)
    try:
        for index, host in enumerate(hosts):
            _download(context, job, host, s3_data.Shard(index, len(hosts)))
    except s3_data.DownloadError as error:
        reason = f"ClientError: Data download failed: {error}"
        _finish(context, name, "Failed", FailureReason=shorten(reason))
        return
    if control.is_stopped():
        raise JobStopped
    outcomes = _process(context, job, control, hosts, image, max(1, cpu_count() // (running * len(hosts))))
    if context.stopping.is_set():
        return
    _end(context, job, hosts, outcomes)


def _hosts(context: Context, job: Document, base: Path) -> list[Host]:
    name, count = job["ProcessingJobName"], job["ProcessingResources"]["ClusterConfig"].get("InstanceCount", 1)
    first = Host(CURRENT_HOST, base, context.jobs.log_path(PROCESSING, name))
    others = [f"algo-{number}" for number in range(2, count + 1)]
    # No job's name holds a dot, so no other job has such a log.
    return [first] + [
        Host(host, base.parents[1] / host / "opt" / "ml", context.jobs.log_path(PROCESSING, f"{name}.{host}"))
        for host in others
    ]


def _download(context: Context, job: Document, host: Host, shard: s3_data.Shard) -> None:
    for source in [entry["S3Input"] for entry in job.get("ProcessingInputs", [])]:
        sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
        s3_data.download(
            context.client("s3"),
            context.jobs.cache,
            source["S3Uri"],
            source["S3DataType"],
            host.local(source["LocalPath"]),
            shard if sharded else None,
        )


def _process(
    context: Context, job: Document, control: Control, hosts: list[Host], image: Image, threads: int
) -> list[Outcome]:
    for host in hosts:
        _write_files(host, job, [other.name for other in hosts])
    shippers = []
    processes: list[WorkerProcess] = []
    try:
        for host in hosts:
            processes.append(_start(context, job, host, image, threads))
            stream = f"{job['ProcessingJobName']}/{host.name}-{int(time.time())}"
            shippers.append(LogShipper(context, LOG_GROUP, stream, host.log))
        limit = job["StoppingCondition"]["MaxRuntimeInSeconds"]
        return run_processes(context.jobs, control, processes, limit)
    finally:
        for shipper in shippers:
            shipper.close()


def _start(context: Context, job: Document, host: Host, image: Image, threads: int) -> WorkerProcess:
    application = job["AppSpecification"]
    command = [
        str(host.local(argument)) if argument.startswith(PATH_ROOT) else image.localized(argument)
        for argument in [*application["ContainerEntrypoint"], *application.get("ContainerArguments", [])]
    ]
    return context.workers.start(
        image,
        command,
        environment={
            "SAGEMAKER_BASE_DIR": str(host.base),
            "AWS_REGION": context.region,
            "PROCESSING_JOB_NAME": job["ProcessingJobName"],
            "PROCESSING_JOB_ARN": job["ProcessingJobArn"],
            "OMP_NUM_THREADS": str(threads),
            **job.get("Environment", {}),
        },
        directory=image.program,
        log=host.log,
    )


def _write_files(host: Host, job: Document, hosts: list[str]) -> None:
    (host.base / "output").mkdir(parents=True, exist_ok=True)
    for entry in job.get("ProcessingOutputConfig", {}).get("Outputs", []):
        host.local(entry["S3Output"]["LocalPath"]).mkdir(parents=True, exist_ok=True)
    members = (
        "ProcessingJobArn",
        "ProcessingJobName",
        "AppSpecification",
        "ProcessingInputs",
        "ProcessingOutputConfig",
        "ProcessingResources",
        "RoleArn",
        "StoppingCondition",
        "Environment",
    )
    config = {member: job[member] for member in members if member in job}
    write_json(host.base / "config" / "processingjobconfig.json", config)
    instance_type = job["ProcessingResources"]["ClusterConfig"]["InstanceType"]
    write_json(host.base / "config" / "resourceconfig.json", resource_config(instance_type, hosts, host.name))


def _end(context: Context, job: Document, hosts: list[Host], outcomes: list[Outcome]) -> None:
    name = job["ProcessingJobName"]
    interrupted = any(outcome.stopped or outcome.timed_out for outcome in outcomes)
    failed = [
        (host, outcome)
        for host, outcome in zip(hosts, outcomes, strict=True)
        if outcome.returncode != 0 and not (outcome.stopped or outcome.timed_out)
    ]
    for host in hosts:
        _upload(context, job, host, only_continuous=bool(failed) or interrupted)
    if failed:
        host, outcome = failed[0]
        reason = algorithm_error("", outcome.returncode)
        _finish(context, name, "Failed", FailureReason=reason, ExitMessage=_message(host))
        return
    message = next(filter(None, map(_message, hosts)), None)
    _finish(context, name, "Stopped" if interrupted else "Completed", ExitMessage=message)


def _message(host: Host) -> str | None:
    return failure_text(host.base / "output" / "message") or None


def _upload(context: Context, job: Document, host: Host, *, only_continuous: bool) -> None:
    """Uploads the outputs. Those of mode Continuous come at the end too, here, but of failed jobs as well."""
    for entry in job.get("ProcessingOutputConfig", {}).get("Outputs", []):
        output = entry["S3Output"]
        if only_continuous and output["S3UploadMode"] != "Continuous":
            continue
        s3_data.upload_directory(context.client("s3"), host.local(output["LocalPath"]), output["S3Uri"])


def _finish(context: Context, name: str, status: str, **changes: Any) -> None:
    """Gives the job its last status, unless it has one (the server went down meanwhile)."""

    def finish(document: Document) -> None:
        if document["ProcessingJobStatus"] not in ("InProgress", "Stopping") or context.stopping.is_set():
            return
        document.update(changes)
        document["ProcessingJobStatus"] = status
        document["ProcessingEndTime"] = document["LastModifiedTime"] = time.time()

    context.store.mutate(PROCESSING, name, finish)
