"""Settle: wait until a burst of uploads is over, then seal a dataset version.

A version is the sorted list of a dataset's objects with their sizes and ETags, and the SHA-256
over it. The objects themselves stay where the user put them.
"""

import json
import math
from datetime import datetime
from typing import Any

from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError

from chalicelib import config, names, run_lock, times
from chalicelib.dataset_objects import hash_objects, list_objects
from chalicelib.errors import EmptyDataset

logger = Logger(child=True)


def settle(dataset: str, quiet_seconds: float, max_wait_seconds: float) -> dict[str, Any]:
    """Seal `dataset` if its uploads have come to rest.

    Args:
        dataset: the dataset.
        quiet_seconds: how long no upload must have come.
        max_wait_seconds: how long a burst may keep a run waiting, counted from its first upload.

    Returns one of
        ``{"status": "waiting", "wait_seconds": n}``, n a whole number ≥ 1;
        ``{"status": "unchanged", "version": n}``: the content of the last version whose run ended
        well, n its number;
        ``{"status": "sealed", "version": n, "content_hash": "…", "manifest": "s3://…"}``.

    Raises EmptyDataset when the dataset's folder holds no data.
    """
    item = run_lock.dataset_item(dataset)
    wait = seconds_to_wait(item, times.now(), quiet_seconds, max_wait_seconds)
    if wait > 0:
        return {"status": "waiting", "wait_seconds": max(1, math.ceil(wait))}

    # What is counted before the listing is in the listing. What is counted later may be in it too:
    # that is why the end of a run compares contents, and not only counts.
    objects = list_objects(dataset)
    content_hash = hash_objects(objects)
    _note_seal(dataset, int(item.get("uploads", 0)), content_hash)
    if not objects:
        raise EmptyDataset(
            f"Dataset '{dataset}' holds no images.",
            f"Upload images to datasets/{dataset}/<class>/, one folder a class, or one .zip archive of "
            f"such folders to datasets/{dataset}/.",
        )
    if content_hash == item.get("content_hash"):
        return {"status": "unchanged", "version": int(item["version"])}
    version = _seal(dataset, item, objects, content_hash)
    return {
        "status": "sealed",
        "version": version,
        "content_hash": content_hash,
        "manifest": f"s3://{config.bucket()}/{names.version_prefix(dataset, version)}objects.json",
    }


def seconds_to_wait(item: dict[str, Any], now: datetime, quiet_seconds: float, max_wait_seconds: float) -> float:
    """How long to wait before a dataset may be sealed; ≤ 0 means now."""
    if "last_upload_at" not in item or "ready_at" in item:
        return 0
    last = times.from_text(item["last_upload_at"])
    first = times.from_text(item.get("first_upload_at", item["last_upload_at"]))
    quiet = quiet_seconds - (now - last).total_seconds()
    longest = max_wait_seconds - (now - first).total_seconds()
    return min(quiet, longest)


def _note_seal(dataset: str, uploads: int, content_hash: str) -> None:
    # Noted for an empty dataset too, so that its run, which fails, is not followed by itself for ever.
    config.datasets_table().update_item(
        Key={"dataset": dataset},
        UpdateExpression="SET sealed_at = :now, sealed_uploads = :uploads, sealed_hash = :hash "
        "REMOVE first_upload_at, ready_at",
        ExpressionAttributeValues={
            ":now": times.to_text(times.now()),
            ":uploads": uploads,
            ":hash": content_hash,
        },
    )


def _seal(dataset: str, item: dict[str, Any], objects: list[dict[str, Any]], content_hash: str) -> int:
    newest = int(item.get("sealed_version", 0))
    # The same content again, after a run that failed or a Settle that was retried, is the same
    # version: what was prepared for it stays valid.
    if newest and _sealed_hash(dataset, newest) == content_hash:
        return newest
    version = newest + 1
    # The number is claimed before anything is written under it, so two writers never share one.
    # A crash in between leaves a gap, which harms nothing.
    config.datasets_table().update_item(
        Key={"dataset": dataset},
        UpdateExpression="SET sealed_version = :version",
        ConditionExpression="sealed_version = :newest" if newest else "attribute_not_exists(sealed_version)",
        ExpressionAttributeValues={":version": version} | ({":newest": newest} if newest else {}),
    )
    prefix = names.dataset_prefix(dataset)
    manifest = [
        {"prefix": f"s3://{config.bucket()}/{prefix}"},
        *(entry["key"].removeprefix(prefix) for entry in objects),
    ]
    seal = {
        "dataset": dataset,
        "version": version,
        "parent": newest or None,
        "content_hash": content_hash,
        "objects": len(objects),
        "bytes": sum(entry["size"] for entry in objects),
        "sealed_at": times.to_text(times.now()),
    }
    # seal.json comes last: where it is, the version is whole.
    for name, document in (("objects.json", manifest), ("seal.json", seal)):
        config.client("s3").put_object(
            Bucket=config.bucket(),
            Key=names.version_prefix(dataset, version) + name,
            Body=json.dumps(document, ensure_ascii=False).encode(),
            ContentType="application/json",
        )
    logger.info("sealed a dataset version", dataset=dataset, version=version, objects=len(objects))
    return version


def _sealed_hash(dataset: str, version: int) -> str | None:
    key = names.version_prefix(dataset, version) + "seal.json"
    try:
        answer = config.client("s3").get_object(Bucket=config.bucket(), Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return None
        raise
    return str(json.load(answer["Body"])["content_hash"])
