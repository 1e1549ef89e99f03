"""Endpoints: created, updated without losing a request, deleted, and taken up again after a restart.

An endpoint's document holds what DescribeEndpoint shows and two deployments: `Deployment`, which
answers, and `Pending`, which a running create or update brings up. Each is a whole copy of what its
configuration and models said, so that both may be deleted while the endpoint lives, as on AWS.
"""

import logging
import shutil
import time
import uuid
from collections.abc import Callable
from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.endpoint_configs import endpoint_config
from droptune.local_cloud.sagemaker.endpoint_server import Deployment, Routes, ServingError, deployment_folder
from droptune.local_cloud.sagemaker.errors import ValidationException
from droptune.local_cloud.sagemaker.listing import list_page
from droptune.local_cloud.sagemaker.models import model, serving_container
from droptune.local_cloud.sagemaker.protocol import Request, on_shutdown, on_startup, operation
from droptune.local_cloud.sagemaker.store import Document
from droptune.local_cloud.sagemaker.tags import delete_tags_of, set_tags

logger = logging.getLogger(__name__)

KIND = "endpoint"
ROUTES = Routes()
"""One per process, as the serving processes are this process's children."""

# SageMaker waits 4 minutes for /ping unless a variant's ContainerStartupHealthCheckTimeoutInSeconds
# says otherwise ("How containers serve"). Loading a large model on two busy cores fits in it.
_HEALTH_CHECK_SECONDS = 240
_SHUTDOWN_SECONDS = 3.0
_SUMMARY = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")


def endpoint(context: Context, name: str) -> Document:
    """Return the stored endpoint. Raises ValidationException if there is none."""
    document = context.store.get(KIND, name)
    if document is None:
        raise _unknown(context, name)
    return document


def _unknown(context: Context, name: str) -> ValidationException:
    return ValidationException(f'Could not find endpoint "{context.arn(KIND, name)}".')


@operation("CreateEndpoint")
def create_endpoint(context: Context, request: Request) -> dict[str, Any]:
    name = request["EndpointName"]
    arn = context.arn(KIND, name)
    now = time.time()
    document = {
        "EndpointName": name,
        "EndpointArn": arn,
        "EndpointConfigName": request["EndpointConfigName"],
        "EndpointStatus": "Creating",
        "CreationTime": now,
        "LastModifiedTime": now,
        "Deployment": None,
        "Pending": _deployment(context, request["EndpointConfigName"], request.get("DeploymentConfig")),
    }
    try:
        context.store.create(KIND, name, document)
    except KeyError as error:
        raise ValidationException(f'Cannot create already existing endpoint "{arn}".') from error
    set_tags(context, arn, request.get("Tags"))
    context.run_in_background(_deploy, context, name)
    return {"EndpointArn": arn}


@operation("UpdateEndpoint")
def update_endpoint(context: Context, request: Request) -> dict[str, Any]:
    name = request["EndpointName"]
    endpoint(context, name)
    pending = _deployment(context, request["EndpointConfigName"], request.get("DeploymentConfig"))

    def begin(document: Document) -> None:
        _check_settled(document)
        if document["EndpointStatus"] == "Failed":
            raise ValidationException(
                f'Cannot update failed endpoint "{document["EndpointArn"]}". Delete it and create it again.'
            )
        if request.get("RetainAllVariantProperties"):
            _retain(document["Deployment"], pending, request.get("ExcludeRetainedVariantProperties", []))
        if request.get("RetainDeploymentConfig"):
            pending["DeploymentConfig"] = document.get("LastDeploymentConfig")
        document.update(EndpointStatus="Updating", LastModifiedTime=time.time(), Pending=pending)

    arn = _mutate(context, name, begin)["EndpointArn"]
    context.run_in_background(_deploy, context, name)
    return {"EndpointArn": arn}


