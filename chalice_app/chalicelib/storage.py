"""The stack's bucket: listing a folder, reading and writing small objects, signing links."""

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from chalicelib import config

# ListObjectsV2's own limit (https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html).
PAGE_SIZE = 1000
# A signed link works for as long as a person needs to click it; the API signs a fresh one each time.
LINK_SECONDS = 300


def list_folder(prefix: str) -> Iterator[dict[str, Any]]:
    """Every object below `prefix` as ``{"key", "size", "etag"}``, keys relative to it, sorted by key.

    One page of the listing is held at a time; a general-purpose bucket lists its keys in order.
    """
    pages = config.client("s3").get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=config.bucket(), Prefix=prefix, PaginationConfig={"PageSize": PAGE_SIZE}):
        for entry in page.get("Contents", []):
            yield {
                "key": entry["Key"].removeprefix(prefix),
                "size": entry["Size"],
                "etag": entry["ETag"].strip('"'),
            }


def read(key: str) -> bytes | None:
    """An object's content, or None when there is no such object."""
    try:
        answer = config.client("s3").get_object(Bucket=config.bucket(), Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return None
        raise
    body: bytes = answer["Body"].read()
    return body


def write(key: str, body: str, content_type: str = "application/json") -> None:
    """Put a text object."""
    config.client("s3").put_object(Bucket=config.bucket(), Key=key, Body=body.encode(), ContentType=content_type)


def link(key: str) -> str:
    """A signed link that reads the object for `LINK_SECONDS`."""
    wanted = {"Bucket": config.bucket(), "Key": key}
    if key.endswith(".html"):
        # SageMaker uploads a job's files without their types, and a browser would save the page instead of showing it.
        wanted["ResponseContentType"] = "text/html; charset=utf-8"
    signed: str = config.client("s3").generate_presigned_url("get_object", Params=wanted, ExpiresIn=LINK_SECONDS)
    return signed
