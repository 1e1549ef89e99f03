"""Settle: wait until a burst of uploads is over, then seal a dataset version.

A version is the sorted list of a dataset's objects with their sizes and ETags, and the SHA-256 over it. The objects
themselves stay where the user put them. With the seal come the difference to the version before and the list of what
has yet to be decoded (docs/reference/contracts.md, "The seal of a version").
"""

import json
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError

from chalicelib import config, dataset_settings, dataset_versions, names, run_lock, storage, times
from chalicelib.dataset_objects import hash_objects, list_objects
from chalicelib.errors import EmptyDataset

logger = Logger(child=True)


def settle(
    dataset: str, quiet_seconds: float, max_wait_seconds: float, backbone: str, image_size: int
) -> dict[str, Any]:
    """Seal `dataset` if its uploads have come to rest.

    Args:
        dataset: the dataset.
        quiet_seconds: how long no upload must have come, unless the dataset's own settings say otherwise.
        max_wait_seconds: how long a burst may keep a run waiting; likewise.
        backbone: the network whose frozen features are prepared.
        image_size: side of the prepared squares in pixels.

    Returns one of
        ``{"status": "waiting", "wait_seconds": n}``, n a whole number ≥ 1;
        ``{"status": "unchanged", "version": n}``: the content of the last version whose run ended
        well, n its number;
        ``{"status": "sealed", "version": n, "content_hash": "…", "manifest": "s3://…", "recipe": "…", "base": n or
        None, "splits": n or None}``.

    Repeated after a crash at any point, it seals the same content as the same version.

    Raises EmptyDataset when the dataset's folder holds no data.
    """
    item = run_lock.dataset_item(dataset)
    own = dataset_settings.settings_of(item)
    wait = seconds_to_wait(
        item,
        times.now(),
        own.get("quiet_seconds", quiet_seconds),
        own.get("max_wait_seconds", max_wait_seconds),
    )
    if wait > 0:
        return {"status": "waiting", "wait_seconds": max(1, math.ceil(wait))}

    # What is counted before the listing is in the listing. What is counted later may be in it too:
    # that is why the end of a run compares contents, and not only counts.
    objects = list_objects(dataset)
    content_hash = hash_objects(objects)
    if not objects:
        _note_seal(dataset, item, content_hash)
        raise EmptyDataset(
            f"Dataset '{dataset}' holds no images.",
            f"Upload images to datasets/{dataset}/<class>/, one folder a class, or one .zip archive of "
            f"such folders to datasets/{dataset}/.",
        )
    if content_hash == item.get("content_hash"):
        _note_seal(dataset, item, content_hash)
        return {"status": "unchanged", "version": int(item["version"])}
    version = _choose_version(dataset, item, content_hash)
    try:
        _note_seal(dataset, item, content_hash, version)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
        # An earlier Settle of this run, given up as too slow, has just sealed after all: look again.
        return {"status": "waiting", "wait_seconds": 1}
    versions = dataset_versions.list_versions(dataset)
    if version not in versions:
        _write_seal(dataset, version, _newest(n for n in versions if n < version), objects, content_hash)
    recipe = find_recipe(backbone, image_size)
    base = _find_base(dataset, version, recipe, versions)
    return {
        "status": "sealed",
        "version": version,
        "content_hash": content_hash,
        # Written anew each time, for what can be built on may have changed since the seal.
        "manifest": _write_decode_manifest(dataset, version, objects, base),
        "recipe": recipe,
        "base": base,
        "splits": _newest(n for n, files in versions.items() if n <= version and dataset_versions.SPLITS in files),
    }


def seconds_to_wait(item: dict[str, Any], now: datetime, quiet_seconds: float, max_wait_seconds: float) -> float:
    """How long to wait before a dataset may be sealed; ≤ 0 means now."""
    if "last_upload_at" not in item:
        return 0
    last = times.from_text(item["last_upload_at"])
    # What was announced within the quiet time after the marker belongs to it: events come in any order. Later uploads
    # are another burst, which began while the run before this one was at work.
    if "ready_at" in item and (last - times.from_text(item["ready_at"])).total_seconds() < quiet_seconds:
        return 0
    # A run waits for so long itself; its burst may have begun hours ago, during the run before.
    first = max(item.get("first_upload_at", item["last_upload_at"]), item.get("run_requested_at", ""))
    quiet = quiet_seconds - (now - last).total_seconds()
    longest = max_wait_seconds - (now - times.from_text(first)).total_seconds()
    return min(quiet, longest)


def find_recipe(backbone: str, image_size: int) -> str:
    """The recipe that prepared data are made by: blocks of one recipe fit together."""
    weights = hash_objects(storage.list_folder(names.weights_prefix(backbone)))
    return f"{backbone}-{image_size}-{names.PREPARED_FORMAT}-{weights[:8]}"


