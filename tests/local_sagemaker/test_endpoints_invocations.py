"""InvokeEndpoint: what is passed on, what comes back, and SageMaker Runtime's errors."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from droptune.local_cloud.sagemaker import invocations
from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.endpoint_server import Deployment
from droptune.local_cloud.sagemaker.endpoints import ROUTES
from droptune.local_cloud.sagemaker.invocations import MAX_BODY_BYTES

from .conftest import Server
from .serving import local_context, local_variant, make_endpoint, serving_images


@pytest.fixture(scope="module")
def server(gateway: str, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the endpoint `photos`."""
    directory = tmp_path_factory.mktemp("invocations")
    running = Server(directory, gateway, serving_images(directory))
    assert make_endpoint(running.client(), s3, "photos")["EndpointStatus"] == "InService"
    yield running
    assert running.stop() == 0, running.log()
    assert "Traceback" not in running.log(), running.log()


@pytest.fixture(scope="module")
def runtime(server: Server) -> Any:
    return server.client("sagemaker-runtime")


def test_what_the_call_says_reaches_the_container(runtime: Any) -> None:
    # WHEN an endpoint is invoked with everything that the API has
    answer = runtime.invoke_endpoint(
        EndpointName="photos",
        Body=b"photo",
        ContentType="image/jpeg",
        Accept="application/json",
        CustomAttributes="top_k=3",
        InferenceId="inference-7",
        TargetVariant="AllTraffic",
    )

    # THEN the container got that, and nothing of the caller's other headers
    document = json.loads(answer["Body"].read())
    headers = {name.lower(): value for name, value in document["headers"].items()}
    assert headers["content-type"] == "image/jpeg"
    assert headers["accept"] == "application/json"
    assert headers["x-amzn-sagemaker-custom-attributes"] == "top_k=3"
    assert headers["x-amzn-sagemaker-inference-id"] == "inference-7"
    assert headers["content-length"] == "5"
    assert "authorization" not in headers
    assert "x-amz-date" not in headers

    # THEN the caller got the container's answer, with SageMaker's headers and no others
    assert answer["ContentType"] == "application/json"
    assert answer["CustomAttributes"] == "served_by=photos"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert "server-secret" not in answer["ResponseMetadata"]["HTTPHeaders"]


def test_a_body_passes_unchanged_up_to_the_limit(runtime: Any) -> None:
    # GIVEN the largest body that is allowed, of bytes that are no text
    body = bytes(range(256)) * (MAX_BODY_BYTES // 256)
    assert len(body) == MAX_BODY_BYTES == 6 * 1024 * 1024

    # WHEN it is sent THEN it comes back byte for byte
    answer = runtime.invoke_endpoint(EndpointName="photos", Body=body)
    assert answer["Body"].read() == body
    assert answer["ContentType"] == "application/octet-stream"

    # WHEN it is one byte longer THEN it is refused as AWS does
    with pytest.raises(ClientError, match="HTTP content length exceeded 6291456 bytes") as raised:
        runtime.invoke_endpoint(EndpointName="photos", Body=body + b"x")
    assert raised.value.response["Error"]["Code"] == "413"


@pytest.mark.parametrize(("status", "side"), [(400, "client"), (415, "client"), (500, "server"), (503, "server")])
def test_an_error_of_the_container_is_a_model_error(runtime: Any, status: int, side: str) -> None:
    # WHEN the container answers with an error
    with pytest.raises(runtime.exceptions.ModelError) as raised:
        runtime.invoke_endpoint(EndpointName="photos", Body=f"status {status}".encode())

    # THEN it is all there
    response = raised.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert response["OriginalStatusCode"] == status
    assert response["OriginalMessage"] == "no cat in sight"
    assert response["LogStreamArn"] == ("arn:aws:logs:us-east-1:000000000000:log-group:/aws/sagemaker/Endpoints/photos")
    assert response["Error"]["Message"].startswith(
        f'Received {side} error ({status}) from primary with message "no cat in sight".'
    )


def test_an_unknown_endpoint_is_named(runtime: Any) -> None:
    with pytest.raises(ClientError, match=r"Endpoint nothing of account 000000000000 not found\.") as raised:
        runtime.invoke_endpoint(EndpointName="nothing", Body=b"photo")
    assert raised.value.response["Error"]["Code"] == "ValidationError"
    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_body_without_a_length_is_read_to_its_end(server: Server) -> None:
    # WHEN a client sends a body in chunks THEN the container gets it whole
    answer = httpx.post(f"{server.url}/endpoints/photos/invocations", content=iter([b"ec", b"ho"]), trust_env=False)
    assert answer.status_code == 200
    assert answer.content == b"echo"
    assert answer.headers["x-amzn-invoked-production-variant"] == "AllTraffic"


def call_in_process(context: Context, body: bytes) -> httpx.Response:
    """Calls `invoke_endpoint` for the endpoint `here`, without the server's process around it."""

    async def endpoint(request: Request) -> Response:
        return await invocations.invoke_endpoint(context, request)

    async def call() -> httpx.Response:
        app = Starlette(routes=[Route("/endpoints/{name}/invocations", endpoint, methods=["POST"])])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://local") as client:
            answer = await client.post("/endpoints/here/invocations", content=body)
        await invocations.close_connections()
        return answer

    return asyncio.run(call())


def test_time_limits_are_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a deployment whose container takes half a second, and less for an invocation
    folder = tmp_path / "endpoints" / "here" / "id"
    variant = local_variant(folder / "AllTraffic", "slow")
    monkeypatch.setattr(invocations, "INVOCATION_SECONDS", 0.1)
    monkeypatch.setattr(invocations, "READY_SECONDS", 0.1)
    with local_context(tmp_path) as context:
        deployment = Deployment(context, "here", {"Id": "id", "Variants": [variant]})
        deployment.start()
        ROUTES.switch("here", deployment)
        try:
            # WHEN it is invoked THEN SageMaker's time-out comes back
            answer = call_in_process(context, b"slow")
            assert answer.status_code == 424
            assert answer.headers["x-amzn-errortype"] == "ModelError"
            assert answer.json()["OriginalStatusCode"] == 0
            assert "Your invocation timed out" in answer.json()["Message"]

            # WHEN the container does not come back in time THEN the answer says where to look
            deployment.stop()
            answer = call_in_process(context, b"photo")
            assert answer.status_code == 503
            assert answer.headers["x-amzn-errortype"] == "ServiceUnavailable"
            assert str(tmp_path / "logs" / "endpoints" / "here") in answer.json()["Message"]
        finally:
            ROUTES.clear()
