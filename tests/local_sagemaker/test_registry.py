"""The model registry: groups, versions, approval."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

ARN = "arn:aws:sagemaker:us-east-1:000000000000"
SPECIFICATION = {
    "Containers": [{"Image": "warm:1", "ModelDataUrl": "s3://models/x/model.tar.gz"}],
    "SupportedContentTypes": ["image/jpeg"],
    "SupportedResponseMIMETypes": ["application/json"],
}


def make_version(sagemaker: Any, group: str, **more: Any) -> str:
    arn: str = sagemaker.create_model_package(
        ModelPackageGroupName=group, InferenceSpecification=SPECIFICATION, **more
    )["ModelPackageArn"]
    return arn


def test_a_group_is_created_described_listed_and_deleted(sagemaker: Any) -> None:
    # GIVEN a group
    created = sagemaker.create_model_package_group(
        ModelPackageGroupName="r-life",
        ModelPackageGroupDescription="photos",
        Tags=[{"Key": "dataset", "Value": "photos"}],
    )
    arn = f"{ARN}:model-package-group/r-life"
    assert created["ModelPackageGroupArn"] == arn

    # WHEN it is described by name and by ARN, and listed
    by_name = sagemaker.describe_model_package_group(ModelPackageGroupName="r-life")
    by_arn = sagemaker.describe_model_package_group(ModelPackageGroupName=arn)
    listed = sagemaker.list_model_package_groups(NameContains="r-life")["ModelPackageGroupSummaryList"]

    # THEN all agree
    assert by_name["ModelPackageGroupDescription"] == by_arn["ModelPackageGroupDescription"] == "photos"
    assert by_name["ModelPackageGroupStatus"] == "Completed"
    assert [group["ModelPackageGroupArn"] for group in listed] == [arn]
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "dataset", "Value": "photos"}]

    # WHEN it is created again, and deleted, THEN SageMaker's words come back
    with pytest.raises(ClientError, match=f"Model Package Group already exists: {arn}"):
        sagemaker.create_model_package_group(ModelPackageGroupName="r-life")
    sagemaker.delete_model_package_group(ModelPackageGroupName="r-life")
    with pytest.raises(ClientError, match=f"ModelPackageGroup {arn} does not exist."):
        sagemaker.describe_model_package_group(ModelPackageGroupName="r-life")


def test_versions_count_up_and_are_never_given_twice(sagemaker: Any) -> None:
    # GIVEN a group with two versions, one by name and one by ARN
    sagemaker.create_model_package_group(ModelPackageGroupName="r-count")
    first = make_version(sagemaker, "r-count", ModelApprovalStatus="Approved")
    second = make_version(sagemaker, f"{ARN}:model-package-group/r-count")
    assert [first, second] == [f"{ARN}:model-package/r-count/{n}" for n in (1, 2)]

    # WHEN the last one is deleted and another one is made
    sagemaker.delete_model_package(ModelPackageName=second)
    third = make_version(sagemaker, "r-count")

    # THEN its number is new
    assert third == f"{ARN}:model-package/r-count/3"
    listed = sagemaker.list_model_packages(ModelPackageGroupName="r-count", SortOrder="Descending")
    versions = listed["ModelPackageSummaryList"]
    assert [version["ModelPackageVersion"] for version in versions] == [3, 1]
    assert [version["ModelApprovalStatus"] for version in versions] == ["PendingManualApproval", "Approved"]
    assert all("ModelPackageName" not in version for version in versions)


def test_a_version_is_described_and_updated(sagemaker: Any) -> None:
    # GIVEN a version with metadata
    sagemaker.create_model_package_group(ModelPackageGroupName="r-update")
    arn = make_version(sagemaker, "r-update", CustomerMetadataProperties={"run": "r1", "accuracy": "0.8"})

    # WHEN it is approved, and its metadata changed
    sagemaker.update_model_package(
        ModelPackageArn=arn,
        ModelApprovalStatus="Approved",
        ApprovalDescription="better than before",
        CustomerMetadataProperties={"accuracy": "0.9", "verdict": "promoted"},
        CustomerMetadataPropertiesToRemove=["run"],
    )

    # THEN the description says so; what was not named has stayed
    described = sagemaker.describe_model_package(ModelPackageName=arn)
    assert described["ModelPackageGroupName"] == "r-update"
    assert described["ModelPackageVersion"] == 1
    assert described["ModelApprovalStatus"] == "Approved"
    assert described["ApprovalDescription"] == "better than before"
    assert described["CustomerMetadataProperties"] == {"accuracy": "0.9", "verdict": "promoted"}
    assert described["InferenceSpecification"] == SPECIFICATION
    assert described["ModelPackageStatus"] == "Completed"
    assert described["LastModifiedTime"] >= described["CreationTime"]
    approved = sagemaker.list_model_packages(ModelPackageGroupName="r-update", ModelApprovalStatus="Approved")
    assert len(approved["ModelPackageSummaryList"]) == 1


def test_the_same_client_token_makes_one_version(sagemaker: Any) -> None:
    # GIVEN a request whose answer was lost
    sagemaker.create_model_package_group(ModelPackageGroupName="r-token")
    first = make_version(sagemaker, "r-token", ClientToken="same")

    # WHEN it is sent again THEN there is still one version
    assert make_version(sagemaker, "r-token", ClientToken="same") == first
    listed = sagemaker.list_model_packages(ModelPackageGroupName="r-token")
    assert len(listed["ModelPackageSummaryList"]) == 1


def test_unversioned_packages_stand_alone(sagemaker: Any) -> None:
    # GIVEN an unversioned package
    arn = sagemaker.create_model_package(ModelPackageName="r-alone", InferenceSpecification=SPECIFICATION)[
        "ModelPackageArn"
    ]

    # WHEN it is described and listed THEN it has a name and no version
    described = sagemaker.describe_model_package(ModelPackageName="r-alone")
    listed = sagemaker.list_model_packages(NameContains="r-alone")["ModelPackageSummaryList"]
    assert described["ModelPackageArn"] == arn == f"{ARN}:model-package/r-alone"
    assert "ModelPackageVersion" not in described
    assert [package["ModelPackageName"] for package in listed] == ["r-alone"]


def test_a_group_with_versions_stays(sagemaker: Any) -> None:
    sagemaker.create_model_package_group(ModelPackageGroupName="r-full")
    make_version(sagemaker, "r-full")
    with pytest.raises(sagemaker.exceptions.ConflictException, match="still contains models"):
        sagemaker.delete_model_package_group(ModelPackageGroupName="r-full")


def test_lists_come_in_pages(sagemaker: Any) -> None:
    # GIVEN five versions
    sagemaker.create_model_package_group(ModelPackageGroupName="r-pages")
    arns = [make_version(sagemaker, "r-pages") for _ in range(5)]

    # WHEN they are listed two by two THEN each comes once, oldest first
    pages = list(
        sagemaker.get_paginator("list_model_packages").paginate(
            ModelPackageGroupName="r-pages", PaginationConfig={"PageSize": 2}
        )
    )
    assert [len(page["ModelPackageSummaryList"]) for page in pages] == [2, 2, 1]
    assert [p["ModelPackageArn"] for page in pages for p in page["ModelPackageSummaryList"]] == arns


@pytest.mark.parametrize(
    ("operation", "request_", "message"),
    [
        ("describe_model_package", {"ModelPackageName": "none/7"}, "model-package/none/7 does not exist"),
        ("delete_model_package", {"ModelPackageName": "none"}, "model-package/none does not exist"),
        (
            "update_model_package",
            {"ModelPackageArn": f"{ARN}:model-package/none/1", "ModelApprovalStatus": "Approved"},
            "model-package/none/1 does not exist",
        ),
        ("list_model_packages", {"ModelPackageGroupName": "none"}, "group/none does not exist"),
        ("delete_model_package_group", {"ModelPackageGroupName": "none"}, "group/none does not exist"),
        ("create_model_package", {"ModelPackageGroupName": "none"}, "group/none does not exist"),
        ("create_model_package", {}, "Missing ARN"),
        (
            "create_model_package",
            {"ModelPackageGroupName": "a", "ModelPackageName": "b"},
            "Cannot determine which one to use",
        ),
        (
            "describe_model_package_group",
            {"ModelPackageGroupName": f"{ARN}:model/x"},
            "no ARN of a model-package-group",
        ),
    ],
)
def test_what_is_not_there_is_named(sagemaker: Any, operation: str, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message) as raised:
        getattr(sagemaker, operation)(**request_)
    assert raised.value.response["Error"]["Code"] == "ValidationException"
