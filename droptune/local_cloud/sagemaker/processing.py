"""Processing jobs: the operations, and the job itself under the container contract."""

import logging
import time
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from droptune.local_cloud.sagemaker import s3_data
from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import ResourceInUse, ValidationException
from droptune.local_cloud.sagemaker.images import Image
from droptune.local_cloud.sagemaker.job_logs import LogShipper
from droptune.local_cloud.sagemaker.jobs import (
    PROCESSING,
    Control,
    Document,
    JobStopped,
    Outcome,
    algorithm_error,
    cannot_pull,
    check_instance_count,
    cpu_count,
    failure_text,
    resource_config,
    run_process,
    shorten,
)
from droptune.local_cloud.sagemaker.listing import list_page
from droptune.local_cloud.sagemaker.protocol import Request, operation
from droptune.local_cloud.sagemaker.tags import set_tags
from droptune.local_cloud.sagemaker.training_files import write_json

logger = logging.getLogger(__name__)

LOG_GROUP = "/aws/sagemaker/ProcessingJobs"
_DEFAULT_MAX_RUNTIME = 86_400  # SageMaker's default: one day
_PATH_ROOT = "/opt/ml/"


@operation("CreateProcessingJob")
def create_processing_job(context: Context, request: Request) -> dict[str, Any]:
    _check(request)
    name = request["ProcessingJobName"]
    arn = context.arn(PROCESSING, name)
    now = time.time()
    document = {key: value for key, value in request.items() if key != "Tags"}
    document |= {
        "ProcessingJobArn": arn,
        "ProcessingJobStatus": "InProgress",
        "StoppingCondition": request.get("StoppingCondition", {"MaxRuntimeInSeconds": _DEFAULT_MAX_RUNTIME}),
        "CreationTime": now,
        "LastModifiedTime": now,
    }
    context.jobs.register(PROCESSING, name)
    try:
        context.store.create(PROCESSING, name, document)
    except KeyError as error:
        raise ResourceInUse(
            f"Job name must be unique within an AWS account and region, and a job with this name already exists ({arn})"
        ) from error
    set_tags(context, arn, request.get("Tags"))
    context.run_in_background(run_processing_job, context, name)
    return {"ProcessingJobArn": arn}


@operation("DescribeProcessingJob")
def describe_processing_job(context: Context, request: Request) -> dict[str, Any]:
    return _existing(context, request["ProcessingJobName"])


@operation("StopProcessingJob")
def stop_processing_job(context: Context, request: Request) -> dict[str, Any]:
    name = request["ProcessingJobName"]
    _existing(context, name)

    def stopping(document: Document) -> None:
        if document["ProcessingJobStatus"] != "InProgress":
            raise ValidationException(
                f"The request was rejected because the processing job is in status {document['ProcessingJobStatus']}."
            )
        document["ProcessingJobStatus"] = "Stopping"
        document["LastModifiedTime"] = time.time()

    context.store.mutate(PROCESSING, name, stopping)
    context.jobs.stop(PROCESSING, name)
    return {}


@operation("ListProcessingJobs")
def list_processing_jobs(context: Context, request: Request) -> dict[str, Any]:
    jobs, token = list_page(
        context.store.list(PROCESSING), request, name="ProcessingJobName", status="ProcessingJobStatus"
    )
    members = (
        "ProcessingJobName",
        "ProcessingJobArn",
        "CreationTime",
        "ProcessingEndTime",
        "LastModifiedTime",
        "ProcessingJobStatus",
        "FailureReason",
        "ExitMessage",
    )
    return {
        "ProcessingJobSummaries": [{member: job.get(member) for member in members} for job in jobs],
        "NextToken": token,
    }


def _check(request: Request) -> None:
    cluster = request["ProcessingResources"]["ClusterConfig"]
    if "InstanceType" not in cluster:
        raise ValidationException(
            "ClusterConfig needs InstanceType; instance preferences are not supported by the local SageMaker."
        )
    check_instance_count(cluster.get("InstanceCount", 1), cluster["InstanceType"], "processing job")
    inputs = request.get("ProcessingInputs", [])
    outputs = request.get("ProcessingOutputConfig", {}).get("Outputs", [])
    for entry in inputs:
        source = entry.get("S3Input")
        name = entry["InputName"]
        if source is None or "LocalPath" not in source:
            raise ValidationException(f"Processing input {name} needs an S3Input with a LocalPath.")
        if source.get("S3InputMode", "File") != "File" or source.get("S3CompressionType", "None") != "None":
            raise ValidationException(
                f"Processing input {name}: the local SageMaker supports S3InputMode File without compression only."
            )
        _check_path(name, source["LocalPath"])
    for entry in outputs:
        if "LocalPath" not in entry.get("S3Output", {}):
            raise ValidationException(f"Processing output {entry['OutputName']} needs an S3Output with a LocalPath.")
        _check_path(entry["OutputName"], entry["S3Output"]["LocalPath"])
    _check_unique("input names", [entry["InputName"] for entry in inputs])
    _check_unique("output names", [entry["OutputName"] for entry in outputs])
    _check_unique("local paths of inputs", [entry["S3Input"]["LocalPath"].rstrip("/") for entry in inputs])


def _check_path(name: str, path: str) -> None:
    if not path.startswith(_PATH_ROOT) or ".." in Path(path).parts:
        raise ValidationException(f"LocalPath {path} of {name} is invalid: it has to lie below {_PATH_ROOT}processing.")


def _check_unique(what: str, values: list[str]) -> None:
    if repeated := sorted({value for value in values if values.count(value) > 1}):
        raise ValidationException(f"The {what} must be unique, and these appear more than once: {repeated}")


