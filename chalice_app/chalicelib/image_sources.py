"""The ways in which a caller names an image: its bytes, base64, an object of the bucket, or a URL."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from chalicelib import config, names, url_fetch
from chalicelib.errors import EmptyBody, ImageTooLarge, InvalidParameter, NotFound

# InvokeEndpoint's limit of a body
# (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html).
MAX_IMAGE_BYTES = 6 * 1024 * 1024
# Whatever the file is called: the model looks at the content itself.
ANY_IMAGE = "application/x-image"
READABLE_PREFIXES = (names.DATASETS_PREFIX, names.PREDICTIONS_PREFIX)


@dataclass(frozen=True)
class Image:
    """One image of a request; nothing is read before `read` is called.

    Attributes:
        name: what the answer calls it.
        read: gives its bytes. Raises RequestError.
        media_type: what to tell the model.
    """

    name: str
    read: Callable[[], bytes]
    media_type: str = ANY_IMAGE


def from_bytes(name: str, body: bytes, media_type: str = ANY_IMAGE) -> Image:
    """An image whose bytes are there already."""

    def read() -> bytes:
        return checked_size(body)

    return Image(name, read, media_type)


def from_document(position: int, source: dict[str, Any]) -> Image:
    """An image of a JSON request: ``{"s3"}``, ``{"url"}`` or ``{"base64"}``, exactly one of them."""
    if "s3" in source:
        return Image(str(source["s3"]), lambda: read_object(source["s3"]))
    if "url" in source:
        return Image(str(source["url"]), lambda: _fetch(source["url"]))
    return Image(str(source.get("name") or position), lambda: _decode(source["base64"]))


def checked_size(body: bytes) -> bytes:
    """`body` itself. Raises EmptyBody, or ImageTooLarge for more than an endpoint takes."""
    if not body:
        raise EmptyBody("The image is empty.", "Send the bytes of an image.")
    if len(body) > MAX_IMAGE_BYTES:
        raise _too_large(len(body))
    return body


def object_key(location: str) -> str:
    """The key that ``s3://<our bucket>/<key>``, or a bare key, names. Raises InvalidParameter."""
    bucket = config.bucket()
    key = location.removeprefix(f"s3://{bucket}/")
    allowed = " or ".join(READABLE_PREFIXES)
    if key.startswith("s3://"):
        raise InvalidParameter(
            "The S3 location is in another bucket.",
            f"Copy the images to s3://{bucket}/{names.PREDICTIONS_PREFIX}, or send their bytes.",
        )
    if not key.startswith(READABLE_PREFIXES) or any(part in {".", ".."} for part in key.split("/")):
        raise InvalidParameter(
            f"The S3 location '{location[:200]}' cannot be read from.", f"Name an object below {allowed}."
        )
    return key


def read_object(location: str) -> bytes:
    """An image of the bucket. Raises InvalidParameter, NotFound, EmptyBody or ImageTooLarge."""
    key = object_key(location)
    try:
        answer = config.client("s3").get_object(Bucket=config.bucket(), Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"NoSuchKey", "KeyTooLongError"}:
            raise
        raise NotFound(
            f"There is no object '{key[:200]}' in the bucket.", "Check the key; upload the image first."
        ) from error
    with answer["Body"] as body:
        if answer["ContentLength"] > MAX_IMAGE_BYTES:
            raise _too_large(answer["ContentLength"])
        return checked_size(body.read())


def _fetch(url: str) -> bytes:
    return checked_size(url_fetch.fetch(url, MAX_IMAGE_BYTES, allow_http=config.allows_http_urls()))


def _decode(text: str) -> bytes:
    # Browsers make data URLs: data:image/jpeg;base64,…
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return checked_size(base64.b64decode(payload, validate=True))
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(
            "The member base64 is not base64.", "Encode the image's bytes with the standard alphabet and padding."
        ) from error


def _too_large(size: int) -> ImageTooLarge:
    return ImageTooLarge(
        f"The image has {size} bytes; the model takes {MAX_IMAGE_BYTES}.",
        "Send a smaller image: 2,000 pixels on the longer side are plenty.",
    )
