"""Training jobs: the operations."""

import time
from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import ResourceInUse, ValidationException
from droptune.local_cloud.sagemaker.job_logs import check_metric_definitions
from droptune.local_cloud.sagemaker.jobs import TRAINING, Document, check_instance_count
from droptune.local_cloud.sagemaker.listing import list_page
from droptune.local_cloud.sagemaker.protocol import Request, operation
from droptune.local_cloud.sagemaker.tags import set_tags
from droptune.local_cloud.sagemaker.training_run import enter_status, run_training_job

_DEFAULT_MAX_RUNTIME = 86_400  # SageMaker's default: one day


@operation("CreateTrainingJob")
def create_training_job(context: Context, request: Request) -> dict[str, Any]:
    check_training_request(request)
    document = create_document(context, request)
    context.run_in_background(run_training_job, context, document["TrainingJobName"])
    return {"TrainingJobArn": document["TrainingJobArn"]}


@operation("DescribeTrainingJob")
def describe_training_job(context: Context, request: Request) -> dict[str, Any]:
    return _existing(context, request["TrainingJobName"])


@operation("StopTrainingJob")
def stop_training_job(context: Context, request: Request) -> dict[str, Any]:
    name = request["TrainingJobName"]
    _existing(context, name)

    def stopping(document: Document) -> None:
        if document["TrainingJobStatus"] != "InProgress":
            raise ValidationException(
                f"The request was rejected because the training job is in status {document['TrainingJobStatus']}."
            )
        document["TrainingJobStatus"] = "Stopping"
        enter_status(document, "Stopping")

    context.store.mutate(TRAINING, name, stopping)
    context.jobs.stop(TRAINING, name)
    return {}


@operation("ListTrainingJobs")
def list_training_jobs(context: Context, request: Request) -> dict[str, Any]:
    for unsupported in ("WarmPoolStatusEquals", "TrainingPlanArnEquals"):
        if unsupported in request:
            raise ValidationException(f"{unsupported} is not supported by the local SageMaker. Leave it out.")
    jobs, token = list_page(context.store.list(TRAINING), request, name="TrainingJobName", status="TrainingJobStatus")
    members = (
        "TrainingJobName",
        "TrainingJobArn",
        "CreationTime",
        "TrainingEndTime",
        "LastModifiedTime",
        "TrainingJobStatus",
        "SecondaryStatus",
    )
    return {
        "TrainingJobSummaries": [{member: job.get(member) for member in members} for job in jobs],
        "NextToken": token,
    }


def check_training_request(request: Request) -> None:
    """What SageMaker refuses at once, and what a single machine cannot do.

    Raises:
        ValidationException, ResourceLimitExceeded
    """
    algorithm = request["AlgorithmSpecification"]
    if "TrainingImage" not in algorithm:
        raise ValidationException(
            "Provide TrainingImage: the local SageMaker has no algorithms of its own (AlgorithmName)."
        )
    check_metric_definitions(algorithm.get("MetricDefinitions", []))
    resources = request.get("ResourceConfig", {})
    if "InstanceType" not in resources:
        raise ValidationException(
            "ResourceConfig needs InstanceType; instance groups and preferences are not supported by the "
            "local SageMaker."
        )
    check_instance_count(resources.get("InstanceCount", 1), resources["InstanceType"], "training job")
    channels = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
    if len(set(channels)) < len(channels):
        raise ValidationException("Channel names must be unique within a training job.")
    for channel in request.get("InputDataConfig", []):
        _check_channel(channel, algorithm["TrainingInputMode"])
    if "ServerlessJobConfig" in request:
        raise ValidationException("ServerlessJobConfig is not supported by the local SageMaker.")


def _check_channel(channel: Document, default_mode: str) -> None:
    name = channel["ChannelName"]
    source = channel["DataSource"].get("S3DataSource")
    if source is None:
        raise ValidationException(
            f"Channel {name}: the local SageMaker reads S3DataSource only, no file systems or catalogues."
        )
    if source["S3DataType"] not in ("S3Prefix", "ManifestFile"):
        raise ValidationException(
            f"Channel {name}: S3DataType {source['S3DataType']} is not supported by the local SageMaker. "
            "Use S3Prefix or ManifestFile."
        )
    if channel.get("InputMode", default_mode) == "Pipe":
        raise ValidationException(
            f"Channel {name}: input mode Pipe is not supported by the local SageMaker. Use File or FastFile."
        )
    if channel.get("CompressionType", "None") != "None":
        raise ValidationException(
            f"Channel {name}: CompressionType Gzip is not supported by the local SageMaker. "
            "Unpack the files, or let the training code do it."
        )
    if channel.get("RecordWrapperType", "None") != "None":
        raise ValidationException(f"Channel {name}: RecordWrapperType RecordIO is for input mode Pipe only.")


def create_document(context: Context, request: Request, *, tuning_job_arn: str | None = None) -> Document:
    """Stores a new training job in status InProgress, ready for `run_training_job`.

    Raises:
        ResourceInUse: there is a job of this name.
    """
    name = request["TrainingJobName"]
    arn = context.arn(TRAINING, name)
    now = time.time()
    output = request["OutputDataConfig"]["S3OutputPath"].rstrip("/") + f"/{name}/output"
    uncompressed = request["OutputDataConfig"].get("CompressionType") == "NONE"
    document = {key: value for key, value in request.items() if key != "Tags"}
    document |= {
        "TrainingJobArn": arn,
        "TuningJobArn": tuning_job_arn,
        "ModelArtifacts": {"S3ModelArtifacts": f"{output}/model/" if uncompressed else f"{output}/model.tar.gz"},
        "TrainingJobStatus": "InProgress",
        "StoppingCondition": {
            "MaxRuntimeInSeconds": _DEFAULT_MAX_RUNTIME,
            **request.get("StoppingCondition", {}),
        },
        "CreationTime": now,
        "LastModifiedTime": now,
        "SecondaryStatusTransitions": [],
        "EnableNetworkIsolation": request.get("EnableNetworkIsolation", False),
        "EnableInterContainerTrafficEncryption": request.get("EnableInterContainerTrafficEncryption", False),
        "EnableManagedSpotTraining": request.get("EnableManagedSpotTraining", False),
        "ProfilingStatus": "Disabled",
    }
    document.pop("SessionChainingConfig", None)  # the one member that Describe does not give back
    enter_status(document, "Starting")
    context.jobs.register(TRAINING, name)
    try:
        context.store.create(TRAINING, name, document)
    except KeyError as error:
        raise ResourceInUse(
            "Training job names must be unique within an AWS account and region, and a training job with "
            f"this name already exists ({arn})"
        ) from error
    set_tags(context, arn, request.get("Tags"))
    return document


def _existing(context: Context, name: str) -> Document:
    document = context.store.get(TRAINING, name)
    if document is None:
        raise ValidationException("Requested resource not found.")
    return document
