"""SageMaker's errors, one row each: what is asked, and the code and words of the answer."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .conftest import Server, finished_training, training_request

UNKNOWN = "no-such-thing"
BAD_NAME = (
    "1 validation error detected: Value 'bad_name' at '{}' failed to satisfy constraint: Member must satisfy "
    "regular expression pattern: "
)


def call(server: Server, operation: str, body: Any) -> tuple[int, dict[str, Any]]:
    """A raw request, as a client without its own checks sends it."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"X-Amz-Target": operation, "Content-Type": "application/x-amz-json-1.1"}
    request = urllib.request.Request(server.url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.parametrize(
    ("operation", "body", "code", "message"),
    [
        (
            "DescribeTrainingJob",
            {"TrainingJobName": UNKNOWN},
            "ValidationException",
            "Requested resource not found.",
        ),
        (
            "StopTrainingJob",
            {"TrainingJobName": UNKNOWN},
            "ValidationException",
            "Requested resource not found.",
        ),
        (
            "DescribeProcessingJob",
            {"ProcessingJobName": UNKNOWN},
            "ValidationException",
            f"Could not find requested job with name: {UNKNOWN}",
        ),
        (
            "StopProcessingJob",
            {"ProcessingJobName": UNKNOWN},
            "ValidationException",
            f"Could not find requested job with name: {UNKNOWN}",
        ),
        *(
            (
                f"{verb}HyperParameterTuningJob",
                {"HyperParameterTuningJobName": UNKNOWN},
                "ResourceNotFound",
                f"Amazon SageMaker can't find a tuning job called {UNKNOWN}. Type another name.",
            )
            for verb in ("Describe", "Stop", "ListTrainingJobsFor")
        ),
        (
            "DescribeTrainingJob",
            {"TrainingJobName": "bad_name"},
            "ValidationException",
            BAD_NAME.format("trainingJobName"),
        ),
        (
            "DescribeHyperParameterTuningJob",
            {"HyperParameterTuningJobName": "x" * 33},
            "ValidationException",
            "failed to satisfy constraint: Member must have length less than or equal to 32",
        ),
        (
            "DescribeTrainingJob",
            {},
            "ValidationException",
            "1 validation error detected: Value null at 'trainingJobName' failed to satisfy constraint",
        ),
        (
            "ListTrainingJobs",
            {"MaxResults": 101},
            "ValidationException",
            "Value '101' at 'maxResults' failed to satisfy constraint: Member must have value less than",
        ),
        (
            "ListTrainingJobs",
            {"SortBy": "Colour"},
            "ValidationException",
            "at 'sortBy' failed to satisfy constraint: Member must satisfy enum value set: [Name, Cre",
        ),
        ("ListTrainingJobs", {"NextToken": "forged"}, "ValidationException", "The NextToken is invalid."),
        ("ListTrainingJobs", {"MaxResults": "ten"}, "SerializationException", "Invalid type for parameter"),
        ("ListTrainingJobs", {"Colour": "red"}, "ValidationException", 'Unknown parameter in input: "Colour"'),
        ("ListTrainingJobs", b"{", "SerializationException", "The request is no JSON"),
        ("ListTrainingJobs", [], "SerializationException", "The request is no JSON object"),
        ("CreateLabelingJob", {}, "UnknownOperationException", "does not support the operation"),
        ("MakeCoffee", {}, "UnknownOperationException", "SageMaker has no operation MakeCoffee"),
        (
            "ListTags",
            {"ResourceArn": "arn:aws:sagemaker:us-east-1:000000000000:training-job/none"},
            "ValidationException",
            "not found",
        ),
    ],
)
def test_errors_are_sagemakers_own(server, operation, body, code, message):
    # GIVEN a request that cannot be answered
    # WHEN it is sent
    status, answer = call(server, f"SageMaker.{operation}", body)
    # THEN the answer has AWS's form
    assert (status, answer["__type"]) == (400, code)
    assert message in answer["message"]


def test_a_request_without_an_operation_is_refused(server):
    # GIVEN a request whose target is another service's
    # WHEN it is sent
    status, answer = call(server, "DynamoDB_20120810.ListTables", {})
    # THEN it is an unknown operation
    assert (status, answer["__type"]) == (400, "UnknownOperationException")


def test_names_are_given_once(sagemaker):
    # GIVEN a job of each kind
    from . import test_processing, test_tuning

    sagemaker.create_training_job(**training_request("twice"))
    sagemaker.create_processing_job(**test_processing.request("twice"))
    sagemaker.create_hyper_parameter_tuning_job(**test_tuning.request("twice", jobs=1))
    again = [
        (sagemaker.create_training_job, training_request("twice"), "Training job names must be unique within"),
        (sagemaker.create_processing_job, test_processing.request("twice"), "Job name must be unique within"),
        (
            sagemaker.create_hyper_parameter_tuning_job,
            test_tuning.request("twice", jobs=1),
            "A hyperparameter tuning job with the name, twice, already exists",
        ),
    ]
    for create, request, message in again:
        # WHEN the name is used again
        # THEN SageMaker says that it is taken
        with pytest.raises(ClientError, match=message) as caught:
            create(**request)
        assert caught.value.response["Error"]["Code"] == "ResourceInUse"
    finished_training(sagemaker, "twice")
    test_tuning.finished(sagemaker, "twice")
    test_processing.finished(sagemaker, "twice")


def pipe(request: dict[str, Any]) -> None:
    request["AlgorithmSpecification"]["TrainingInputMode"] = "Pipe"
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://jobs/data"}
    request["InputDataConfig"] = [{"ChannelName": "data", "DataSource": {"S3DataSource": source}}]


def bad_regex(request: dict[str, Any]) -> None:
    request["AlgorithmSpecification"]["MetricDefinitions"][0]["Regex"] = "loss=("


def no_group(request: dict[str, Any]) -> None:
    request["AlgorithmSpecification"]["MetricDefinitions"][0]["Regex"] = "loss=.*"


def two_instances(request: dict[str, Any]) -> None:
    request["ResourceConfig"]["InstanceCount"] = 2


def own_algorithm(request: dict[str, Any]) -> None:
    del request["AlgorithmSpecification"]["TrainingImage"]
    request["AlgorithmSpecification"]["AlgorithmName"] = "mine"


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (pipe, "ValidationException", "Pipe is not supported"),
        (bad_regex, "ValidationException", "is invalid"),
        (no_group, "ValidationException", "no capture group"),
        (own_algorithm, "ValidationException", "Provide TrainingImage"),
        (two_instances, "ResourceLimitExceeded", "The account-level service limit 'ml.m5.large for training"),
    ],
)
def test_what_one_machine_cannot_do_is_refused(sagemaker, change, code, message):
    # GIVEN a training job that cannot run here
    request = training_request("refused")
    change(request)
    # WHEN it is created
    with pytest.raises(ClientError, match=message) as caught:
        sagemaker.create_training_job(**request)
    # THEN the code is SageMaker's, and no job is left behind
    assert caught.value.response["Error"]["Code"] == code
    with pytest.raises(ClientError, match="not found"):
        sagemaker.describe_training_job(TrainingJobName="refused")


def test_tags_of_a_job(sagemaker):
    # GIVEN a job with a tag
    request = training_request("tagged") | {"Tags": [{"Key": "a", "Value": "1"}]}
    arn = sagemaker.create_training_job(**request)["TrainingJobArn"]
    # WHEN tags are added and taken away
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "b", "Value": "2"}, {"Key": "c", "Value": "3"}])
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["a"])
    # THEN the rest is listed
    expected = [{"Key": "b", "Value": "2"}, {"Key": "c", "Value": "3"}]
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == expected
    # AND there is a limit
    with pytest.raises(ClientError, match="more than 50 tags"):
        sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": str(number), "Value": ""} for number in range(49)])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == expected
    finished_training(sagemaker, "tagged")
