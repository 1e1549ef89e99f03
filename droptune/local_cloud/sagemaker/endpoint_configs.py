"""Endpoint configurations: which models an endpoint serves, and with what share of the requests."""

import time
from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import ValidationException
from droptune.local_cloud.sagemaker.listing import list_page
from droptune.local_cloud.sagemaker.models import model
from droptune.local_cloud.sagemaker.protocol import Request, operation
from droptune.local_cloud.sagemaker.store import Document
from droptune.local_cloud.sagemaker.tags import delete_tags_of, set_tags

KIND = "endpoint-config"

# Accepting these would promise what this machine does not do.
_NOT_SERVED = ("AsyncInferenceConfig", "ExplainerConfig", "ShadowProductionVariants")


def endpoint_config(context: Context, name: str) -> Document:
    """Return the stored configuration. Raises ValidationException if there is none."""
    document = context.store.get(KIND, name)
    if document is None:
        raise ValidationException(f'Could not find endpoint configuration "{context.arn(KIND, name)}".')
    return document


@operation("CreateEndpointConfig")
def create_endpoint_config(context: Context, request: Request) -> dict[str, Any]:
    name = request["EndpointConfigName"]
    arn = context.arn(KIND, name)
    if refused := [member for member in _NOT_SERVED if member in request]:
        raise ValidationException(f"The local SageMaker does not support {', '.join(refused)}. Leave it out.")
    if request.get("DataCaptureConfig", {}).get("EnableCapture"):
        raise ValidationException("The local SageMaker does not capture data. Set EnableCapture to false.")
    variants = request["ProductionVariants"]
    names = [variant["VariantName"] for variant in variants]
    if len(set(names)) < len(names):
        raise ValidationException(f"Variant names must be unique within an endpoint configuration: {names}")
    for variant in variants:
        if "ModelName" not in variant:
            raise ValidationException(
                f"Variant {variant['VariantName']} names no model. The local SageMaker has no inference "
                "components: set ModelName."
            )
        model(context, variant["ModelName"])
    document = {
        **request,
        "EndpointConfigArn": arn,
        "CreationTime": time.time(),
        "ProductionVariants": [{"InitialVariantWeight": 1.0, **variant} for variant in variants],
    }
    tags = document.pop("Tags", None)
    try:
        context.store.create(KIND, name, document)
    except KeyError as error:
        raise ValidationException(f'Cannot create already existing endpoint configuration "{arn}".') from error
    set_tags(context, arn, tags)
    return {"EndpointConfigArn": arn}


@operation("DescribeEndpointConfig")
def describe_endpoint_config(context: Context, request: Request) -> dict[str, Any]:
    return endpoint_config(context, request["EndpointConfigName"])


@operation("ListEndpointConfigs")
def list_endpoint_configs(context: Context, request: Request) -> dict[str, Any]:
    page, token = list_page(context.store.list(KIND), request, name="EndpointConfigName")
    members = ("EndpointConfigName", "EndpointConfigArn", "CreationTime")
    return {"EndpointConfigs": [{key: item[key] for key in members} for item in page], "NextToken": token}


@operation("DeleteEndpointConfig")
def delete_endpoint_config(context: Context, request: Request) -> dict[str, Any]:
    arn = endpoint_config(context, request["EndpointConfigName"])["EndpointConfigArn"]
    context.store.delete(KIND, request["EndpointConfigName"])
    delete_tags_of(context, arn)
    return {}
