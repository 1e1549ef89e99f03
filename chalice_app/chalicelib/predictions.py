"""``POST /predict/{dataset}``: an image in, labels and scores out."""

import json
import time
from typing import Any

from botocore.exceptions import ClientError

from chalicelib import config, names
from chalicelib.errors import (
    EmptyBody,
    ImageTooLarge,
    InvalidImage,
    InvalidParameter,
    ModelUnavailable,
    UnsupportedMediaType,
)
from chalicelib.models import LiveModel, require_live_model

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/x-image")
DEFAULT_TOP_K = 3
MAX_TOP_K = 1000
# InvokeEndpoint's limit. On AWS a request gets here only below 4.5 MB: Lambda takes 6 MB after base64.
MAX_BYTES = 6 * 1024 * 1024
# How long a warm function may name a model version that a release has just replaced.
LIVE_MODEL_SECONDS = 5.0

_live_models: dict[str, tuple[float, LiveModel]] = {}


def predict(dataset: str, body: bytes, content_type: str, top_k: str | None) -> dict[str, Any]:
    """Ask the dataset's live model for the labels of one image.

    Args:
        dataset: the dataset.
        body: the bytes of the image.
        content_type: one of `IMAGE_TYPES`; parameters after ``;`` are ignored.
        top_k: how many labels to return, as text (None: 3).

    Raises UnsupportedMediaType, EmptyBody, InvalidParameter, UnknownDataset, NoLiveModel,
    InvalidImage, ImageTooLarge or ModelUnavailable.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in IMAGE_TYPES:
        raise UnsupportedMediaType(
            f"The content type '{media_type}' is not supported." if media_type else "The content type is missing.",
            f"Send the image itself as the body, with Content-Type {', '.join(IMAGE_TYPES[:3])}.",
        )
    if not body:
        raise EmptyBody("The body is empty.", "Send the bytes of one image as the body.")
    if len(body) > MAX_BYTES:
        raise ImageTooLarge(
            f"The image has {len(body)} bytes; an endpoint takes {MAX_BYTES}.",
            "Send an image of at most 4.5 MB: 2,000 pixels on the longer side are plenty.",
        )
    count = parse_count("top_k", top_k, default=DEFAULT_TOP_K, highest=MAX_TOP_K)
    live = _live_model(dataset)
    answer = _invoke(dataset, body, media_type, count)
    return {"predictions": answer["predictions"], "model_version": live.version, "dataset": dataset}


def parse_count(name: str, text: str | None, *, default: int, highest: int) -> int:
    """A whole number from 1 to `highest` from a query parameter. Raises InvalidParameter."""
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= highest):
        raise InvalidParameter(
            f"{name} is '{text}', which is no whole number from 1 to {highest}.",
            f"Leave {name} out for {default}, or send for example {name}=5.",
        )
    return int(text)


def _live_model(dataset: str) -> LiveModel:
    known = _live_models.get(dataset)
    if known and time.monotonic() - known[0] < LIVE_MODEL_SECONDS:
        return known[1]
    live = require_live_model(dataset)
    _live_models[dataset] = (time.monotonic(), live)
    return live


def _invoke(dataset: str, body: bytes, media_type: str, count: int) -> dict[str, Any]:
    try:
        answer = config.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=names.endpoint(dataset),
            Body=body,
            ContentType=media_type,
            Accept="application/json",
            CustomAttributes=f"top_k={count}",
        )
    except ClientError as error:
        # The next request asks anew what is live.
        _live_models.pop(dataset, None)
        raise _refusal(dataset, error) from error
    document: dict[str, Any] = json.load(answer["Body"])
    return document


def _refusal(dataset: str, error: ClientError) -> Exception:
    """What an InvokeEndpoint error means for the caller."""
    if error.response["Error"]["Code"] == "ModelError":
        status = int(error.response.get("OriginalStatusCode", 500))
        problem = _model_problem(str(error.response.get("OriginalMessage", "")))
        for refusal in (InvalidImage, ImageTooLarge, UnsupportedMediaType):
            if status == refusal.status:
                return refusal(problem["message"], problem["hint"])
    return ModelUnavailable(
        f"The model did not answer: {error.response['Error']['Message']}",
        f"Try again in a minute. If it stays, look at the log of the endpoint {names.endpoint(dataset)}.",
    )


def _model_problem(text: str) -> dict[str, str]:
    fallback = {"message": text or "The model refused the image.", "hint": "Send a JPEG, PNG or WebP image."}
    try:
        problem = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        # Not our server's error shape (a proxy, another container): its words are the message.
        return fallback
    return fallback | {key: problem[key] for key in ("message", "hint") if problem.get(key)}
