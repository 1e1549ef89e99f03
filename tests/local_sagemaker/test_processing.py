"""Processing jobs under the container contract, seen through boto3."""

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .conftest import ROLE, wait_for


def request(name: str, **environment: str) -> dict[str, Any]:
    return {
        "ProcessingJobName": name,
        "RoleArn": ROLE,
        "AppSpecification": {
            "ImageUri": "warm:1",
            "ContainerEntrypoint": ["python3", "/opt/program/process.py"],
            "ContainerArguments": ["--out", "/opt/ml/processing/output/prepared"],
        },
        "Environment": {"DATASET": "photos", **environment},
        "ProcessingInputs": [
            {
                "InputName": "dataset",
                "S3Input": {
                    "S3Uri": "s3://jobs/list.json",
                    "LocalPath": "/opt/ml/processing/input/dataset",
                    "S3DataType": "ManifestFile",
                    "S3InputMode": "File",
                },
            }
        ],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": "prepared",
                    "S3Output": {
                        "S3Uri": f"s3://jobs/prepared/{name}/",
                        "LocalPath": "/opt/ml/processing/output/prepared",
                        "S3UploadMode": "EndOfJob",
                    },
                }
            ]
        },
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1}
        },
    }


def finished(sagemaker: Any, name: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] = sagemaker.describe_processing_job(ProcessingJobName=name)
        return job if job["ProcessingJobStatus"] in ("Completed", "Failed", "Stopped") else None

    job: dict[str, Any] = wait_for(f"the end of {name}", ended)
    return job


def test_a_job_turns_its_inputs_into_outputs(sagemaker, s3, bucket):
    # GIVEN a job on a manifest of two objects
    # WHEN it has run
    sagemaker.create_processing_job(**request("prepare"))
    job = finished(sagemaker, "prepare")
    # THEN it is complete and says what its program says
    assert job["ProcessingJobStatus"] == "Completed", job.get("FailureReason")
    assert job["ExitMessage"] == "prepared"
    assert job["CreationTime"] <= job["ProcessingStartTime"] <= job["ProcessingEndTime"]
    # AND its output is uploaded
    listed = s3.list_objects_v2(Bucket="jobs", Prefix="prepared/prepare/")["Contents"]
    names = [entry["Key"].removeprefix("prepared/prepare/") for entry in listed]
    assert names == ["about.json", "b.txt", "sub/c.txt"]
    about = json.loads(s3.get_object(Bucket="jobs", Key="prepared/prepare/about.json")["Body"].read())
    assert about["job"] == "prepare"
    assert about["dataset"] == "photos"
    assert about["arguments"][0] == "--out"
    assert about["arguments"][1].endswith("/opt/ml/processing/output/prepared")
    # AND it is listed
    [summary] = sagemaker.list_processing_jobs(NameContains="prepare")["ProcessingJobSummaries"]
    assert summary["ProcessingJobStatus"] == "Completed"


def test_a_failing_program_leaves_its_message(sagemaker, s3, bucket):
    # GIVEN a program that fails and says why
    # WHEN it runs
    sagemaker.create_processing_job(**request("prepare-fails", DO="fail"))
    job = finished(sagemaker, "prepare-fails")
    # THEN the message comes back and nothing is uploaded
    assert job["ProcessingJobStatus"] == "Failed"
    assert job["ExitMessage"] == '{"code": "TooFewClasses"}'
    assert job["FailureReason"] == "AlgorithmError: See job logs for more information, exit code: 1"
    assert s3.list_objects_v2(Bucket="jobs", Prefix="prepared/prepare-fails/")["KeyCount"] == 0


def test_a_waiting_or_running_job_can_be_stopped(sagemaker, tmp_path):
    # GIVEN a job that sleeps
    program = tmp_path / "sleep.py"
    program.write_text("import time; time.sleep(600)")
    sleeping = request("prepare-stops")
    sleeping["AppSpecification"]["ContainerEntrypoint"] = ["python3", str(program)]
    sagemaker.create_processing_job(**sleeping)
    # WHEN it is stopped
    sagemaker.stop_processing_job(ProcessingJobName="prepare-stops")
    # THEN it ends
    assert finished(sagemaker, "prepare-stops")["ProcessingJobStatus"] == "Stopped"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"LocalPath": "/etc/passwd"}, "has to lie below /opt/ml/processing"),
        ({"LocalPath": "/opt/ml/../../etc"}, "has to lie below /opt/ml/processing"),
        ({"S3InputMode": "Pipe"}, "supports S3InputMode File"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(sagemaker, change, message):
    # GIVEN an input that cannot be had here
    refused = request("refused")
    refused["ProcessingInputs"][0]["S3Input"] |= change
    # WHEN the job is created
    # THEN SageMaker's own error says why
    with pytest.raises(ClientError, match=message) as caught:
        sagemaker.create_processing_job(**refused)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