def _choose_version(dataset: str, item: dict[str, Any], content_hash: str) -> int:
    """The newest version where it is this content, else the next number.

    The same content again, after a run that failed or a Settle that was retried, is the same version: what was
    prepared for it stays valid. Where a crash left the newest number without a seal, the content that it was claimed
    for is the one noted with it.
    """
    newest = int(item.get("sealed_version", 0))
    if not newest:
        return 1
    seal = dataset_versions.read_document(dataset, newest, dataset_versions.SEAL)
    sealed_hash = seal["content_hash"] if seal else item["sealed_hash"]
    return newest if sealed_hash == content_hash else newest + 1


def _note_seal(dataset: str, item: dict[str, Any], content_hash: str, version: int | None = None) -> None:
    """Note what the end of the run compares with; with `version`, claim that number in the same write.

    Claimed before anything is written under it, no number holds two contents: a Settle that was given up, but still
    runs, writes the same as the one that follows it, or fails here.
    """
    # An empty dataset and an unchanged one are noted too: an unnoted run that fails would follow itself for ever.
    newest = item.get("sealed_version")
    condition = "attribute_not_exists(sealed_version)" if newest is None else "sealed_version = :newest"
    config.datasets_table().update_item(
        Key={"dataset": dataset},
        UpdateExpression="SET sealed_at = :now, sealed_run = :run, sealed_uploads = :uploads, sealed_hash = :hash"
        + (", sealed_version = :version" if version else "")
        + " REMOVE first_upload_at, ready_at",
        ExpressionAttributeValues={
            ":now": times.to_text(times.now()),
            ":run": item.get("run"),
            ":uploads": int(item.get("uploads", 0)),
            ":hash": content_hash,
        }
        | ({":version": version} if version else {})
        | ({":newest": newest} if version and newest is not None else {}),
        **({"ConditionExpression": condition} if version else {}),
    )


def _write_seal(
    dataset: str, version: int, parent: int | None, objects: list[dict[str, Any]], content_hash: str
) -> None:
    before = dataset_versions.read_objects(dataset, parent) if parent else {}
    keys = {entry["key"] for entry in objects}
    diff: dict[str, list[str]] = {
        "added": [entry["key"] for entry in objects if entry["key"] not in before],
        "removed": [key for key in before if key not in keys],
        "changed": [entry["key"] for entry in objects if before.get(entry["key"], entry["etag"]) != entry["etag"]],
    }
    seal = {
        "dataset": dataset,
        "version": version,
        "parent": parent,
        "content_hash": content_hash,
        "objects": len(objects),
        "bytes": sum(entry["size"] for entry in objects),
        **{kind: len(changed) for kind, changed in diff.items()},
        "sealed_at": times.to_text(times.now()),
    }
    folder = names.version_prefix(dataset, version)
    lines = "".join(f"{_to_json(entry)}\n" for entry in objects)
    storage.write(folder + dataset_versions.OBJECTS, lines, "application/x-ndjson")
    storage.write(folder + dataset_versions.DIFF, _to_json({"parent": parent} | diff))
    # seal.json comes last: where it is, the version is whole.
    storage.write(folder + dataset_versions.SEAL, _to_json(seal))
    logger.info("sealed a dataset version", dataset=dataset, version=version, objects=len(objects))


def _find_base(dataset: str, version: int, recipe: str, versions: dict[int, set[str]]) -> int | None:
    prepared = dataset_versions.list_numbers(names.prepared_versions_prefix(dataset, recipe))
    # What a base holds is read from its seal, so it needs one; this version's was perhaps written a moment ago.
    sealed = versions.keys() | {version}
    return _newest(
        number
        for number, files in prepared.items()
        # Prepare writes summary.json last, but SageMaker uploads the files of a job in no promised order.
        if number <= version and number in sealed and {"summary.json", "records.jsonl"} <= files
    )


def _write_decode_manifest(dataset: str, version: int, objects: list[dict[str, Any]], base: int | None) -> str:
    """Write the list of what the base lacks or has with another ETag; answers its S3 URI."""
    known = dataset_versions.read_objects(dataset, base) if base else {}
    # SageMaker takes no empty manifest.
    new = [entry["key"] for entry in objects if known.get(entry["key"]) != entry["etag"]] or [objects[0]["key"]]
    key = names.version_prefix(dataset, version) + dataset_versions.DECODE_MANIFEST
    prefix = {"prefix": f"s3://{config.bucket()}/{names.dataset_prefix(dataset)}"}
    storage.write(key, _to_json([prefix, *new]))
    logger.info("listed what is to be decoded", dataset=dataset, version=version, base=base, objects=len(new))
    return f"s3://{config.bucket()}/{key}"


def _newest(versions: Iterable[int]) -> int | None:
    return max(versions, default=None)


def _to_json(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False)
