"""The model registry: model package groups and the model packages (versions) in them."""

import time
from typing import Any

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.errors import SageMakerError, ValidationException
from droptune.local_cloud.sagemaker.listing import list_page
from droptune.local_cloud.sagemaker.protocol import Request, operation, service_model
from droptune.local_cloud.sagemaker.store import Document
from droptune.local_cloud.sagemaker.tags import delete_tags_of, set_tags

GROUP_KIND = "model-package-group"
PACKAGE_KIND = "model-package"

_GROUP_SUMMARY = (
    "ModelPackageGroupName",
    "ModelPackageGroupArn",
    "ModelPackageGroupDescription",
    "CreationTime",
    "ModelPackageGroupStatus",
    "ManagedConfiguration",
)
_PACKAGE_SUMMARY = (
    "ModelPackageGroupName",
    "ModelPackageVersion",
    "ModelPackageArn",
    "ModelPackageDescription",
    "CreationTime",
    "ModelPackageStatus",
    "ModelApprovalStatus",
    "ModelLifeCycle",
    "ModelPackageRegistrationType",
)
_REPLACED_BY_UPDATE = (
    "ModelApprovalStatus",
    "ModelPackageRegistrationType",
    "ApprovalDescription",
    "InferenceSpecification",
    "SourceUri",
    "ModelCard",
    "ModelLifeCycle",
)


def package(context: Context, name_or_arn: str) -> Document:
    """Return the stored package of an ARN, a name, or `<group>/<version>`.

    Raises ValidationException if there is none.
    """
    name = _name_of(name_or_arn, PACKAGE_KIND)
    document = context.store.get(PACKAGE_KIND, name)
    if document is None:
        raise ValidationException(f"ModelPackage {context.arn(PACKAGE_KIND, name)} does not exist.")
    return document


def _group(context: Context, name_or_arn: str) -> Document:
    name = _name_of(name_or_arn, GROUP_KIND)
    document = context.store.get(GROUP_KIND, name)
    if document is None:
        raise ValidationException(f"ModelPackageGroup {context.arn(GROUP_KIND, name)} does not exist.")
    return document


def _name_of(name_or_arn: str, kind: str) -> str:
    """The part of an ARN behind `:<kind>/`, or the name itself."""
    if not name_or_arn.startswith("arn:"):
        return name_or_arn
    _, found, name = name_or_arn.partition(f":{kind}/")
    if not found:
        raise ValidationException(f"{name_or_arn} is no ARN of a {kind}. It should hold ':{kind}/'.")
    return name


def _versions(context: Context, group: str) -> list[Document]:
    packages = context.store.list(PACKAGE_KIND)
    return [document for document in packages if document.get("ModelPackageGroupName") == group]


def _answer(document: Document, operation_name: str) -> dict[str, Any]:
    """The document without what is remembered for our own use (`ClientToken`, `LatestVersion`)."""
    members = service_model().operation_model(operation_name).output_shape.members
    return {key: value for key, value in document.items() if key in members}


@operation("CreateModelPackageGroup")
def create_model_package_group(context: Context, request: Request) -> dict[str, Any]:
    name = request["ModelPackageGroupName"]
    arn = context.arn(GROUP_KIND, name)
    document = {
        **request,
        "ModelPackageGroupArn": arn,
        "CreationTime": time.time(),
        "CreatedBy": {},
        "ModelPackageGroupStatus": "Completed",
        # A deleted version's number is never given away again.
        "LatestVersion": 0,
    }
    tags = document.pop("Tags", None)
    try:
        context.store.create(GROUP_KIND, name, document)
    except KeyError as error:
        raise ValidationException(f"Model Package Group already exists: {arn}") from error
    set_tags(context, arn, tags)
    return {"ModelPackageGroupArn": arn}


@operation("DescribeModelPackageGroup")
def describe_model_package_group(context: Context, request: Request) -> dict[str, Any]:
    return _answer(_group(context, request["ModelPackageGroupName"]), "DescribeModelPackageGroup")


@operation("ListModelPackageGroups")
def list_model_package_groups(context: Context, request: Request) -> dict[str, Any]:
    groups = context.store.list(GROUP_KIND)
    page, token = list_page(groups, request, name="ModelPackageGroupName", default_order="Ascending")
    summaries = [{key: group.get(key) for key in _GROUP_SUMMARY} for group in page]
    return {"ModelPackageGroupSummaryList": summaries, "NextToken": token}


@operation("DeleteModelPackageGroup")
def delete_model_package_group(context: Context, request: Request) -> dict[str, Any]:
    group = _group(context, request["ModelPackageGroupName"])
    if _versions(context, group["ModelPackageGroupName"]):
        raise SageMakerError(
            "Model Package Group cannot be deleted since it still contains models.", code="ConflictException"
        )
    context.store.delete(GROUP_KIND, group["ModelPackageGroupName"])
    delete_tags_of(context, group["ModelPackageGroupArn"])
    return {}


