"""Official clients against endpoints: the AWS CLI and the SageMaker SDK's typed resources."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROLE, Server
from .serving import make_endpoint, put_model_data, serving_images


@pytest.fixture(scope="module")
def server(gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("clients")
    running = Server(directory, gateway, serving_images(directory))
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture
def environment(server: Server) -> dict[str, str]:
    """What a shell needs to use the local SageMaker with any AWS client."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def test_the_aws_cli_invokes_and_describes(
    server: Server, s3: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    # GIVEN an endpoint and a file
    make_endpoint(server.client(), s3, "cli")
    (tmp_path / "photo.jpg").write_bytes(b"photo")
    aws = Path(sys.executable).with_name("aws")

    # WHEN the AWS CLI invokes it
    invoked = subprocess.run(
        [
            *(aws, "sagemaker-runtime", "invoke-endpoint", "--endpoint-name", "cli"),
            *("--content-type", "image/jpeg", "--body", "fileb://photo.jpg", "answer.json"),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )

    # THEN the answer is in the file, the variant on standard output
    assert invoked.returncode == 0, invoked.stderr
    assert json.loads(invoked.stdout)["InvokedProductionVariant"] == "AllTraffic"
    assert json.loads((tmp_path / "answer.json").read_text())["model"] == "cli"

    # WHEN it asks for an unknown endpoint THEN it tells the cause
    described = subprocess.run(
        [aws, "sagemaker", "describe-endpoint", "--endpoint-name", "none"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert described.returncode != 0
    assert 'Could not find endpoint "arn:aws:sagemaker:us-east-1:000000000000:endpoint/none"' in described.stderr


# In a process of its own: the SDK takes its clients from the environment once, and warns on import.
SDK = """
import json, sys

from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant

url, role = sys.argv[1:]
Model.create(
    model_name="sdk",
    execution_role_arn=role,
    primary_container=ContainerDefinition(image="warm:1", model_data_url=url),
)
EndpointConfig.create(
    endpoint_config_name="sdk",
    production_variants=[
        ProductionVariant(
            variant_name="AllTraffic", model_name="sdk", initial_instance_count=1, instance_type="ml.m5.large"
        )
    ],
)
endpoint = Endpoint.create(endpoint_name="sdk", endpoint_config_name="sdk")
endpoint.wait_for_status("InService", poll=1)
answer = endpoint.invoke(body=b"photo", content_type="image/jpeg", custom_attributes="top_k=2")
body = answer.body.read() if hasattr(answer.body, "read") else answer.body
endpoint.delete()
endpoint.wait_for_delete(poll=1)
print("RESULT", json.dumps({
    "model": json.loads(body)["model"], "variant": answer.invoked_production_variant,
    "arn": endpoint.endpoint_arn}))
"""


@pytest.mark.slow
def test_the_sagemaker_sdk_creates_invokes_and_deletes(s3: Any, environment: dict[str, str], tmp_path: Path) -> None:
    # GIVEN a program that uses the SDK's typed resources
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(SDK))

    # WHEN it runs against the local SageMaker
    done = subprocess.run(
        [sys.executable, program, put_model_data(s3, "sdk"), ROLE],
        env=environment,
        capture_output=True,
        text=True,
    )

    # THEN it has made an endpoint, called it and deleted it
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.split("RESULT ", 1)[1].splitlines()[0])
    assert result == {
        "model": "sdk",
        "variant": "AllTraffic",
        "arn": "arn:aws:sagemaker:us-east-1:000000000000:endpoint/sdk",
    }
