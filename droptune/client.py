"""The commands' way to a running system: AWS clients for its endpoint, and its HTTP API.

Both speak to whatever `environment` names. Nothing of the user's own AWS configuration (profiles,
endpoint overrides, proxies) takes part, so that a command for a local system can never reach an account.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, Self, TypedDict, cast
from urllib.parse import quote

from droptune.errors import ApiError, DroptuneError, NotFound, NotRunning, OperationFailed

if TYPE_CHECKING:
    import httpx

STACK = "droptune"
# A local endpoint answers in milliseconds; a first request after a start may import torch.
API_TIMEOUT_SECONDS = 60
# The API's next steps speak of requests; whoever types commands is told the command.
HINTS = {
    "UnknownRun": "List the runs with `droptune runs`.",
    "UnknownDataset": "Check the spelling, or make it with `droptune drop FOLDER --dataset NAME`.",
    "NoLiveModel": "The first run that succeeds brings a model live: see `droptune runs` and `droptune watch`.",
    "UnsupportedMediaType": "Save it as JPEG, PNG or WebP.",
    "InternalError": "Try again. If it stays, read the files in the folder `logs` of the state directory.",
}


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


class Prediction(TypedDict):
    """The API's answer for one image; predictions come best first, scores are 0 to 1."""

    predictions: list[dict[str, Any]]
    model_version: int
    dataset: str


class Cloud:
    """A running droptune system; as a context manager it closes its connections at the end.

    Args:
        environment: the document of `droptune env --json`.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.bucket = environment["DROPTUNE_BUCKET"]
        self.api_url = environment["DROPTUNE_API_URL"].rstrip("/")

    @classmethod
    def connect(cls, home: Path) -> Cloud:
        """Returns the local cloud whose state lies in `home`.

        Raises:
            NotRunning: it is down.
        """
        from droptune.local_cloud.lifecycle import LocalCloud

        return cls(LocalCloud(home).environment())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        for name in ("s3", "stepfunctions", "sagemaker", "_http"):
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

    def _get(self, path: str, parameters: dict[str, str | int] | None = None) -> Any:
        return self._request("GET", path, params=parameters).json()

    @cached_property
    def _http(self) -> httpx.Client:
        import httpx

        return httpx.Client(timeout=API_TIMEOUT_SECONDS, trust_env=False)

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        import httpx

        url = self.api_url + path
        try:
            response = self._http.request(method, url, **arguments)
        except httpx.TimeoutException as error:
            raise OperationFailed(
                f"{url} gave no answer within {API_TIMEOUT_SECONDS} seconds.",
                hint="Look at the services with `droptune status`.",
                code="ApiTimeout",
            ) from error
        except httpx.TransportError as error:
            raise NotRunning(f"The API at {self.api_url} does not answer.", why=f"{error}.") from error
        # A redirect has left the API: its target does not speak the API's error document.
        if response.is_error and not response.history:
            raise _api_error(response)
        return response

    def _client(self, service: str) -> Any:
        from droptune.local_cloud.session import LocalSession

        return LocalSession(self._environment["AWS_ENDPOINT_URL"]).client(service)


def _api_error(response: httpx.Response) -> ApiError:
    try:
        error = response.json()["error"]
        code, message, hint = error["code"], error["message"], error["hint"]
    except (ValueError, KeyError, TypeError):
        return ApiError(
            f"{response.request.method} {response.request.url} answered {response.status_code}.",
            why=response.text[:200] or None,
            hint="Look at the services with `droptune status`.",
            code="UnexpectedAnswer",
            status=response.status_code,
        )
    return ApiError(message, hint=HINTS.get(code, hint), code=code, status=response.status_code)


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
