"""The real local cloud with the real package deployed; only the container programs are small ones.

Everything between an upload and a mail is the code that is deployed; `programs/` stands in for torch.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import httpx
from boto3.dynamodb.types import TypeDeserializer

from droptune.local_cloud import mailbox
from droptune.local_cloud.lifecycle import LocalCloud
from droptune.local_cloud.processes import write_json
from droptune.local_cloud.settings import Settings

FROM_DYNAMODB = TypeDeserializer().deserialize
PROGRAMS = Path(__file__).parent / "programs"


class SmallCloud(LocalCloud):
    """A local cloud whose images hold the programs of these tests, and whose Decode runs on two machines."""

    def _write_images(self) -> None:
        image = {"program": str(PROGRAMS), "train": ["train.py"], "serve": ["serve.py"], "preload": []}
        write_json(self.home / "images.json", {"droptune-training": image, "droptune-serving": image})

    def _parameters(self, settings: Settings) -> dict[str, str]:
        return {**super()._parameters(settings), "ProcessingInstanceCount": "2"}


class LocalSystem:
    """What the tests do to a deployed stack, and what they look at."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.cloud = cloud
        self.session: boto3.Session = cloud.session()
        self.bucket = cloud.environment()["DROPTUNE_BUCKET"]
        self.api = httpx.Client(base_url=cloud.environment()["DROPTUNE_API_URL"], timeout=60, trust_env=False)
        stack = self.session.client("cloudformation").describe_stacks(StackName="droptune")["Stacks"][0]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def upload(self, key: str, body: bytes = b"image") -> None:
        """Put one object, as a user does."""
        self.session.client("s3").put_object(Bucket=self.bucket, Key=key, Body=body)

    def upload_classes(self, dataset: str, *classes: str, images: int = 3, start: int = 0) -> None:
        """Put `images` files into each class folder of a dataset, and the marker that no more come."""
        for label in classes:
            for number in range(start, start + images):
                self.upload(f"datasets/{dataset}/{label}/{number}.jpg", f"{label}{number}".encode())
        self.upload(f"datasets/{dataset}/_READY")

    def runs(self, dataset: str) -> list[dict[str, Any]]:
        """The runs of a dataset, newest first, as the API shows them."""
        answer = self.api.get("/runs", params={"dataset": dataset})
        assert answer.status_code == 200, answer.text
        runs: list[dict[str, Any]] = answer.json()["runs"]
        return runs

    def ended_runs(self, dataset: str, count: int) -> list[dict[str, Any]]:
        """Wait until a dataset has `count` runs that have all ended, and its lock is free."""

        def ended() -> list[dict[str, Any]] | None:
            runs = self.runs(dataset)
            done = len(runs) >= count and all(run["status"] != "RUNNING" for run in runs)
            return runs if done and "run" not in self.dataset_item(dataset) else None

        found: list[dict[str, Any]] = wait_for(f"{count} ended runs of {dataset}", ended)
        return found

    def dataset_item(self, dataset: str) -> dict[str, Any]:
        """The dataset's item in DynamoDB."""
        answer = self.session.client("dynamodb").get_item(
            TableName=self.outputs["DatasetsTable"], Key={"dataset": {"S": dataset}}, ConsistentRead=True
        )
        return {name: FROM_DYNAMODB(value) for name, value in answer.get("Item", {}).items()}

    def mails(self, beginning: str) -> list[mailbox.Message]:
        """The mails whose subject begins with `beginning`."""
        return [mail for mail in mailbox.messages(self.cloud.home / "mail") if mail.subject.startswith(beginning)]

    def document(self, key: str) -> Any:
        """A JSON object of the bucket."""
        return json.load(self.session.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"])

    def lines(self, key: str) -> list[dict[str, Any]]:
        """A JSON Lines object of the bucket."""
        body = self.session.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return [json.loads(line) for line in body.decode().splitlines()]

    def keys(self, prefix: str, suffix: str) -> list[str]:
        """The keys of the bucket's objects that begin and end so."""
        pages = self.session.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        found = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [key for key in found if key.endswith(suffix)]


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 90) -> Any:
    """Poll until `condition` gives a value, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds} s")
