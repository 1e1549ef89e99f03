"""Model data of a serving container: fetched from S3 and unpacked into its model folder."""

import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from droptune.local_cloud.sagemaker.context import Context


class ModelDataError(Exception):
    """The model data could not be fetched or is not safe to unpack. The text names the cause."""


def split_s3_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key of an `s3://bucket/key` address.

    Raises ModelDataError for an address of another form.
    """
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise ModelDataError(f'"{uri}" is not an S3 address. Write it as s3://bucket/key.')
    return parts.netloc, parts.path.lstrip("/")


def source_of(container: Mapping[str, Any]) -> dict[str, str] | None:
    """Return where a container's model data lies, as `{"S3Uri", "S3DataType", "CompressionType"}`.

    `ModelDataUrl` is short for one gzipped tar file. None: the container has no model data.
    """
    if url := container.get("ModelDataUrl"):
        return {"S3Uri": url, "S3DataType": "S3Object", "CompressionType": "Gzip"}
    source = (container.get("ModelDataSource") or {}).get("S3DataSource")
    if source is None:
        return None
    return {key: source[key] for key in ("S3Uri", "S3DataType", "CompressionType")}


def check_exists(context: Context, source: Mapping[str, str]) -> None:
    """Raise ModelDataError, worded as CreateModel does, when nothing lies at the source."""
    bucket, key = split_s3_uri(source["S3Uri"])
    s3 = context.client("s3")
    try:
        if source["S3DataType"] == "S3Prefix":
            found = bool(s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("KeyCount"))
        else:
            s3.head_object(Bucket=bucket, Key=key)
            found = True
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}:
            raise
        found = False
    if not found:
        raise ModelDataError(f"Could not find model data at {source['S3Uri']}.")


def fetch(context: Context, source: Mapping[str, str], folder: Path) -> None:
    """Download the model data of `source` and lay it out in `folder`, which is made.

    A gzipped object is unpacked with `unpack`; an uncompressed object or prefix is copied as it is.

    Raises ModelDataError when S3 does not give the data, or when the archive is not safe.
    """
    folder.mkdir(parents=True)
    bucket, key = split_s3_uri(source["S3Uri"])
    s3 = context.client("s3")
    try:
        if source["S3DataType"] == "S3Prefix":
            _download_prefix(s3, bucket, key, folder)
        elif source["CompressionType"] == "Gzip":
            archive = folder.parent / "model.tar.gz"
            s3.download_file(bucket, key, str(archive))
            unpack(archive, folder)
            archive.unlink()
        else:
            s3.download_file(bucket, key, str(folder / PurePosixPath(key).name))
    except (ClientError, BotoCoreError, OSError) as error:
        raise ModelDataError(
            f'Failed to download model data for container "container_1" from URL: "{source["S3Uri"]}". '
            "Please ensure that there is an object located at the URL and that the role passed to "
            f"CreateModel has permissions to download the object. ({error})"
        ) from error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the gzipped tar file `archive` into `folder`: plain files and folders only.

    `tarfile`'s own `filter="data"` is not enough: it lets links through, and was bypassed by them
    (CVE-2025-4517). An archive with any other kind of member, or one that would land outside
    `folder`, is refused as a whole.

    Raises ModelDataError, which names the member.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = tar.getmembers()
            targets = [folder / _safe_path(member) for member in members]
            for member, target in zip(members, targets, strict=True):
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None  # a plain file has content
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file)
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ModelDataError(
            f"The model data is no gzipped tar file that can be unpacked ({error}). "
            "Pack the files with: tar -czf model.tar.gz -C model ."
        ) from error


def _safe_path(member: tarfile.TarInfo) -> PurePosixPath:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise ModelDataError(
            f"The model data holds '{member.name}', which would be written outside the model folder. "
            "Pack it again with relative names."
        )
    if not (member.isfile() or member.isdir()):
        raise ModelDataError(
            f"The model data holds '{member.name}', which is a link or a device. "
            "Pack it again with plain files and folders only."
        )
    return path


def _download_prefix(s3: Any, bucket: str, prefix: str, folder: Path) -> None:
    count = 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            name = item["Key"].removeprefix(prefix).lstrip("/")
            if not name or name.endswith("/"):
                continue
            if ".." in PurePosixPath(name).parts:
                raise ModelDataError(f"The key '{item['Key']}' would be written outside the model folder.")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, item["Key"], str(target))
            count += 1
    if not count:
        raise ModelDataError(f"Could not find model data at s3://{bucket}/{prefix}.")