@operation("DeleteEndpoint")
def delete_endpoint(context: Context, request: Request) -> dict[str, Any]:
    def begin(document: Document) -> None:
        _check_settled(document)
        document.update(EndpointStatus="Deleting", LastModifiedTime=time.time())

    name = request["EndpointName"]
    _mutate(context, name, begin)
    # From here on nobody is routed to it, as on AWS.
    context.run_in_background(_delete, context, name, ROUTES.switch(name, None))
    return {}


@operation("DescribeEndpoint")
def describe_endpoint(context: Context, request: Request) -> dict[str, Any]:
    document = endpoint(context, request["EndpointName"])
    deployment, pending = document.pop("Deployment"), document.pop("Pending")
    if deployment is not None:
        document["ProductionVariants"] = _variant_summaries(deployment)
    if pending is not None and document["EndpointStatus"] in {"Creating", "Updating"}:
        document["PendingDeploymentSummary"] = {
            "EndpointConfigName": pending["EndpointConfigName"],
            "ProductionVariants": _variant_summaries(pending),
            "StartTime": pending["StartTime"],
        }
    return document


@operation("ListEndpoints")
def list_endpoints(context: Context, request: Request) -> dict[str, Any]:
    documents = context.store.list(KIND)
    page, token = list_page(documents, request, name="EndpointName", status="EndpointStatus")
    return {"Endpoints": [{key: item[key] for key in _SUMMARY} for item in page], "NextToken": token}


def _mutate(context: Context, name: str, function: Callable[[Document], object]) -> Document:
    try:
        return context.store.mutate(KIND, name, function)
    except KeyError as error:
        raise _unknown(context, name) from error


def _check_settled(document: Document) -> None:
    if document["EndpointStatus"] not in {"InService", "Failed"}:
        raise ValidationException(f'Cannot update in-progress endpoint "{document["EndpointArn"]}".')


def _deployment(context: Context, config_name: str, deployment_config: Document | None) -> Document:
    """A copy of all that the configuration and its models say."""
    now = time.time()
    variants = []
    for variant in endpoint_config(context, config_name)["ProductionVariants"]:
        container = serving_container(context, model(context, variant["ModelName"]))
        variants.append(
            {
                "VariantName": variant["VariantName"],
                "Weight": variant["InitialVariantWeight"],
                "InstanceCount": variant.get("InitialInstanceCount", 1),
                "ServerlessConfig": variant.get("ServerlessConfig"),
                "HealthCheckSeconds": variant.get("ContainerStartupHealthCheckTimeoutInSeconds", _HEALTH_CHECK_SECONDS),
                "ResolutionTime": now,
                **container,
            }
        )
    return {
        "Id": uuid.uuid4().hex[:12],
        "EndpointConfigName": config_name,
        "DeploymentConfig": deployment_config,
        "StartTime": now,
        "Variants": variants,
    }


def _retain(current: Document, pending: Document, excluded: list[dict[str, str]]) -> None:
    """RetainAllVariantProperties: variants that stay keep their weight and instance count."""
    left_out = {item["VariantPropertyType"] for item in excluded}
    before = {variant["VariantName"]: variant for variant in current["Variants"]}
    for variant in pending["Variants"]:
        old = before.get(variant["VariantName"])
        if old is None:
            continue
        if "DesiredWeight" not in left_out:
            variant["Weight"] = old["Weight"]
        if "DesiredInstanceCount" not in left_out:
            variant["InstanceCount"] = old["InstanceCount"]


def _variant_summaries(deployment: Document) -> list[Document]:
    summaries = []
    for variant in deployment["Variants"]:
        image = {
            "SpecifiedImage": variant["Image"],
            "ResolvedImage": variant["Image"],
            "ResolutionTime": variant["ResolutionTime"],
        }
        summary = {
            "VariantName": variant["VariantName"],
            "DeployedImages": [image],
            "CurrentWeight": variant["Weight"],
            "DesiredWeight": variant["Weight"],
        }
        if serverless := variant["ServerlessConfig"]:
            summary.update(CurrentServerlessConfig=serverless, DesiredServerlessConfig=serverless)
        else:
            summary.update(CurrentInstanceCount=variant["InstanceCount"], DesiredInstanceCount=variant["InstanceCount"])
        summaries.append(summary)
    return summaries


