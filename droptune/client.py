"""The commands' way to a running system: AWS clients for its endpoint, and its HTTP API.

Both speak to whatever `environment` names. Nothing of the user's own AWS configuration (profiles,
endpoint overrides, proxies) takes part, so that a command for a local system can never reach an account.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast
from urllib.parse import quote

from droptune.errors import DroptuneError, NotFound, NotRunning, OperationFailed
from droptune.http_api import HttpApi

STACK = "droptune"


class State(TypedDict):
    """A state of a run as `GET /runs/{id}` gives it; times are ISO 8601 in UTC."""

    name: str
    status: str
    started_at: str
    ended_at: str | None


class Run(TypedDict):
    """A run as the HTTP API gives it; times are ISO 8601 in UTC, `accuracy` is of the test split, 0 to 1."""

    id: str
    dataset: str
    status: str
    verdict: str | None
    started_at: str
    ended_at: str | None
    dataset_version: int | None
    model_version: int | None
    accuracy: float | None
    error: dict[str, str] | None
    states: NotRequired[list[State]]


class Settings(TypedDict):
    """How long a dataset's uploads are waited for, in seconds; None: as `defaults`, the stack's, say."""

    quiet_seconds: int | None
    max_wait_seconds: int | None
    defaults: dict[str, int]


class Dataset(TypedDict):
    """A dataset as `GET /datasets` gives it; `objects` and `bytes` are of its newest version."""

    name: str
    versions: int
    newest_version: int | None
    live_version: int | None
    objects: int | None
    bytes: int | None
    last_upload_at: str | None
    run: str | None
    settings: Settings


class Version(TypedDict):
    """A dataset version as the API gives it; the last four only by `GET /datasets/{name}/versions/{v}`."""

    version: int
    parent: int | None
    content_hash: str
    objects: int
    bytes: int
    added: int
    removed: int
    changed: int
    sealed_at: str
    images: int | None
    quarantined: int | None
    suspected_labels: int | None
    duplicates: int | None
    diff: NotRequired[dict[str, Any] | None]
    doctor: NotRequired[dict[str, Any] | None]
    manifest_url: NotRequired[str | None]
    doctor_url: NotRequired[str | None]


class Prediction(TypedDict):
    """The API's answer for one image; predictions come best first, scores are 0 to 1."""

    predictions: list[dict[str, Any]]
    model_version: int
    dataset: str


