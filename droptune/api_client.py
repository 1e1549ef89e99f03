"""`droptune.Client`: label images with a running system from Python.

from droptune import Client

with Client("http://127.0.0.1:4567") as client:
    print(client.predict("pets", "photo.jpg")["predictions"][0]["label"])
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast
from urllib.parse import quote

from droptune.errors import OperationFailed, UsageError
from droptune.http_api import HttpApi

# What a request may hold (docs/reference/http-api.md); a larger image goes to S3 first.
MAX_REQUEST_BYTES = 4_500_000
POLL_SECONDS = 0.5

Status = Literal["RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"]
Image = str | Path | bytes | Mapping[str, str]
"""An image: the path of a file, its bytes, or `{"s3": key}` or `{"url": address}`."""


class Score(TypedDict):
    """A label and how sure the model is of it, from 0 to 1."""

    label: str
    score: float


class Prediction(TypedDict):
    """The labels of one image, best first; with `embedding` its features, with `explain` a PNG in base64."""

    predictions: list[Score]
    model_version: int
    dataset: str
    embedding: NotRequired[list[float]]
    heatmap: NotRequired[str]


class Refusal(TypedDict):
    """What is wrong, and the next step."""

    code: str
    message: str
    hint: str


class Result(TypedDict):
    """One image of several: its labels, or why it has none."""

    image: str
    predictions: NotRequired[list[Score]]
    error: NotRequired[Refusal]


class Bulk(TypedDict):
    """How far a prediction in the background has come; the links of a done one work for minutes."""

    id: str
    dataset: str
    prefix: str
    top_k: int
    status: Status
    started_at: str
    ended_at: str | None
    images: int | None
    labelled: int
    failed: int | None
    results_url: str | None
    csv_url: str | None
    error: Refusal | None


class Model(TypedDict):
    """A version of a dataset's models; `accuracy` is of the test images, from 0 to 1."""

    version: int
    status: str
    accuracy: float | None
    run: str | None
    created_at: str


class Models(TypedDict):
    """A page of a dataset's models, newest first, and which of all is live."""

    dataset: str
    live: int | None
    models: list[Model]
    next: str | None


class Release(TypedDict):
    """A model on its way to being live."""

    id: str
    dataset: str
    version: int
    status: Status
    started_at: str
    ended_at: str | None
    error: Refusal | None


