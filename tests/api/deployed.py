"""The deployed API in a local cloud of its own, with models that were registered and released by hand."""

import base64
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import httpx

from droptune.local_cloud.lifecycle import LocalCloud
from droptune.local_cloud.processes import write_json
from tests.state_machine.local_system import wait_for

PROGRAMS = Path(__file__).parent / "programs"
ROLE = "arn:aws:iam::000000000000:role/endpoint"
DATASET = "pets"
CLASSES = ["bird", "cat", "dog", "fish"]


class SmallCloud(LocalCloud):
    """A local cloud whose serving image is the program of these tests."""

    def _write_images(self) -> None:
        image = {"program": str(PROGRAMS), "train": ["serve.py"], "serve": ["serve.py"], "preload": []}
        write_json(self.home / "images.json", {"droptune-training": image, "droptune-serving": image})


class System:
    """What the tests do to the deployed API, and to what lies behind it."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.cloud = cloud
        self.session: boto3.Session = cloud.session()
        environment = cloud.environment()
        self.bucket = environment["DROPTUNE_BUCKET"]
        self.url = environment["DROPTUNE_API_URL"]
        self.api = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self.s3 = self.session.client("s3")
        self.sagemaker = self.session.client("sagemaker")

    def put(self, key: str, body: bytes) -> str:
        """Put one object, and return its key."""
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        return key

    def document(self, key: str) -> Any:
        """A JSON object of the bucket."""
        return json.load(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"])

    def register(
        self, run: str, approval: str, *, classes: list[str] = CLASSES, sample: str = "cat", **model: Any
    ) -> int:
        """Register a model as the workflow does, with what a release verifies it by, and return its version.

        With `constant` the model calls every image by the first of `classes`, else by what the image's bytes decide.
        `sample` is what the evaluation says of the sample.
        """
        packed = io.BytesIO()
        content = json.dumps({"classes": classes, **model}).encode()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            member = tarfile.TarInfo("model.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        key = self.put(f"runs/{DATASET}/{run}/retrain/{run}-retrain/output/model.tar.gz", packed.getvalue())
        evaluation = {"accuracy": 0.9, "sample": {"file": "cat/1.jpg", "label": sample}}
        self.put(f"runs/{DATASET}/{run}/evaluation/evaluation.json", json.dumps(evaluation).encode())
        self.put(f"runs/{DATASET}/{run}/evaluation/sample.jpg", b"sample")
        groups = self.sagemaker.list_model_package_groups()["ModelPackageGroupSummaryList"]
        if not groups:
            self.sagemaker.create_model_package_group(ModelPackageGroupName=f"droptune-{DATASET}")
        container = {"Image": self._image(), "ModelDataUrl": f"s3://{self.bucket}/{key}"}
        arn: str = self.sagemaker.create_model_package(
            ModelPackageGroupName=f"droptune-{DATASET}",
            ModelApprovalStatus=approval,
            InferenceSpecification={"Containers": [container], "SupportedContentTypes": ["image/jpeg"]},
            CustomerMetadataProperties={"dataset": DATASET, "run": run, "accuracy": "0.9", "dataset_version": "1"},
        )["ModelPackageArn"]
        return int(arn.rpartition("/")[2])

    def release(self, run: str, version: int) -> None:
        """Make a registered model live as the workflow does."""
        key = f"runs/{DATASET}/{run}/retrain/{run}-retrain/output/model.tar.gz"
        container = {"Image": self._image(), "ModelDataUrl": f"s3://{self.bucket}/{key}"}
        self.sagemaker.create_model(ModelName=run, ExecutionRoleArn=ROLE, PrimaryContainer=container)
        variant = {"VariantName": "AllTraffic", "ModelName": run, "InitialInstanceCount": 1}
        self.sagemaker.create_endpoint_config(
            EndpointConfigName=run,
            ProductionVariants=[variant | {"InstanceType": "ml.m5.large", "InitialVariantWeight": 1}],
            Tags=[{"Key": "droptune:model-version", "Value": str(version)}],
        )
        self.sagemaker.create_endpoint(EndpointName=f"droptune-{DATASET}", EndpointConfigName=run)
        wait_for("the endpoint", lambda: self.endpoint()["EndpointStatus"] == "InService")

    def endpoint(self) -> dict[str, Any]:
        """The dataset's endpoint, as SageMaker describes it."""
        description: dict[str, Any] = self.sagemaker.describe_endpoint(EndpointName=f"droptune-{DATASET}")
        return description

    def _image(self) -> str:
        return str(json.loads(self.environment("api")["DROPTUNE_CONFIG"])["serving_image"])

    def environment(self, function: str) -> dict[str, str]:
        """The environment that the template gives a function."""
        configuration = self.session.client("lambda").get_function_configuration(FunctionName=f"droptune-{function}")
        variables: dict[str, str] = configuration["Environment"]["Variables"]
        return variables


@dataclass(frozen=True)
class Answer:
    """What the function answers; `text` is the body, binary or not."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)


class Handler:
    """The function of the API in this process, called as API Gateway calls it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request."""
        resource, parameters = self._route(path)
        event = {
            "resource": resource,
            "path": path,
            "httpMethod": method,
            "headers": {name.lower(): value for name, value in (headers or {}).items()},
            "multiValueHeaders": {name.lower(): [value] for name, value in (headers or {}).items()},
            "multiValueQueryStringParameters": {name: [value] for name, value in (query or {}).items()} or None,
            "pathParameters": parameters,
            "stageVariables": None,
            "requestContext": {"resourcePath": resource, "httpMethod": method, "path": f"/api{path}"},
            "body": base64.b64encode(body).decode(),
            "isBase64Encoded": True,
        }
        answer = self.app(event, SimpleNamespace(aws_request_id="request-1"))
        headers_ = {name.lower(): str(value) for name, value in answer["headers"].items()}
        headers_ |= {name.lower(): value[0] for name, value in (answer.get("multiValueHeaders") or {}).items()}
        return Answer(answer["statusCode"], headers_, answer["body"])

    def _route(self, path: str) -> tuple[str, dict[str, str]]:
        wanted = path.split("/")
        # A part that is written out goes before a parameter, as in API Gateway.
        for resource in sorted(self.app.routes, key=lambda known: known.count("{")):
            parts = resource.split("/")
            pairs = list(zip(parts, wanted, strict=False))
            if len(parts) == len(wanted) and all(part == given or part.startswith("{") for part, given in pairs):
                return resource, {part.strip("{}"): given for part, given in pairs if part.startswith("{")}
        return "/{proxy+}", {"proxy": path.lstrip("/")}
