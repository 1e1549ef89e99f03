"""Other official clients: the AWS CLI and the sagemaker SDK's typed resources."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import training_request


def client_environment(server_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_ENDPOINT_URL_SAGEMAKER": server_url,
        "AWS_PAGER": "",
    }


def test_the_aws_cli_works_unchanged(server, bucket):
    # GIVEN the AWS CLI
    def aws(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "aws"), "--endpoint-url", server.url, "sagemaker", *arguments],
            env=client_environment(server.url),
            capture_output=True,
            text=True,
            check=False,
        )

    # WHEN it creates a job and waits for its end
    request = json.dumps(training_request("from-cli"))
    created = aws("create-training-job", "--cli-input-json", request)
    assert created.returncode == 0, created.stderr
    waited = aws("wait", "training-job-completed-or-stopped", "--training-job-name", "from-cli")
    # THEN the job is complete
    assert waited.returncode == 0, waited.stderr
    described = json.loads(aws("describe-training-job", "--training-job-name", "from-cli").stdout)
    assert described["TrainingJobStatus"] == "Completed"
    assert described["CreationTime"] <= described["TrainingEndTime"]
    # AND errors look as on AWS
    unknown = aws("describe-training-job", "--training-job-name", "unknown")
    assert "(ValidationException)" in unknown.stderr
    assert "Requested resource not found." in unknown.stderr


SDK_PROGRAM = """
import json, sys, boto3
from sagemaker.core.resources import TrainingJob
from sagemaker.core.shapes import (
    AlgorithmSpecification, OutputDataConfig, ResourceConfig, StoppingCondition)

job = TrainingJob.create(
    training_job_name="from-sdk",
    role_arn="arn:aws:iam::000000000000:role/droptune",
    algorithm_specification=AlgorithmSpecification(training_image="warm:1", training_input_mode="File"),
    output_data_config=OutputDataConfig(s3_output_path="s3://jobs/out"),
    resource_config=ResourceConfig(instance_type="ml.m5.large", instance_count=1, volume_size_in_gb=1),
    stopping_condition=StoppingCondition(max_runtime_in_seconds=300),
    hyper_parameters={"epochs": "2"},
)
job.wait(poll=1)
job.refresh()
print("RESULT", json.dumps([job.training_job_status, job.model_artifacts.s3_model_artifacts]))
names = [entry.training_job_name for entry in TrainingJob.get_all(name_contains="from-sdk")]
print("LISTED", json.dumps(names))
"""


@pytest.mark.slow  # the SDK's import alone takes seconds
def test_the_sagemaker_sdk_works_unchanged(server, bucket, tmp_path):
    # GIVEN the SDK's typed resources, in a process of its own: it configures logging and warnings
    # WHEN a job is created, awaited and listed
    result = subprocess.run(
        [sys.executable, "-c", SDK_PROGRAM],
        cwd=tmp_path,
        env={**client_environment(server.url), "AWS_ENDPOINT_URL": server.url, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    # THEN it is complete
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    [outcome] = [line.removeprefix("RESULT ") for line in lines if line.startswith("RESULT ")]
    assert json.loads(outcome) == ["Completed", "s3://jobs/out/from-sdk/output/model.tar.gz"]
    assert 'LISTED ["from-sdk"]' in lines