def run_processing_job(context: Context, name: str) -> None:
    """Runs a stored job to its end."""
    control = context.jobs.register(PROCESSING, name)
    try:
        with context.jobs.slot(control) as running, context.jobs.directory(PROCESSING, name) as base:
            _run(context, name, control, base, max(1, cpu_count() // running))
    except JobStopped:
        _finish(context, name, "Stopped")
    except (ClientError, BotoCoreError, Boto3Error, OSError, RuntimeError) as error:
        logger.exception("Processing job %s failed", name)
        _finish(context, name, "Failed", FailureReason=shorten(f"InternalServerError: {error}"))
    finally:
        context.jobs.forget(PROCESSING, name)


def _run(context: Context, name: str, control: Control, base: Path, threads: int) -> None:
    job = context.store.update(PROCESSING, name, ProcessingStartTime=time.time())
    uri = job["AppSpecification"]["ImageUri"]
    image = context.image(uri)
    entry = job["AppSpecification"].get("ContainerEntrypoint")
    if image is None:
        _finish(context, name, "Failed", FailureReason=cannot_pull(uri))
        return
    if not entry:
        reason = f"ClientError: the image {uri} has no entry point for processing. Name a ContainerEntrypoint."
        _finish(context, name, "Failed", FailureReason=shorten(reason))
        return
    s3 = context.client("s3")
    try:
        for source in [entry["S3Input"] for entry in job.get("ProcessingInputs", [])]:
            directory = _local(base, source["LocalPath"])
            s3_data.download(s3, context.jobs.cache, source["S3Uri"], source["S3DataType"], directory)
    except s3_data.DownloadError as error:
        reason = f"ClientError: Data download failed: {error}"
        _finish(context, name, "Failed", FailureReason=shorten(reason))
        return
    if control.is_stopped():
        raise JobStopped
    outcome = _process(context, name, control, base, image, threads)
    if context.stopping.is_set():
        return
    message = failure_text(base / "output" / "message") or None
    failed = outcome.returncode != 0 and not (outcome.stopped or outcome.timed_out)
    _upload(context, job, base, only_continuous=failed or outcome.stopped or outcome.timed_out)
    if failed:
        reason = algorithm_error("", outcome.returncode)
        _finish(context, name, "Failed", FailureReason=reason, ExitMessage=message)
    elif outcome.stopped or outcome.timed_out:
        _finish(context, name, "Stopped", ExitMessage=message)
    else:
        _finish(context, name, "Completed", ExitMessage=message)


def _process(context: Context, name: str, control: Control, base: Path, image: Image, threads: int) -> Outcome:
    job = _existing(context, name)
    _write_files(base, job)
    application = job["AppSpecification"]
    command = [
        str(_local(base, argument)) if argument.startswith(_PATH_ROOT) else image.localized(argument)
        for argument in [*application["ContainerEntrypoint"], *application.get("ContainerArguments", [])]
    ]
    log = context.jobs.log_path(PROCESSING, name)
    process = context.workers.start(
        image,
        command,
        environment={
            "SAGEMAKER_BASE_DIR": str(base),
            "AWS_REGION": context.region,
            "PROCESSING_JOB_NAME": name,
            "PROCESSING_JOB_ARN": job["ProcessingJobArn"],
            "OMP_NUM_THREADS": str(threads),
            **job.get("Environment", {}),
        },
        directory=image.program,
        log=log,
    )
    shipper = LogShipper(context, LOG_GROUP, f"{name}/algo-1-{int(time.time())}", log)
    limit = job["StoppingCondition"]["MaxRuntimeInSeconds"]
    try:
        return run_process(context.jobs, control, process, limit, lambda: None)
    finally:
        shipper.close()


def _write_files(base: Path, job: Document) -> None:
    (base / "output").mkdir(parents=True, exist_ok=True)
    for entry in job.get("ProcessingOutputConfig", {}).get("Outputs", []):
        _local(base, entry["S3Output"]["LocalPath"]).mkdir(parents=True, exist_ok=True)
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
    write_json(base / "config" / "processingjobconfig.json", config)
    instance_type = job["ProcessingResources"]["ClusterConfig"]["InstanceType"]
    write_json(base / "config" / "resourceconfig.json", resource_config(instance_type))


def _upload(context: Context, job: Document, base: Path, *, only_continuous: bool) -> None:
    """Uploads the outputs. Those of mode Continuous come at the end too, here, but of failed jobs as well."""
    for entry in job.get("ProcessingOutputConfig", {}).get("Outputs", []):
        output = entry["S3Output"]
        if only_continuous and output["S3UploadMode"] != "Continuous":
            continue
        s3_data.upload_directory(context.client("s3"), _local(base, output["LocalPath"]), output["S3Uri"])


def _local(base: Path, path: str) -> Path:
    """A path below `/opt/ml` of the container as one of this job's root."""
    return base / path.removeprefix(_PATH_ROOT)


def _existing(context: Context, name: str) -> Document:
    document = context.store.get(PROCESSING, name)
    if document is None:
        raise ValidationException(f"Could not find requested job with name: {name}")
    return document


def _finish(context: Context, name: str, status: str, **changes: Any) -> None:
    """Gives the job its last status, unless it has one (the server went down meanwhile)."""

    def finish(document: Document) -> None:
        if document["ProcessingJobStatus"] not in ("InProgress", "Stopping") or context.stopping.is_set():
            return
        document.update(changes)
        document["ProcessingJobStatus"] = status
        document["ProcessingEndTime"] = document["LastModifiedTime"] = time.time()

    context.store.mutate(PROCESSING, name, finish)


def interrupt(document: Document, reason: str) -> None:
    """Fails a job whose server went away."""
    document["ProcessingJobStatus"] = "Failed"
    document["FailureReason"] = reason
    document["ProcessingEndTime"] = document["LastModifiedTime"] = time.time()
