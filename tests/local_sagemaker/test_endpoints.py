"""Endpoints: their life, their updates, and what is said when something is wrong."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from .conftest import ROLE, Server, wait_for
from .serving import (
    make_config,
    make_endpoint,
    make_model,
    put_model_data,
    serving_images,
    settled,
    variant,
)

ARN = "arn:aws:sagemaker:us-east-1:000000000000"


@pytest.fixture(scope="module")
def server(gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("endpoints")
    running = Server(directory, gateway, serving_images(directory))
    yield running
    assert running.stop() == 0, running.log()
    # A container's own traceback may stand there; " failed" ends what the server says of itself.
    assert " failed\n" not in running.log(), running.log()


@pytest.fixture(scope="module")
def sagemaker(server: Server) -> Any:
    return server.client()


@pytest.fixture(scope="module")
def runtime(server: Server) -> Any:
    return server.client("sagemaker-runtime")


def invoke(runtime: Any, name: str, body: bytes = b"photo", **more: Any) -> dict[str, Any]:
    answer = runtime.invoke_endpoint(EndpointName=name, Body=body, **more)
    document: dict[str, Any] = json.loads(answer["Body"].read())
    return document


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("image", ["cold:1", "123456789012.dkr.ecr.us-east-1.amazonaws.com/warm@sha256:ab"])
def test_an_endpoint_lives_and_ends(sagemaker: Any, s3: Any, runtime: Any, image: str) -> None:
    # GIVEN an endpoint, with a model that has its environment
    name = f"life-{image[:4].strip('1')}"
    make_config(sagemaker, s3, name, image, GREETING="hello")
    created = sagemaker.create_endpoint(
        EndpointName=name, EndpointConfigName=name, Tags=[{"Key": "run", "Value": "r1"}]
    )

    # WHEN boto3's own waiter has seen it in service
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 1})
    endpoint = sagemaker.describe_endpoint(EndpointName=name)

    # THEN it is described as SageMaker does
    assert created["EndpointArn"] == endpoint["EndpointArn"] == f"{ARN}:endpoint/{name}"
    assert endpoint["EndpointConfigName"] == name
    assert "FailureReason" not in endpoint
    assert "PendingDeploymentSummary" not in endpoint
    (production,) = endpoint["ProductionVariants"]
    assert production["VariantName"] == "AllTraffic"
    assert production["CurrentWeight"] == production["DesiredWeight"] == 1.0
    assert production["CurrentInstanceCount"] == production["DesiredInstanceCount"] == 1
    assert production["DeployedImages"][0]["SpecifiedImage"] == image
    assert sagemaker.list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"][0]["Value"] == "r1"
    listed = sagemaker.list_endpoints(StatusEquals="InService", NameContains=name)["Endpoints"]
    assert [item["EndpointName"] for item in listed] == [name]

    # THEN the container has what the contract says, and nothing of the machine's own secrets
    answer = invoke(runtime, name)
    assert answer["model"] == name
    assert answer["path"] == "/invocations"
    assert answer["files"] == ["model", "model/name.txt"]
    assert answer["environment"]["GREETING"] == "hello"
    assert answer["environment"]["SAGEMAKER_BIND_TO_HOST"] == "127.0.0.1"
    assert not [key for key in answer["environment"] if key.startswith("AWS_")]

    # WHEN configuration and model are deleted THEN it goes on serving
    sagemaker.delete_endpoint_config(EndpointConfigName=name)
    sagemaker.delete_model(ModelName=name)
    assert invoke(runtime, name)["model"] == name

    # WHEN it is deleted THEN its process ends and its name is free
    sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 1})
    assert not alive(answer["pid"])
    with pytest.raises(ClientError, match=f'Could not find endpoint "{ARN}:endpoint/{name}".'):
        sagemaker.describe_endpoint(EndpointName=name)
    with pytest.raises(ClientError, match=f"Endpoint {name} of account 000000000000 not found."):
        invoke(runtime, name)


def test_an_update_under_load_fails_no_request(sagemaker: Any, s3: Any, runtime: Any) -> None:
    # GIVEN an endpoint under load from four callers, one of them slow to be answered
    first_pid = invoke(runtime, make_endpoint(sagemaker, s3, "load")["EndpointName"])["pid"]
    make_config(sagemaker, s3, "load-2")
    stop, switched = threading.Event(), threading.Event()
    answers: list[tuple[bool, str]] = []  # sent after the update was seen, the model that answered
    failures: list[Exception] = []

    def call(body: bytes) -> None:
        while not stop.is_set():
            late = switched.is_set()
            try:
                answers.append((late, invoke(runtime, "load", body)["model"]))
            except ClientError as error:
                failures.append(error)

    callers = [threading.Thread(target=call, args=(body,)) for body in (b"a", b"b", b"c", b"slow")]
    for caller in callers:
        caller.start()
    try:
        # WHEN it is updated while they call, and they call on for a while
        wait_for("the first answers", lambda: len(answers) > 20)
        sagemaker.update_endpoint(EndpointName="load", EndpointConfigName="load-2")
        updated = settled(sagemaker, "load")
        switched.set()
        wait_for("answers after the update", lambda: sum(late for late, _ in answers) > 100)
        wait_for("the end of the old process", lambda: not alive(first_pid))
    finally:
        stop.set()
        for caller in callers:
            caller.join()

    # THEN every request was answered; those sent after the update by the new model alone
    assert failures == []
    assert updated["EndpointConfigName"] == "load-2"
    assert "load" in {model for late, model in answers if not late}
    assert {model for late, model in answers if late} == {"load-2"}


@pytest.mark.parametrize(
    "broken", [{"MODE": "broken"}, {"image": "unknown:1"}, {"data": "deleted"}], ids=lambda broken: min(broken)
)
def test_a_failing_update_keeps_the_old_one(
    sagemaker: Any, s3: Any, runtime: Any, server: Server, broken: dict[str, str]
) -> None:
    # GIVEN an endpoint, and a configuration that cannot come up
    name = f"keep-{min(broken).lower()}"
    make_endpoint(sagemaker, s3, name)
    if "data" in broken:
        make_config(sagemaker, s3, f"{name}-2")
        s3.delete_object(Bucket="models", Key=f"{name}-2/model.tar.gz")
    else:
        make_config(sagemaker, s3, f"{name}-2", **broken)

    # WHEN the endpoint is updated to it
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=f"{name}-2")
    endpoint = settled(sagemaker, name)

    # THEN it is in service as before, as on AWS without a reason; our log has it
    assert endpoint["EndpointStatus"] == "InService"
    assert endpoint["EndpointConfigName"] == name
    assert "FailureReason" not in endpoint
    assert invoke(runtime, name)["model"] == name
    assert f"Endpoint {name} could not be brought up" in server.log()

    # WHEN it is updated to a good one THEN that works
    make_config(sagemaker, s3, f"{name}-3")
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=f"{name}-3")
    assert settled(sagemaker, name)["EndpointConfigName"] == f"{name}-3"
    assert invoke(runtime, name)["model"] == f"{name}-3"


def test_a_container_that_ends_fails_the_endpoint(sagemaker: Any, s3: Any, runtime: Any, server: Server) -> None:
    # WHEN an endpoint is created whose container ends with an error
    endpoint = make_endpoint(sagemaker, s3, "broken", MODE="broken")

    # THEN SageMaker's reason comes with the end of the log
    assert endpoint["EndpointStatus"] == "Failed"
    reason = endpoint["FailureReason"]
    assert reason.startswith(
        "The primary container for production variant AllTraffic did not pass the ping health check. "
        "Please check CloudWatch logs for this endpoint."
    )
    assert "RuntimeError: the weights do not fit the network" in reason
    assert len(reason) <= 1024
    log = server.directory / "state" / "logs" / "endpoints" / "broken" / "AllTraffic.log"
    assert "loading broken" in log.read_text()
    with pytest.raises(ClientError, match=r"Endpoint broken of account 000000000000 not found\."):
        invoke(runtime, "broken")

    # WHEN it is updated THEN that is refused; deleting is possible
    with pytest.raises(ClientError, match="Cannot update failed endpoint"):
        sagemaker.update_endpoint(EndpointName="broken", EndpointConfigName="broken")
    sagemaker.delete_endpoint(EndpointName="broken")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="broken", WaiterConfig={"Delay": 1})


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"Image": "unknown:1"}, "The image 'unknown:1' for production variant AllTraffic does not exist"),
        ({"Image": "warm:1", "ModelDataUrl": "s3://models/text"}, "no gzipped tar file"),
    ],
)
def test_what_cannot_be_served_fails_with_its_cause(
    sagemaker: Any, s3: Any, container: dict[str, str], reason: str
) -> None:
    # GIVEN a model that cannot be served
    name = f"cause-{len(container)}"
    put_model_data(s3, name)
    s3.put_object(Bucket="models", Key="text", Body=b"not packed")
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant("AllTraffic", name)])

    # WHEN an endpoint is made of it THEN it fails and says why
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    endpoint = settled(sagemaker, name)
    assert endpoint["EndpointStatus"] == "Failed"
    assert reason in endpoint["FailureReason"]


def test_an_endpoint_under_way_is_left_alone(sagemaker: Any, s3: Any, server: Server) -> None:
    # GIVEN an endpoint that does not get ready
    make_config(sagemaker, s3, "waiting", MODE="unready")
    sagemaker.create_endpoint(EndpointName="waiting", EndpointConfigName="waiting")
    endpoint = sagemaker.describe_endpoint(EndpointName="waiting")
    assert endpoint["EndpointStatus"] == "Creating"
    assert endpoint["PendingDeploymentSummary"]["EndpointConfigName"] == "waiting"

    # WHEN it is updated or deleted THEN SageMaker's refusal comes back
    refusal = f'Cannot update in-progress endpoint "{ARN}:endpoint/waiting".'
    with pytest.raises(ClientError, match=refusal):
        sagemaker.update_endpoint(EndpointName="waiting", EndpointConfigName="waiting")
    with pytest.raises(ClientError, match=refusal):
        sagemaker.delete_endpoint(EndpointName="waiting")


def test_variants_share_the_requests_by_weight(sagemaker: Any, s3: Any, runtime: Any) -> None:
    # GIVEN an endpoint with a variant for all requests and one for none
    make_model(sagemaker, s3, "share-a")
    make_model(sagemaker, s3, "share-b")
    sagemaker.create_endpoint_config(
        EndpointConfigName="share",
        ProductionVariants=[variant("A", "share-a", 1.0), variant("B", "share-b", 0.0)],
    )
    sagemaker.create_endpoint(EndpointName="share", EndpointConfigName="share")
    assert settled(sagemaker, "share")["EndpointStatus"] == "InService"

    # WHEN it is called THEN the weights decide, unless the caller does
    assert {invoke(runtime, "share")["model"] for _ in range(20)} == {"share-a"}
    assert invoke(runtime, "share", TargetVariant="B")["model"] == "share-b"
    with pytest.raises(ClientError, match="Variant C of endpoint share") as raised:
        invoke(runtime, "share", TargetVariant="C")
    assert raised.value.response["Error"]["Code"] == "ValidationError"

    # WHEN it is updated and variant properties are retained THEN the live weights stay
    sagemaker.create_endpoint_config(
        EndpointConfigName="share-2",
        ProductionVariants=[variant("A", "share-a", 0.0), variant("B", "share-b", 1.0)],
    )
    deployment = {
        "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}}
    }
    sagemaker.update_endpoint(
        EndpointName="share",
        EndpointConfigName="share-2",
        RetainAllVariantProperties=True,
        DeploymentConfig=deployment,
    )
    endpoint = settled(sagemaker, "share")
    weights = {item["VariantName"]: item["CurrentWeight"] for item in endpoint["ProductionVariants"]}
    assert weights == {"A": 1.0, "B": 0.0}
    assert endpoint["LastDeploymentConfig"] == deployment


def test_a_model_package_can_be_served(sagemaker: Any, s3: Any, runtime: Any) -> None:
    # GIVEN a version in the registry
    sagemaker.create_model_package_group(ModelPackageGroupName="packed")
    container = {
        "Image": "warm:1",
        "ModelDataUrl": put_model_data(s3, "packed"),
        "Environment": {"A": "package", "B": "package"},
    }
    arn = sagemaker.create_model_package(
        ModelPackageGroupName="packed",
        ModelApprovalStatus="Approved",
        InferenceSpecification={
            "Containers": [container],
            "SupportedContentTypes": ["image/jpeg"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
    )["ModelPackageArn"]

    # WHEN a model names it
    sagemaker.create_model(
        ModelName="packed",
        ExecutionRoleArn=ROLE,
        Containers=[{"ModelPackageName": arn, "Environment": {"B": "model"}}],
    )
    sagemaker.create_endpoint_config(EndpointConfigName="packed", ProductionVariants=[variant("AllTraffic", "packed")])
    sagemaker.create_endpoint(EndpointName="packed", EndpointConfigName="packed")
    settled(sagemaker, "packed")

    # THEN the package's image, data and environment serve; the model's own environment wins
    answer = invoke(runtime, "packed")
    assert answer["model"] == "packed"
    assert (answer["environment"]["A"], answer["environment"]["B"]) == ("package", "model")


@pytest.mark.parametrize(
    ("data_type", "uri", "files"),
    [
        ("S3Prefix", "s3://models/plain/", ["model", "model/deep", "model/deep/more.txt", "model/name.txt"]),
        ("S3Object", "s3://models/plain/name.txt", ["model", "model/name.txt"]),
    ],
)
def test_uncompressed_model_data(
    sagemaker: Any, s3: Any, runtime: Any, data_type: str, uri: str, files: list[str]
) -> None:
    # GIVEN model data that is not packed
    put_model_data(s3, "packed-too")
    s3.put_object(Bucket="models", Key="plain/name.txt", Body=b"plain")
    s3.put_object(Bucket="models", Key="plain/deep/more.txt", Body=b"more")
    name = f"plain-{data_type.lower()}"
    source = {"S3Uri": uri, "S3DataType": data_type, "CompressionType": "None"}
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "warm:1", "ModelDataSource": {"S3DataSource": source}},
    )
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant("AllTraffic", name)])

    # WHEN an endpoint serves it THEN the files lie in the model folder as they are
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    settled(sagemaker, name)
    assert invoke(runtime, name)["files"] == files


@pytest.mark.parametrize(
    ("operation", "request_", "message"),
    [
        ("describe_endpoint", {"EndpointName": "no"}, f'Could not find endpoint "{ARN}:endpoint/no".'),
        ("delete_endpoint", {"EndpointName": "no"}, f'Could not find endpoint "{ARN}:endpoint/no".'),
        (
            "update_endpoint",
            {"EndpointName": "no", "EndpointConfigName": "no"},
            f'Could not find endpoint "{ARN}:endpoint/no".',
        ),
        (
            "create_endpoint",
            {"EndpointName": "no", "EndpointConfigName": "no"},
            f'Could not find endpoint configuration "{ARN}:endpoint-config/no".',
        ),
        (
            "describe_endpoint_config",
            {"EndpointConfigName": "no"},
            f'Could not find endpoint configuration "{ARN}:endpoint-config/no".',
        ),
        (
            "delete_endpoint_config",
            {"EndpointConfigName": "no"},
            f'Could not find endpoint configuration "{ARN}:endpoint-config/no".',
        ),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "c", "ProductionVariants": [variant("A", "no")]},
            f'Could not find model "{ARN}:model/no".',
        ),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "c", "ProductionVariants": [variant("A", "x"), variant("A", "x")]},
            "Variant names must be unique",
        ),
        (
            "create_endpoint_config",
            {"EndpointConfigName": "c", "ProductionVariants": [{"VariantName": "A"}]},
            "names no model",
        ),
        (
            "create_endpoint_config",
            {
                "EndpointConfigName": "c",
                "ProductionVariants": [variant("A", "x")],
                "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://models/out"}},
            },
            "does not support AsyncInferenceConfig",
        ),
        ("create_endpoint", {"EndpointName": "a_b", "EndpointConfigName": "c"}, "1 validation error detected"),
    ],
)
def test_a_bad_request_is_refused_in_sagemakers_words(
    sagemaker: Any, operation: str, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClientError, match=message) as raised:
        getattr(sagemaker, operation)(**request_)
    assert raised.value.response["Error"]["Code"] == "ValidationException"


def test_taken_names_are_refused(sagemaker: Any, s3: Any) -> None:
    # GIVEN an endpoint
    make_endpoint(sagemaker, s3, "taken")

    # WHEN its names are used again THEN SageMaker's refusals come back
    with pytest.raises(ClientError, match=f'Cannot create already existing endpoint "{ARN}:endpoint/taken".'):
        sagemaker.create_endpoint(EndpointName="taken", EndpointConfigName="taken")
    with pytest.raises(
        ClientError, match=r"Cannot create already existing endpoint configuration .*endpoint-config/taken"
    ):
        sagemaker.create_endpoint_config(
            EndpointConfigName="taken", ProductionVariants=[variant("AllTraffic", "taken")]
        )
    configs = sagemaker.list_endpoint_configs(NameContains="taken")["EndpointConfigs"]
    assert [config["EndpointConfigName"] for config in configs] == ["taken"]
    described = sagemaker.describe_endpoint_config(EndpointConfigName="taken")
    assert described["ProductionVariants"][0]["ModelName"] == "taken"


def test_a_crashed_container_is_started_again(sagemaker: Any, s3: Any, runtime: Any, server: Server) -> None:
    # GIVEN an endpoint
    make_endpoint(sagemaker, s3, "crash")
    before = invoke(runtime, "crash")["pid"]

    # WHEN its process dies over a request THEN that request's caller learns it
    with pytest.raises(runtime.exceptions.ModelError, match="the model process exited") as raised:
        invoke(runtime, "crash", b"crash")
    assert raised.value.response["OriginalStatusCode"] == 500

    # THEN the next one waits for the new process, and the log tells of it
    after = invoke(runtime, "crash")["pid"]
    assert after != before
    assert sagemaker.describe_endpoint(EndpointName="crash")["EndpointStatus"] == "InService"
    assert "The container of endpoint crash, variant AllTraffic, ended with code 3" in server.log()


def test_a_deletion_lets_requests_end(sagemaker: Any, s3: Any, runtime: Any, server: Server) -> None:
    # GIVEN a slow request that is being answered
    make_endpoint(sagemaker, s3, "ending")
    answers: list[dict[str, Any]] = []
    caller = threading.Thread(target=lambda: answers.append(invoke(runtime, "ending", b"slow")))
    caller.start()
    log = server.directory / "state" / "logs" / "endpoints" / "ending" / "AllTraffic.log"
    wait_for("the request", lambda: "a slow answer has begun" in log.read_text())

    # WHEN the endpoint is deleted THEN the request is answered all the same
    sagemaker.delete_endpoint(EndpointName="ending")
    caller.join()
    assert [answer["model"] for answer in answers] == ["ending"]


def test_nothing_is_left_on_disk(sagemaker: Any, s3: Any, server: Server) -> None:
    # GIVEN an endpoint that was updated
    make_endpoint(sagemaker, s3, "tidy")
    make_config(sagemaker, s3, "tidy-2")
    sagemaker.update_endpoint(EndpointName="tidy", EndpointConfigName="tidy-2")
    settled(sagemaker, "tidy")
    folder = Path(server.directory, "state", "endpoints", "tidy")
    wait_for("the removal of the old files", lambda: len(list(folder.iterdir())) == 1)

    # WHEN it is deleted THEN its files are gone
    sagemaker.delete_endpoint(EndpointName="tidy")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="tidy", WaiterConfig={"Delay": 1})
    assert not folder.exists()
