"""Endpoints outlive the server: after a clean stop and after SIGKILL, whatever was under way."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from droptune.local_cloud.sagemaker.endpoint_server import ServingError, VariantServer

from .conftest import Server, wait_for
from .serving import local_context, local_variant, make_config, make_endpoint, serving_images, settled


def invoke(server: Server, name: str) -> dict[str, Any]:
    answer = server.client("sagemaker-runtime").invoke_endpoint(EndpointName=name, Body=b"photo")
    document: dict[str, Any] = json.loads(answer["Body"].read())
    return document


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_endpoint_serves_again_after_a_restart(gateway: str, s3: Any, tmp_path: Path, end: str) -> None:
    # GIVEN an endpoint in service, another that failed, and a registered version
    server = Server(tmp_path, gateway, serving_images(tmp_path))
    sagemaker = server.client()
    name = f"again-{end}"
    make_endpoint(sagemaker, s3, name)
    make_endpoint(sagemaker, s3, f"{name}-bad", MODE="broken")
    sagemaker.create_model_package_group(ModelPackageGroupName=name)
    pid = invoke(server, name)["pid"]

    # WHEN the server ends, its model data goes away, and it starts again
    getattr(server, end)()
    wait_for("the end of the serving process", lambda: not alive(pid))
    s3.delete_object(Bucket="models", Key=f"{name}/model.tar.gz")
    server.start()
    try:
        # THEN the endpoint is in service at once, and the first call waits until it is ready
        assert sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] == "InService"
        answer = invoke(server, name)
        assert answer["model"] == name
        assert answer["pid"] != pid

        # THEN everything else is as it was
        assert sagemaker.describe_endpoint(EndpointName=f"{name}-bad")["EndpointStatus"] == "Failed"
        assert sagemaker.describe_model_package_group(ModelPackageGroupName=name)

        # THEN it can be updated and deleted as before
        make_config(sagemaker, s3, f"{name}-2")
        sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=f"{name}-2")
        settled(sagemaker, name)
        assert invoke(server, name)["model"] == f"{name}-2"
    finally:
        assert server.stop() == 0


def test_what_was_under_way_is_decided_after_a_kill(gateway: str, s3: Any, tmp_path: Path) -> None:
    # GIVEN an update and a creation that do not come to an end
    server = Server(tmp_path, gateway, serving_images(tmp_path))
    sagemaker = server.client()
    make_endpoint(sagemaker, s3, "cut")
    make_config(sagemaker, s3, "cut-2", MODE="unready")
    sagemaker.update_endpoint(EndpointName="cut", EndpointConfigName="cut-2")
    sagemaker.create_endpoint(EndpointName="cut-new", EndpointConfigName="cut-2")
    folder = tmp_path / "state" / "endpoints" / "cut"
    wait_for("the files of the update", lambda: len(list(folder.glob("*/AllTraffic/model"))) == 2)
    updating = sagemaker.describe_endpoint(EndpointName="cut")
    assert updating["EndpointStatus"] == "Updating"
    assert updating["PendingDeploymentSummary"]["EndpointConfigName"] == "cut-2"

    # WHEN the server is killed and started again
    server.kill()
    server.start()
    try:
        # THEN the update has failed and the old one serves; nothing is left of the new one
        endpoint = sagemaker.describe_endpoint(EndpointName="cut")
        assert (endpoint["EndpointStatus"], endpoint["EndpointConfigName"]) == ("InService", "cut")
        assert "PendingDeploymentSummary" not in endpoint
        assert invoke(server, "cut")["model"] == "cut"
        assert len(list(folder.iterdir())) == 1

        # THEN the creation goes on
        assert sagemaker.describe_endpoint(EndpointName="cut-new")["EndpointStatus"] == "Creating"
    finally:
        assert server.stop() == 0

    # WHEN it is stopped while the creation is under way THEN that has not failed by this
    server.start()
    try:
        assert sagemaker.describe_endpoint(EndpointName="cut-new")["EndpointStatus"] == "Creating"
        with pytest.raises(ClientError, match="Endpoint cut-new of account 000000000000 not found"):
            invoke(server, "cut-new")
    finally:
        assert server.stop() == 0


def test_a_container_that_never_gets_ready_runs_into_its_time_limit(tmp_path: Path) -> None:
    # GIVEN a container that answers /ping with 503, and half a second for it
    folder = tmp_path / "container"
    with local_context(tmp_path) as context:
        server = VariantServer(context, "endpoint", local_variant(folder, "slow", 0.5, MODE="unready"), folder)

        # WHEN it is started THEN it fails with SageMaker's words and the end of its log
        with pytest.raises(ServingError, match="did not pass the ping health check") as raised:
            server.start()
        assert "did not answer /ping with 200 in time" in str(raised.value)
        assert str(raised.value).endswith("loading slow")
        assert server.port is None