def _deploy(context: Context, name: str) -> None:
    """Bring up the pending deployment of a created or updated endpoint and let it take over."""
    pending = endpoint(context, name)["Pending"]
    deployment = Deployment(context, name, pending)
    try:
        deployment.start()
    except ServingError as error:
        _give_up(context, name, str(error))
        return
    except Exception:
        _give_up(context, name, "InternalServerError: see the log of the local SageMaker.")
        raise
    # The switch comes before the record of it: whoever reads InService and the new configuration is
    # answered by it. After a crash between the two, the old deployment is taken up again.
    before = ROUTES.switch(name, deployment)
    context.store.mutate(KIND, name, _take_over)
    logger.info("Endpoint %s serves %s", name, pending["EndpointConfigName"])
    if before is not None:
        ROUTES.drain(before)
        before.discard()


def _take_over(document: Document) -> None:
    pending = document["Pending"]
    document.update(
        EndpointConfigName=pending["EndpointConfigName"],
        EndpointStatus="InService",
        LastModifiedTime=time.time(),
        Deployment=pending,
        Pending=None,
    )
    if pending["DeploymentConfig"] is not None:
        document["LastDeploymentConfig"] = pending["DeploymentConfig"]


def _give_up(context: Context, name: str, reason: str) -> None:
    if context.stopping.is_set():
        return  # not the deployment's fault: `restore` decides

    def fail(document: Document) -> None:
        document.update(LastModifiedTime=time.time(), Pending=None)
        if document["Deployment"] is None:
            document.update(EndpointStatus="Failed", FailureReason=reason[:1024])
        else:
            # As on AWS, nothing but the configuration's name tells that an update failed.
            document.update(EndpointStatus="InService")

    document = context.store.mutate(KIND, name, fail)
    logger.error("Endpoint %s could not be brought up and is %s: %s", name, document["EndpointStatus"], reason)


def _delete(context: Context, name: str, deployment: Deployment | None) -> None:
    if deployment is not None:
        ROUTES.drain(deployment)
        deployment.discard()
    shutil.rmtree(deployment_folder(context, name, ""), ignore_errors=True)
    delete_tags_of(context, context.arn(KIND, name))
    context.store.delete(KIND, name)


@on_startup
def restore(context: Context) -> None:
    """Take up every endpoint where the last life of this server left it.

    What served goes on serving from the files it already has (invocations wait until it is ready); a
    creation begins anew; an update that was cut off has failed, so the old configuration serves; a
    deletion is completed.
    """
    for document in context.store.list(KIND):
        name, status = document["EndpointName"], document["EndpointStatus"]
        if status == "Deleting":
            context.run_in_background(_delete, context, name, None)
            continue
        if status == "Creating":
            context.run_in_background(_deploy, context, name)
            continue
        if status == "Updating":
            _give_up(context, name, "The local SageMaker stopped during the update. Start it again.")
        current = document["Deployment"]
        _remove_other_deployments(context, name, current)
        if current is not None:
            deployment = Deployment(context, name, current)
            ROUTES.switch(name, deployment)
            deployment.resume()


def _remove_other_deployments(context: Context, name: str, current: Document | None) -> None:
    folder = deployment_folder(context, name, "")
    if not folder.exists():
        return
    for path in folder.iterdir():
        if current is None or path.name != current["Id"]:
            shutil.rmtree(path, ignore_errors=True)


@on_shutdown
def shutdown(context: Context) -> None:
    """End all serving processes, at the same time; their endpoints stay as they are in the store."""
    threads = [context.run_in_background(deployment.stop, _SHUTDOWN_SECONDS) for deployment in ROUTES.clear()]
    for thread in threads:
        thread.join()
