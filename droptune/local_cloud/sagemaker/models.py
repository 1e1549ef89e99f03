"""Models: which image serves which model data. A record only; nothing runs before an endpoint."""

import time
from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import ValidationException
from droptune.local_cloud.sagemaker.listing import list_page
from droptune.local_cloud.sagemaker.model_data import ModelDataError, check_exists, source_of
from droptune.local_cloud.sagemaker.protocol import Request, operation
from droptune.local_cloud.sagemaker.registry import package
from droptune.local_cloud.sagemaker.store import Document
from droptune.local_cloud.sagemaker.tags import delete_tags_of, set_tags

KIND = "model"


def model(context: Context, name: str) -> Document:
    """Return the stored model. Raises ValidationException if there is none."""
    document = context.store.get(KIND, name)
    if document is None:
        raise ValidationException(f'Could not find model "{context.arn(KIND, name)}".')
    return document


def serving_container(context: Context, document: Document) -> dict[str, Any]:
    """Return what it takes to serve a model: `{"Image", "Source", "Environment"}`.

    A container that names a model package takes image, data and environment from the package; the
    container's own environment wins. `Source` is that of `model_data.source_of`.

    Raises ValidationException if the container cannot be served here, or its package is gone.
    """
    containers = document.get("Containers") or [document["PrimaryContainer"]]
    if len(containers) > 1:
        raise ValidationException(
            f"Model {document['ModelName']} has {len(containers)} containers. The local SageMaker serves "
            "models of one container: put the steps into one image."
        )
    container = containers[0]
    if container.get("Mode") == "MultiModel":
        raise ValidationException("The local SageMaker does not serve multi-model containers (Mode MultiModel).")
    environment = container.get("Environment", {})
    if name := container.get("ModelPackageName"):
        container = _container_of_package(context, name, container.get("InferenceSpecificationName"))
        environment = {**container.get("Environment", {}), **environment}
    if "Image" not in container:
        raise ValidationException(f"Model {document['ModelName']}: name an Image or a ModelPackageName.")
    return {"Image": container["Image"], "Source": source_of(container), "Environment": environment}


def _container_of_package(context: Context, name: str, specification_name: str | None) -> dict[str, Any]:
    document = package(context, name)
    arn = document["ModelPackageArn"]
    specification = document.get("InferenceSpecification")
    if specification_name is not None:
        others = document.get("AdditionalInferenceSpecifications", [])
        specification = next((other for other in others if other["Name"] == specification_name), None)
    if specification is None:
        raise ValidationException(f"ModelPackage {arn} has no inference specification {specification_name or ''}.")
    containers = specification["Containers"]
    if len(containers) > 1:
        raise ValidationException(
            f"ModelPackage {arn} has {len(containers)} containers. The local SageMaker serves one."
        )
    container: dict[str, Any] = containers[0]
    return container


@operation("CreateModel")
def create_model(context: Context, request: Request) -> dict[str, Any]:
    name = request["ModelName"]
    arn = context.arn(KIND, name)
    if bool(request.get("Containers")) == ("PrimaryContainer" in request):
        raise ValidationException("A model has either a PrimaryContainer or Containers: name one of them.")
    source = serving_container(context, request)["Source"]
    if source is not None:
        try:
            check_exists(context, source)
        except ModelDataError as error:
            raise ValidationException(str(error)) from error
    document = {
        **request,
        "ModelArn": arn,
        "CreationTime": time.time(),
        "EnableNetworkIsolation": request.get("EnableNetworkIsolation", False),
    }
    tags = document.pop("Tags", None)
    try:
        context.store.create(KIND, name, document)
    except KeyError as error:
        raise ValidationException(f'Cannot create already existing model "{arn}".') from error
    set_tags(context, arn, tags)
    return {"ModelArn": arn}


@operation("DescribeModel")
def describe_model(context: Context, request: Request) -> dict[str, Any]:
    return model(context, request["ModelName"])


@operation("ListModels")
def list_models(context: Context, request: Request) -> dict[str, Any]:
    page, token = list_page(context.store.list(KIND), request, name="ModelName")
    summaries = [{key: document[key] for key in ("ModelName", "ModelArn", "CreationTime")} for document in page]
    return {"Models": summaries, "NextToken": token}


@operation("DeleteModel")
def delete_model(context: Context, request: Request) -> dict[str, Any]:
    arn = model(context, request["ModelName"])["ModelArn"]
    context.store.delete(KIND, request["ModelName"])
    delete_tags_of(context, arn)
    return {}
