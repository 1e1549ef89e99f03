"""What a failure is explained with, from the forms in which Step Functions hands it over."""

import json
from typing import Any

import pytest
from chalicelib import failures
from chalicelib.errors import EmptyDataset

DOCUMENT = {"code": "TooFewClasses", "message": "Dataset 'x' has one class, 'cat'.", "hint": "Add a second."}


@pytest.mark.parametrize(
    "described",
    [
        {"ProcessingJobName": "r-prepare", "ExitMessage": json.dumps(DOCUMENT), "FailureReason": "AlgorithmError"},
        {"TrainingJobName": "r-retrain", "FailureReason": f"AlgorithmError: {json.dumps(DOCUMENT)}, exit code: 1"},
        {"errorType": "EmptyDataset", "errorMessage": json.dumps(DOCUMENT), "trace": []},
        {"FailureReason": "AlgorithmError: {not json} " + json.dumps(DOCUMENT)},
    ],
)
def test_the_error_document_is_found_wherever_it_is_wrapped(described: dict[str, Any]) -> None:
    assert failures.explain("States.TaskFailed", json.dumps(described), "Prepare", "x-1") == DOCUMENT


def test_our_own_exceptions_carry_their_document() -> None:
    # GIVEN an exception of ours as Lambda reports it
    error = EmptyDataset("Dataset 'x' holds no images.", "Upload some.")
    cause = json.dumps({"errorType": "Runtime.HandlerError", "errorMessage": str(error)})
    # THEN its code survives, even where its class name did not
    assert failures.explain("Runtime.HandlerError", cause, "Settle", "x-1") == {
        "code": "EmptyDataset",
        "message": "Dataset 'x' holds no images.",
        "hint": "Upload some.",
    }


@pytest.mark.parametrize(
    ("error", "cause", "code", "words"),
    [
        ("States.Timeout", "", "Timeout", "Tune took too long"),
        ("SageMaker.ResourceLimitExceededException", "The account-level service limit is 0", "QuotaExceeded", "Tune"),
        ("States.TaskFailed", '{"FailureReason": "CapacityError: Unable to provision"}', "NoCapacity", "Capacity"),
        ("States.TaskFailed", '{"FailureReason": "ClientError: Cannot pull image x"}', "ImageMissing", "pull"),
        ("SageMaker.SageMakerException", "is not authorized to perform: x", "AccessDenied", "authorized"),
        (
            "States.TaskFailed",
            '{"FailureReason": "ClientError: Data download failed: no objects at s3://b/weights/resnet50/"}',
            "WeightsMissing",
            "Data download failed",
        ),
        ("EndpointRolledBack", "SageMaker went back.", "EndpointRolledBack", "SageMaker went back."),
        ("States.QueryEvaluationError", "no result", "QueryEvaluationError", "no result"),
        ("", "", "InternalError", "Tune failed"),
        ("States.TaskFailed", "[1, 2]", "TaskFailed", "[1, 2]"),
    ],
)
def test_what_services_say_is_named(error: str, cause: str, code: str, words: str) -> None:
    explained = failures.explain(error, cause, "Tune", "x-1")
    assert explained["code"] == code
    assert words in explained["message"]
    assert explained["hint"]


def test_a_reason_that_was_cut_off_is_still_told() -> None:
    # GIVEN an error document cut off at SageMaker's 1,024 characters
    cut = json.dumps(DOCUMENT | {"message": "x" * 2000})[:1000]
    # WHEN it is explained
    explained = failures.explain("States.TaskFailed", json.dumps({"FailureReason": cut}), "Retrain", "x-1")
    # THEN the mail gets its beginning, in bounded length
    assert explained["code"] == "TaskFailed"
    assert "TooFewClasses" in explained["message"]
    assert len(explained["message"]) < 600


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("Prepare", "x-1-prepare: CloudWatch Logs, group /aws/sagemaker/ProcessingJobs"),
        ("Tune", "x-1: CloudWatch Logs, group /aws/sagemaker/TrainingJobs"),
        ("Retrain", "x-1-retrain: CloudWatch Logs, group /aws/sagemaker/TrainingJobs"),
        ("Evaluate", "x-1-evaluate: CloudWatch Logs, group /aws/sagemaker/ProcessingJobs"),
        ("CreateModel", "GET /runs/x-1 shows every state"),
    ],
)
def test_the_next_step_names_where_to_look(state: str, words: str) -> None:
    assert words in failures.explain("States.TaskFailed", "no result", state, "x-1")["hint"]
    assert words in failures.explain("States.Timeout", "", state, "x-1")["hint"]
