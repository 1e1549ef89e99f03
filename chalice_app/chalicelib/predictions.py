"""``POST /predict/{dataset}``: images in, labels and scores out."""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError

from chalicelib import config, models, names, prediction_uploads
from chalicelib.errors import (
    ExplainUnavailable,
    ImageTooLarge,
    InvalidImage,
    InvalidParameter,
    ModelNotLive,
    ModelUnavailable,
    Overloaded,
    RequestError,
    UnsupportedMediaType,
)
from chalicelib.image_sources import Image
from chalicelib.models import LiveModel, require_live_model
from chalicelib.prediction_requests import PredictionRequest, read_request

# Lambda takes 6 MB of a request, in which API Gateway has written a binary body as base64: 4/3 of its size
# (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html). A larger one is refused by API Gateway
# itself from about 4.7 MB on, without a word from here: this limit leaves room to answer with a signed upload.
MAX_REQUEST_BYTES = 4_500_000
# How long a warm function may name a model version that a release has just replaced.
LIVE_MODEL_SECONDS = 5.0
# The endpoint puts concurrent requests into one batch; more at a time only hold more images in memory.
THREADS = 4
# What of the endpoint's refusals is the image's own fault, by the endpoint's code.
IMAGE_REFUSALS: dict[str, type[RequestError]] = {
    "InvalidImage": InvalidImage,
    "InvalidParameter": InvalidParameter,
    "ImageTooLarge": ImageTooLarge,
    "UnsupportedMediaType": UnsupportedMediaType,
    "ExplainUnavailable": ExplainUnavailable,
    "Overloaded": Overloaded,
}

_live_models: dict[str, tuple[float, LiveModel]] = {}


def predict(dataset: str, body: bytes, content_type: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Ask the dataset's live model for the labels of one image or of several.

    Args:
        dataset: the dataset.
        body: the bytes of the request, in one of the forms of `read_request`.
        content_type: the form, and for a raw image its type.
        query: ``top_k``, ``explain``, ``embedding`` and ``model_version``, as text.

    Returns ``{"predictions", "model_version", "dataset"}`` for one image; for a list
    ``{"results": [{"image", "predictions"} or {"image", "error"}], "model_version", "dataset"}``: what is wrong with
    one image keeps no other from its answer.

    Raises UnsupportedMediaType, EmptyBody, InvalidParameter, ImageTooLarge, UnknownDataset, UnknownModel,
    ModelNotLive, NoLiveModel, ModelUnavailable; for one image also what is wrong with it.
    """
    if len(body) > MAX_REQUEST_BYTES:
        raise prediction_uploads.too_large(dataset, len(body), MAX_REQUEST_BYTES)
    request = read_request(body, content_type, query)
    live = _live_model(dataset)
    require_version(dataset, request.model_version, live.version)
    answered_by = {"model_version": live.version, "dataset": dataset}
    if request.single:
        return _ask(dataset, request.images[0], request) | answered_by
    with ThreadPoolExecutor(max_workers=min(THREADS, len(request.images))) as threads:
        results = list(threads.map(lambda image: _ask_safely(dataset, image, request), request.images))
    return {"results": results} | answered_by


def require_version(dataset: str, wanted: int | None, live: int) -> None:
    """Raise UnknownModel or ModelNotLive unless `wanted` is None or the live version."""
    if wanted is None or wanted == live:
        return
    model = models.find_model(dataset, wanted)
    if model["status"] != "Approved":
        raise ModelNotLive(
            f"Version {wanted} of dataset '{dataset}' is not live, and not approved.",
            f"Version {live} is live. POST /models/{dataset}/{wanted}/approve makes version {wanted} live.",
        )
    raise ModelNotLive(
        f"Version {wanted} of dataset '{dataset}' is not live: version {live} is.",
        f"Leave model_version out to ask version {live}; POST /models/{dataset}/{wanted}/rollback makes version "
        f"{wanted} live again.",
    )


def _ask_safely(dataset: str, image: Image, request: PredictionRequest) -> dict[str, Any]:
    try:
        return {"image": image.name} | _ask(dataset, image, request)
    except RequestError as error:
        if error.status >= 500:
            # The model's fault: every other image would meet it too.
            raise
        return {"image": image.name, "error": error.document()}


def _ask(dataset: str, image: Image, request: PredictionRequest) -> dict[str, Any]:
    attributes = {"top_k": str(request.top_k)}
    attributes |= {name: "true" for name in ("explain", "embedding") if getattr(request, name)}
    return ask_model(dataset, image.read(), image.media_type, attributes)


def ask_model(dataset: str, body: bytes, media_type: str, attributes: Mapping[str, str]) -> dict[str, Any]:
    """What the dataset's endpoint says of one image: ``{"predictions": [{"label", "score"}]}``, best first.

    With the attributes ``explain`` and ``embedding`` also what the endpoint adds for them. Raises InvalidImage,
    InvalidParameter, ImageTooLarge, UnsupportedMediaType, ExplainUnavailable, Overloaded or ModelUnavailable.
    """
    try:
        answer = config.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=names.endpoint(dataset),
            Body=body,
            ContentType=media_type,
            Accept="application/json",
            CustomAttributes=",".join(f"{name}={value}" for name, value in attributes.items()),
        )
    except ClientError as error:
        # The next request asks anew what is live.
        _live_models.pop(dataset, None)
        raise _refusal(dataset, error) from error
    document: dict[str, Any] = json.load(answer["Body"])
    # The model describes itself by its dataset version; the API answers with the model's own.
    document.pop("model", None)
    return document


def _live_model(dataset: str) -> LiveModel:
    known = _live_models.get(dataset)
    if known and time.monotonic() - known[0] < LIVE_MODEL_SECONDS:
        return known[1]
    live = require_live_model(dataset)
    _live_models[dataset] = (time.monotonic(), live)
    return live


def _refusal(dataset: str, error: ClientError) -> RequestError:
    """What an InvokeEndpoint error means for the caller."""
    if error.response["Error"]["Code"] == "ModelError":
        status = int(error.response.get("OriginalStatusCode", 500))
        problem = _model_problem(str(error.response.get("OriginalMessage", "")))
        refusal = IMAGE_REFUSALS.get(problem["code"])
        if refusal is None:
            refusal = next((kind for kind in IMAGE_REFUSALS.values() if kind.status == status), None)
        if refusal is not None and status < 500:
            return refusal(problem["message"], problem["hint"])
    return ModelUnavailable(
        f"The model did not answer: {error.response['Error']['Message']}",
        f"Try again in a minute. If it stays, look at the log of the endpoint {names.endpoint(dataset)}.",
    )


def _model_problem(text: str) -> dict[str, str]:
    fallback = {
        "code": "",
        "message": text or "The model refused the image.",
        "hint": "Send a JPEG, PNG or WebP image.",
    }
    try:
        problem = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        # Not our server's error shape (a proxy, another container): its words are the message.
        return fallback
    return fallback | {key: problem[key] for key in ("code", "message", "hint") if problem.get(key)}