class Client(HttpApi):
    """A running system's API. Every method raises `droptune.errors.ApiError` when the API refuses, and
    `droptune.errors.NotRunning` when it does not answer.

    Args:
        api_url: `DROPTUNE_API_URL` of `droptune env`, or the stack's output `ApiUrl`.
    """

    def predict(
        self,
        dataset: str,
        image: Image,
        *,
        top_k: int = 3,
        explain: bool = False,
        embedding: bool = False,
        model_version: int | None = None,
    ) -> Prediction:
        """Returns the labels of one image. A file that is too large for a request goes by way of S3.

        Raises:
            UsageError: the file cannot be read.
        """
        query = _query(top_k=top_k, explain=explain, embedding=embedding, model_version=model_version)
        path = f"/predict/{quote(dataset, safe='')}"
        source = self._source(image)
        if isinstance(source, bytes):
            headers = {"Content-Type": "application/x-image", "Accept": "application/json"}
            response = self._request("POST", path, params=query, content=source, headers=headers)
        else:
            response = self._request("POST", path, params=query, json=dict(source))
        return cast(Prediction, response.json())

    def predict_many(self, dataset: str, images: Iterable[Image], *, top_k: int = 3) -> list[Result]:
        """Returns the labels of up to 16 images, in their order; what is wrong with one is in its own result.

        Raises:
            UsageError: a file cannot be read.
        """
        sources = [self._source(image) for image in images]
        room = MAX_REQUEST_BYTES
        documents: list[dict[str, str]] = []
        for source in sources:
            if isinstance(source, bytes) and len(source) * 4 // 3 + 100 > room:
                source = {"s3": self._upload(source)}
            if isinstance(source, bytes):
                room -= len(source) * 4 // 3 + 100
                documents.append({"base64": base64.b64encode(source).decode()})
            else:
                documents.append(dict(source))
        body = {"images": documents, "top_k": top_k}
        answer = self._request("POST", f"/predict/{quote(dataset, safe='')}", json=body).json()
        return cast(list[Result], answer["results"])

    def predict_prefix(self, dataset: str, prefix: str, *, top_k: int = 3) -> Bulk:
        """Begins to label all images below an S3 prefix of the stack's bucket, in the background."""
        body = {"dataset": dataset, "prefix": prefix, "top_k": top_k}
        return cast(Bulk, self._request("POST", "/predictions", json=body).json())

    def prediction(self, prediction: str) -> Bulk:
        """Returns how far a prediction in the background has come."""
        return cast(Bulk, self._get(f"/predictions/{quote(prediction, safe='')}"))

    def wait_for_prediction(self, prediction: str, *, seconds: float = 3600) -> Bulk:
        """Waits until a prediction in the background has ended, well or badly, and returns it.

        Raises:
            OperationFailed: it takes longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while (found := self.prediction(prediction))["status"] == "RUNNING":
            _pause(deadline, f"Prediction {prediction}")
        return found

    def give_feedback(self, dataset: str, label: str, image: Image | None = None, **said: Any) -> dict[str, Any]:
        """Says the right label of an image; `said` may hold `predicted`, `model_version` and `comment`.

        Raises:
            UsageError: the file cannot be read, or the image is named by a URL.
        """
        body: dict[str, Any] = {"dataset": dataset, "label": label, **said}
        if image is not None:
            source = self._source(image)
            if isinstance(source, bytes):
                body["base64"] = base64.b64encode(source).decode()
            elif "s3" in source:
                body["s3"] = source["s3"]
            else:
                raise UsageError("Feedback takes a file, bytes or an S3 key.", hint="Fetch the image first.")
        return cast(dict[str, Any], self._request("POST", "/feedback", json=body).json())

    def models(self, dataset: str, limit: int = 25) -> Models:
        """Returns the newest models of a dataset, and which version is live."""
        return cast(Models, self._get(f"/models/{quote(dataset, safe='')}", {"limit": limit}))

    def approve(self, dataset: str, version: int) -> Release:
        """Begins to make a model live, whatever the gate said of it."""
        return self._release(dataset, version, "approve")

    def roll_back(self, dataset: str, version: int) -> Release:
        """Begins to make an approved model live again."""
        return self._release(dataset, version, "rollback")

    def release(self, release: str) -> Release:
        """Returns how far a release has come."""
        return cast(Release, self._get(f"/releases/{quote(release, safe='')}"))

    def wait_for_release(self, release: str, *, seconds: float = 3600) -> Release:
        """Waits until a release has ended, well or badly, and returns it.

        Raises:
            OperationFailed: it takes longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while (found := self.release(release))["status"] == "RUNNING":
            _pause(deadline, f"Release {release}")
        return found

    def _release(self, dataset: str, version: int, way: str) -> Release:
        return cast(Release, self._request("POST", f"/models/{quote(dataset, safe='')}/{version}/{way}").json())

    def _source(self, image: Image) -> bytes | Mapping[str, str]:
        if isinstance(image, Mapping):
            return image
        body = image if isinstance(image, bytes) else _read(Path(image))
        return {"s3": self._upload(body)} if len(body) > MAX_REQUEST_BYTES else body

    def _upload(self, image: bytes) -> str:
        place = self._request("POST", "/predictions/uploads", json={"bytes": len(image)}).json()
        answer = self._http.request(place["method"], place["url"], content=image)
        if answer.is_error:
            raise OperationFailed(
                "The image could not be uploaded.",
                why=f"Storage answered {answer.status_code}.",
                hint="Try again, or send a smaller image.",
            )
        return str(place["s3"])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} could not be read.", why=f"{error.strerror}.", hint="Check the path.", code="NoSuchPath"
        ) from error


def _query(**given: Any) -> dict[str, str]:
    # What is not asked for is not sent: an older API does not know it.
    return {name: str(value).lower() for name, value in given.items() if value not in (None, False)}


def _pause(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise OperationFailed(f"{what} still runs.", hint="Wait longer: it goes on by itself.", code="StillRunning")
    time.sleep(POLL_SECONDS)