class Cloud(HttpApi):
    """A running droptune system; as a context manager it closes its connections at the end.

    Args:
        environment: the document of `droptune env --json`.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.bucket = environment["DROPTUNE_BUCKET"]
        super().__init__(environment["DROPTUNE_API_URL"])

    @classmethod
    def connect(cls, home: Path) -> Cloud:
        """Returns the local cloud whose state lies in `home`.

        Raises:
            NotRunning: it is down.
        """
        from droptune.local_cloud.lifecycle import LocalCloud

        return cls(LocalCloud(home).environment())

    def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        super().close()
        for name in ("s3", "stepfunctions", "sqs", "sagemaker"):
            client = self.__dict__.pop(name, None)
            if client is not None:
                client.close()

    @cached_property
    def s3(self) -> Any:
        """The S3 client; safe to share between threads."""
        return self._client("s3")

    @cached_property
    def stepfunctions(self) -> Any:
        """The Step Functions client."""
        return self._client("stepfunctions")

    @cached_property
    def sqs(self) -> Any:
        """The SQS client."""
        return self._client("sqs")

    @cached_property
    def sagemaker(self) -> Any:
        """The SageMaker client."""
        return self._client("sagemaker")

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The stack's outputs by name.

        Raises:
            NotRunning: the stack is not deployed.
        """
        from botocore.exceptions import ClientError

        try:
            stacks = self._client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            stacks = []
        if not stacks:
            raise NotRunning(f"The stack '{STACK}' is not deployed.", hint="Deploy it with `droptune up`.")
        return {output["OutputKey"]: output["OutputValue"] for output in stacks[0].get("Outputs", [])}

    def execution_arn(self, run: str) -> str:
        """Returns the ARN of a run's Step Functions execution, which has the run's name."""
        return self.outputs["StateMachineArn"].replace(":stateMachine:", ":execution:") + f":{run}"

    def runs(self, dataset: str | None = None, limit: int = 20) -> list[Run]:
        """Returns runs, newest first.

        Raises:
            ApiError: the API refused.
            NotRunning: the API does not answer.
        """
        parameters: dict[str, str | int] = {"limit": limit}
        if dataset is not None:
            parameters["dataset"] = dataset
        return cast(list[Run], self._get("/runs", parameters)["runs"])

    def run(self, run: str) -> Run:
        """Returns one run with its states.

        Raises:
            ApiError: there is no such run (`UnknownRun`), or the API refused.
            NotRunning: the API does not answer.
        """
        return cast(Run, self._get(f"/runs/{quote(run, safe='')}"))

    def newest_run(self, dataset: str | None = None) -> Run | None:
        """Returns the newest run, or None where there is none yet."""
        return next(iter(self.runs(dataset, limit=1)), None)

    def report(self, run: str) -> bytes:
        """Returns a run's report, an HTML document.

        Raises:
            ApiError: there is no such run, or it has no report (it ended before Evaluate).
            NotFound: the run names a report that storage no longer holds.
            NotRunning: the API does not answer.
        """
        response = self._request("GET", f"/runs/{quote(run, safe='')}/report", follow_redirects=True)
        if response.is_error:
            raise NotFound(
                f"The report of run '{run}' could not be read.",
                why=f"Storage answered {response.status_code}.",
                hint=f"See what became of the run with `droptune watch {run}`.",
            )
        return response.content

    def datasets(self) -> list[Dataset]:
        """Returns all datasets, by name.

        Raises:
            ApiError: the API refused.
            NotRunning: the API does not answer.
        """
        found: list[Dataset] = []
        parameters: dict[str, str | int] = {"limit": 100}
        while True:
            page = self._get("/datasets", parameters)
            found += page["datasets"]
            if not page["next"]:
                return found
            parameters["next"] = page["next"]

    def dataset(self, name: str) -> Dataset:
        """Returns one dataset.

        Raises:
            ApiError: there is no such dataset (`UnknownDataset`), or the API refused.
            NotRunning: the API does not answer.
        """
        return cast(Dataset, self._get(f"/datasets/{quote(name, safe='')}"))

    def versions(self, dataset: str, limit: int) -> list[Version]:
        """Returns the newest versions of a dataset, newest first.

        Raises:
            ApiError: there is no such dataset, or the API refused.
            NotRunning: the API does not answer.
        """
        return cast(
            list[Version], self._get(f"/datasets/{quote(dataset, safe='')}/versions", {"limit": limit})["versions"]
        )

    def version(self, dataset: str, version: int) -> Version:
        """Returns one version, with its difference and the data doctor's findings.

        Raises:
            ApiError: there is no such dataset or version (`UnknownVersion`), or the API refused.
            NotRunning: the API does not answer.
        """
        return cast(Version, self._get(f"/datasets/{quote(dataset, safe='')}/versions/{version}"))

    def doctor_url(self, dataset: str, version: int) -> str:
        """Returns the lasting address of the data doctor's page."""
        return f"{self.api_url}/datasets/{quote(dataset, safe='')}/versions/{version}/doctor"

    def doctor_page(self, dataset: str, version: int) -> bytes:
        """Returns the data doctor's page, an HTML document.

        Raises:
            ApiError: there is no such version, or its Prepare has not written the page (`NotFound`).
            NotFound: the version names a page that storage no longer holds.
            NotRunning: the API does not answer.
        """
        path = self.doctor_url(dataset, version).removeprefix(self.api_url)
        response = self._request("GET", path, follow_redirects=True)
        if response.is_error:
            raise NotFound(
                f"The data doctor's page of version {version} of '{dataset}' could not be read.",
                why=f"Storage answered {response.status_code}.",
                hint=f"The next run on '{dataset}' writes a new one.",
            )
        return response.content

    def change_settings(self, dataset: str, settings: Mapping[str, int | None]) -> Settings:
        """Changes what is named in `settings`, and returns them all; None goes back to the stack's.

        Raises:
            ApiError: there is no such dataset, or a value is out of range.
            NotRunning: the API does not answer.
        """
        path = f"/datasets/{quote(dataset, safe='')}/settings"
        return cast(Settings, self._request("PUT", path, json=dict(settings)).json())

    def predict(self, dataset: str, image: bytes, content_type: str, top_k: int) -> Prediction:
        """Classifies one image with the dataset's live model.

        Raises:
            ApiError: the API refused the image, or the dataset has no live model.
            NotRunning: the API does not answer.
        """
        response = self._request(
            "POST",
            f"/predict/{quote(dataset, safe='')}",
            params={"top_k": top_k},
            content=image,
            # JSON is asked for by name: API Gateway treats an answer to `*/*` as binary.
            headers={"Content-Type": content_type, "Accept": "application/json"},
        )
        return cast(Prediction, response.json())

    def live_datasets(self) -> list[str]:
        """Returns the datasets that have an endpoint in service, sorted."""
        prefix = f"{STACK}-"
        pages = self.sagemaker.get_paginator("list_endpoints").paginate(NameContains=prefix, StatusEquals="InService")
        names = [endpoint["EndpointName"] for page in pages for endpoint in page["Endpoints"]]
        return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))

    def _client(self, service: str) -> Any:
        from droptune.local_cloud.session import LocalSession

        return LocalSession(self._environment["AWS_ENDPOINT_URL"]).client(service)


def translated(error: Exception) -> DroptuneError | None:
    """Returns the operator's error for an AWS client's exception, or None for any other exception."""
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError  # noqa: A004

    if isinstance(error, HTTPClientError | ConnectionError):
        return NotRunning("The local cloud does not answer.", why=str(error))
    if isinstance(error, ClientError):
        detail = error.response["Error"]
        return OperationFailed(
            f"{error.operation_name} failed: {detail.get('Message') or detail['Code']}",
            hint="Look at the services with `droptune status`; `droptune up` repairs a deployment.",
            code=detail["Code"],
        )
    if isinstance(error, BotoCoreError | S3UploadFailedError):
        return OperationFailed(str(error), hint="Look at the services with `droptune status`.")
    return None
