"""The operations of processing jobs (`processing_run` is what a job does)."""

import time
from pathlib import Path
from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import ResourceInUse, ValidationException
from droptune.local_cloud.sagemaker.jobs import PROCESSING, Document
from droptune.local_cloud.sagemaker.listing import list_page
from droptune.local_cloud.sagemaker.processing_run import PATH_ROOT, run_processing_job
from droptune.local_cloud.sagemaker.protocol import Request, operation
from droptune.local_cloud.sagemaker.tags import set_tags

MAX_HOSTS = 4
"""Instances of a job: each is a process of this one machine, with its own memory."""

_DEFAULT_MAX_RUNTIME = 86_400  # SageMaker's default: one day


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
    if cluster.get("InstanceCount", 1) > MAX_HOSTS:
        raise ValidationException(
            f"InstanceCount {cluster['InstanceCount']} is more than the local SageMaker runs, which is one machine: "
            f"set InstanceCount to {MAX_HOSTS} or less."
        )
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
    if not path.startswith(PATH_ROOT) or ".." in Path(path).parts:
        raise ValidationException(f"LocalPath {path} of {name} is invalid: it has to lie below {PATH_ROOT}processing.")


def _check_unique(what: str, values: list[str]) -> None:
    if repeated := sorted({value for value in values if values.count(value) > 1}):
        raise ValidationException(f"The {what} must be unique, and these appear more than once: {repeated}")


def _existing(context: Context, name: str) -> Document:
    document = context.store.get(PROCESSING, name)
    if document is None:
        raise ValidationException(f"Could not find requested job with name: {name}")
    return document


def interrupt(document: Document, reason: str) -> None:
    """Fails a job whose server went away."""
    document["ProcessingJobStatus"] = "Failed"
    document["FailureReason"] = reason
    document["ProcessingEndTime"] = document["LastModifiedTime"] = time.time()
