"""Signed uploads of images that are too large for a request: to S3 first, and then by their key."""

import secrets
from typing import Any

from chalicelib import config, names
from chalicelib.errors import ImageTooLarge, InvalidParameter
from chalicelib.image_sources import MAX_IMAGE_BYTES

EXPIRES_IN_SECONDS = 900


def sign(size: int) -> dict[str, Any]:
    """A place for one image, and the link with which exactly `size` bytes can be put there.

    Returns ``{"s3": key, "method": "PUT", "url", "expires_in": seconds}``. What is put there is deleted after a day.
    Raises InvalidParameter.
    """
    if not 1 <= size <= MAX_IMAGE_BYTES:
        raise InvalidParameter(
            f"An image of {size} bytes cannot be labelled: the model takes 1 to {MAX_IMAGE_BYTES}.",
            "Make the image smaller: 2,000 pixels on the longer side are plenty.",
        )
    key = f"{names.PREDICTION_UPLOADS_PREFIX}{secrets.token_hex(16)}"
    url = config.client("s3").generate_presigned_url(
        # The size is part of what is signed: nobody can put more there than was said.
        "put_object",
        Params={"Bucket": config.bucket(), "Key": key, "ContentLength": size},
        ExpiresIn=EXPIRES_IN_SECONDS,
    )
    return {"s3": key, "method": "PUT", "url": url, "expires_in": EXPIRES_IN_SECONDS}


def too_large(dataset: str, size: int, limit: int) -> ImageTooLarge:
    """The refusal of a body of more than `limit` bytes, with a way around it where there is one."""
    message = f"The body has {size} bytes; a request takes {limit}."
    if size > MAX_IMAGE_BYTES:
        return ImageTooLarge(message, "Send a smaller image: 2,000 pixels on the longer side are plenty.")
    upload = sign(size)
    return ImageTooLarge(
        message,
        f"Upload the image within {EXPIRES_IN_SECONDS // 60} minutes with PUT to {upload['url']} "
        f'(curl --upload-file photo.jpg "$URL"), then POST {{"s3": "{upload["s3"]}"}} as application/json to '
        f"/predict/{dataset}. Or send a smaller image: 2,000 pixels on the longer side are plenty.",
    )