@operation("CreateModelPackage")
def create_model_package(context: Context, request: Request) -> dict[str, Any]:
    if "ModelPackageName" in request and "ModelPackageGroupName" in request:
        raise ValidationException(
            "Both ModelPackageName and ModelPackageGroupName are provided in the input. "
            "Cannot determine which one to use."
        )
    if "ModelPackageName" not in request and "ModelPackageGroupName" not in request:
        raise ValidationException(
            "Missing ARN. Name a ModelPackageGroupName (a new version of a group) or a ModelPackageName."
        )
    for known in context.store.list(PACKAGE_KIND):
        # A client that lost our answer sends the same token again and expects the same package.
        if "ClientToken" in request and known.get("ClientToken") == request["ClientToken"]:
            return {"ModelPackageArn": known["ModelPackageArn"]}

    document: Document = {
        **request,
        "CreationTime": time.time(),
        "CreatedBy": {},
        "ModelPackageStatus": "Completed",
        "ModelPackageStatusDetails": {"ValidationStatuses": [], "ImageScanStatuses": []},
        "CertifyForMarketplace": request.get("CertifyForMarketplace", False),
    }
    tags = document.pop("Tags", None)
    if "ModelPackageGroupName" in request:
        if tags:
            raise ValidationException("A versioned model package cannot have tags: tag its group.")
        key = _number_version(context, document)
    else:
        key = request["ModelPackageName"]
    document["ModelPackageArn"] = arn = context.arn(PACKAGE_KIND, key)
    try:
        context.store.create(PACKAGE_KIND, key, document)
    except KeyError as error:
        raise ValidationException(f"Model Package already exists: {arn}") from error
    set_tags(context, arn, tags)
    return {"ModelPackageArn": arn}


def _number_version(context: Context, document: Document) -> str:
    """Give the document the next version of its group; returns the key `<group>/<version>`."""
    group = _group(context, document["ModelPackageGroupName"])["ModelPackageGroupName"]

    def count(stored: Document) -> None:
        stored["LatestVersion"] += 1

    try:
        version = context.store.mutate(GROUP_KIND, group, count)["LatestVersion"]
    except KeyError as error:  # the group was deleted since
        raise ValidationException(f"ModelPackageGroup {context.arn(GROUP_KIND, group)} does not exist.") from error
    document.update(ModelPackageGroupName=group, ModelPackageName=group, ModelPackageVersion=version)
    document.setdefault("ModelApprovalStatus", "PendingManualApproval")
    return f"{group}/{version}"


@operation("DescribeModelPackage")
def describe_model_package(context: Context, request: Request) -> dict[str, Any]:
    return _answer(package(context, request["ModelPackageName"]), "DescribeModelPackage")


@operation("UpdateModelPackage")
def update_model_package(context: Context, request: Request) -> dict[str, Any]:
    arn = package(context, request["ModelPackageArn"])["ModelPackageArn"]

    def change(document: Document) -> None:
        document.update({key: request[key] for key in _REPLACED_BY_UPDATE if key in request})
        properties = {
            **document.get("CustomerMetadataProperties", {}),
            **request.get("CustomerMetadataProperties", {}),
        }
        for key in request.get("CustomerMetadataPropertiesToRemove", []):
            properties.pop(key, None)
        if properties:
            document["CustomerMetadataProperties"] = properties
        else:
            document.pop("CustomerMetadataProperties", None)
        if added := request.get("AdditionalInferenceSpecificationsToAdd"):
            document.setdefault("AdditionalInferenceSpecifications", []).extend(added)
        document.update(LastModifiedTime=time.time(), LastModifiedBy={})

    context.store.mutate(PACKAGE_KIND, _name_of(arn, PACKAGE_KIND), change)
    return {"ModelPackageArn": arn}


@operation("ListModelPackages")
def list_model_packages(context: Context, request: Request) -> dict[str, Any]:
    if "ModelPackageGroupName" in request:
        group = _group(context, request["ModelPackageGroupName"])["ModelPackageGroupName"]
        packages = _versions(context, group)
    else:
        wanted = request.get("ModelPackageType", "Unversioned")
        packages = [
            document
            for document in context.store.list(PACKAGE_KIND)
            if wanted == "Both" or (wanted == "Versioned") == ("ModelPackageVersion" in document)
        ]
    if status := request.get("ModelApprovalStatus"):
        packages = [document for document in packages if document.get("ModelApprovalStatus") == status]
    page, token = list_page(packages, request, name="ModelPackageName", default_order="Ascending")
    return {"ModelPackageSummaryList": [_summary(document) for document in page], "NextToken": token}


def _summary(document: Document) -> dict[str, Any]:
    summary = {key: document.get(key) for key in _PACKAGE_SUMMARY}
    if "ModelPackageVersion" not in document:
        summary["ModelPackageName"] = document["ModelPackageName"]
    return summary


@operation("DeleteModelPackage")
def delete_model_package(context: Context, request: Request) -> dict[str, Any]:
    document = package(context, request["ModelPackageName"])
    context.store.delete(PACKAGE_KIND, _name_of(document["ModelPackageArn"], PACKAGE_KIND))
    delete_tags_of(context, document["ModelPackageArn"])
    return {}
