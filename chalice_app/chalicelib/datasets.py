"""``GET /datasets``, ``/datasets/{name}`` and what lies below its versions."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from chalicelib import config, dataset_settings, dataset_versions, models, names, run_lock, storage
from chalicelib.errors import InvalidParameter, NotFound, UnknownVersion
from chalicelib.queries import parse_count

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
# Each entry of a page costs a few short requests; boto3's clients keep 10 connections.
THREADS = 8
SEALED = ("version", "parent", "content_hash", "objects", "bytes", "added", "removed", "changed", "sealed_at")
# What Prepare adds to a version; `images` is a number, the others count the entries of a list.
FOUND = ("images", "quarantined", "suspected_labels", "duplicates")
# A function answers at most 6 MB (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html). Lists
# are cut to the first of these lengths with which the answer stays well below.
LIST_LENGTHS = (1000, 100, 10)
MAX_ANSWER_BYTES = 4_000_000


def list_datasets(limit: str | None, after: str | None) -> dict[str, Any]:
    """``GET /datasets``: a page by name, from the first name behind `after`. Raises InvalidParameter."""
    count = parse_count("limit", limit, default=DEFAULT_LIMIT, highest=MAX_LIMIT)
    # The table holds one small item a dataset, so that a scan reads thousands in one request of 1 MB; an index that
    # keeps them by name would cost a write more with every counted upload.
    found = sorted((item for item in _scan() if item["dataset"] > (after or "")), key=lambda item: str(item["dataset"]))
    page = _map(_describe, found[:count])
    return {"datasets": page, "next": page[-1]["name"] if len(found) > count else None}


def describe_dataset(dataset: str) -> dict[str, Any]:
    """``GET /datasets/{name}``. Raises UnknownDataset."""
    models.require_known(dataset)
    # Uploads that no function has counted yet make a dataset without an item.
    return _describe(run_lock.dataset_item(dataset) or {"dataset": dataset})


def list_versions(dataset: str, limit: str | None, after: str | None) -> dict[str, Any]:
    """``GET /datasets/{name}/versions``: a page, newest first, below the number `after`.

    Raises UnknownDataset or InvalidParameter.
    """
    count = parse_count("limit", limit, default=DEFAULT_LIMIT, highest=MAX_LIMIT)
    if after and not (after.isascii() and after.isdigit()):
        raise InvalidParameter(f"next is '{after}', which no page ended with.", "Leave next out for the first page.")
    models.require_known(dataset)
    found = [n for n in dataset_versions.list_versions(dataset) if not after or n < int(after)]
    page = _map(lambda version: _version(dataset, version), found[:count])
    return {"versions": page, "next": str(page[-1]["version"]) if len(found) > count else None}


def describe_version(dataset: str, version: str) -> dict[str, Any]:
    """``GET /datasets/{name}/versions/{v}``. Raises UnknownDataset or UnknownVersion."""
    number, files = _require_version(dataset, version)
    folder = names.version_prefix(dataset, number)
    doctor = dataset_versions.read_document(dataset, number, dataset_versions.DOCTOR)
    links = {
        name: storage.link(folder + file) if file in files else None
        for name, file in (
            ("manifest_url", dataset_versions.MANIFEST),
            ("doctor_url", dataset_versions.DOCTOR_PAGE),
        )
    }
    lists = {"diff": dataset_versions.read_document(dataset, number, dataset_versions.DIFF), "doctor": doctor}
    return _version(dataset, number, doctor) | _cut(lists) | links


def doctor_link(dataset: str, version: str) -> str:
    """A signed link of the doctor's page. Raises UnknownDataset, UnknownVersion, or NotFound before there is one."""
    number, files = _require_version(dataset, version)
    if dataset_versions.DOCTOR_PAGE not in files:
        raise NotFound(
            f"The data doctor has not looked at version {number} of dataset '{dataset}'.",
            f"Prepare writes the page. See GET /runs?dataset={dataset} for what became of the version's run.",
        )
    return storage.link(names.version_prefix(dataset, number) + dataset_versions.DOCTOR_PAGE)


def _scan() -> Iterable[dict[str, Any]]:
    request: dict[str, Any] = {}
    while True:
        page = config.datasets_table().scan(**request)
        yield from page["Items"]
        if "LastEvaluatedKey" not in page:
            return
        request["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def _describe(item: dict[str, Any]) -> dict[str, Any]:
    dataset = str(item["dataset"])
    versions = list(dataset_versions.list_versions(dataset))
    seal = dataset_versions.read_document(dataset, versions[0], dataset_versions.SEAL) if versions else None
    return {
        "name": dataset,
        "versions": len(versions),
        "newest_version": versions[0] if versions else None,
        "live_version": _live_version(dataset),
        "objects": seal and seal["objects"],
        "bytes": seal and seal["bytes"],
        "last_upload_at": item.get("last_upload_at"),
        "run": item.get("run"),
        "settings": dataset_settings.to_document(item),
    }


def _live_version(dataset: str) -> int | None:
    """The dataset version that the live model has learned from."""
    live = models.find_live_model(dataset)
    if not live or not live.answers or not live.run:
        return None
    record = config.runs_table().get_item(Key={"id": live.run}).get("Item", {})
    # Null for the moments between the release and the end of its run.
    return int(record["dataset_version"]) if "dataset_version" in record else None


def _version(dataset: str, version: int, doctor: dict[str, Any] | None = None) -> dict[str, Any]:
    seal = dataset_versions.read_document(dataset, version, dataset_versions.SEAL) or {}
    doctor = doctor or dataset_versions.read_document(dataset, version, dataset_versions.DOCTOR) or {}
    found = {name: len(value) if isinstance(value := doctor.get(name), list) else value for name in FOUND}
    return {name: seal.get(name) for name in SEALED} | found


def _require_version(dataset: str, version: str) -> tuple[int, set[str]]:
    models.require_known(dataset)
    if version.isascii() and version.isdigit():
        files = dataset_versions.list_versions(dataset).get(int(version))
        if files:
            return int(version), files
    raise UnknownVersion(
        f"Dataset '{dataset}' has no version '{version}'.", f"GET /datasets/{dataset}/versions lists the versions."
    )


def _cut(document: dict[str, Any]) -> dict[str, Any]:
    for length in LIST_LENGTHS:
        cut: dict[str, Any] = _cut_lists(document, length)
        if len(json.dumps(cut)) <= MAX_ANSWER_BYTES:
            break
    return cut


def _cut_lists(value: Any, length: int) -> Any:
    if isinstance(value, list):
        return [_cut_lists(entry, length) for entry in value[:length]]
    if isinstance(value, dict):
        return {name: _cut_lists(entry, length) for name, entry in value.items()}
    return value


def _map(function: Callable[[Any], dict[str, Any]], entries: list[Any]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, entries))
