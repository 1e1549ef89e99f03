"""``/predictions``: label every image below a prefix, in the background.

A state machine of its own lists the images in batches (`list_images`), labels batches side by side (`label_batch`) and
puts the parts together (`collect`). Everything that is known of a prediction lies in the bucket, below
``predictions/<id>/``, and a batch whose part is there is not labelled again: so it can be stopped anywhere and resumed.
"""

import json
from typing import Any

from chalicelib import config, models, names, storage, times
from chalicelib.errors import InvalidParameter, NotFound, NothingToResume
from chalicelib.image_sources import object_key
from chalicelib.names import PREDICTIONS_PREFIX, is_data, is_image
from chalicelib.prediction_requests import DEFAULT_TOP_K
from chalicelib.queries import parse_count, read_token, write_token
from chalicelib.releases import execution_arn
from chalicelib.request_schemas import validated

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
BATCH_IMAGES = 50
# A batch costs 7 events of an execution's history, which ends at 25,000
# (https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html): 2,000 batches leave room for retries.
MAX_IMAGES = 100_000
# Between a prediction's id and the number of the attempt, in the name of an execution.
ATTEMPT = "_"


def start(given: Any) -> dict[str, Any]:
    """Begin to label all images below a prefix.

    Args:
        given: a ``BulkRequest`` of the OpenAPI document.

    Returns the prediction as `describe` does. Raises InvalidParameter, UnknownDataset or NoLiveModel.
    """
    request = validated(given, "BulkRequest")
    prefix = object_key(request["prefix"])
    live = models.require_live_model(request["dataset"])
    if next(_images(prefix), None) is None:
        raise InvalidParameter(
            f"There is no image below '{prefix}'.",
            f"Upload images first: files that end in {', '.join(names.IMAGE_SUFFIXES)}.",
        )
    now = times.now()
    prediction = names.new_run_id(request["dataset"], now)
    record = {
        "id": prediction,
        "dataset": request["dataset"],
        "prefix": prefix,
        "top_k": request.get("top_k", DEFAULT_TOP_K),
        "model_version": live.version,
        "started_at": times.to_text(now),
        "attempt": 1,
    }
    _begin(record)
    return describe(prediction)


def resume(prediction: str) -> dict[str, Any]:
    """Begin again where a prediction ended before its end. Raises NotFound or NothingToResume."""
    record = _record(prediction)
    status = _execution(record)["status"]
    if status in {"RUNNING", "SUCCEEDED"}:
        raise NothingToResume(
            f"Prediction '{prediction}' is {status.lower()}.", "Only one that failed or was stopped is resumed."
        )
    _begin(record | {"attempt": record["attempt"] + 1})
    return describe(prediction)


def _begin(record: dict[str, Any]) -> None:
    # First the record: an execution that nobody knows of would be worse than a record of none.
    storage.write(folder(record["id"]) + "request.json", json.dumps(record, ensure_ascii=False))
    config.client("stepfunctions").start_execution(
        stateMachineArn=config.predictions_machine_arn(),
        name=_execution_name(record),
        input=json.dumps({"prediction": record, "config": config.run_config()}),
    )


def describe(prediction: str) -> dict[str, Any]:
    """``GET /predictions/{id}``: how far it has come, and links of the results. Raises NotFound."""
    record = _record(prediction)
    execution = _execution(record)
    batches = _json(prediction, "batches.json")
    summary = _json(prediction, "summary.json")
    done = summary or {"images": batches and batches["images"], "failed": None}
    if not summary:
        parts = sum(1 for _ in storage.list_folder(folder(prediction) + "parts/"))
        labelled = min(parts * BATCH_IMAGES, batches["images"]) if batches else 0
    else:
        labelled = summary["images"]
    problem = None
    if execution["status"] not in {"RUNNING", "SUCCEEDED"}:
        problem = {
            "code": execution.get("error") or execution["status"],
            "message": execution.get("cause") or "It was stopped.",
            "hint": f"POST /predictions/{prediction}/resume goes on with what is missing.",
        }
    return {
        "id": prediction,
        "dataset": record["dataset"],
        "prefix": record["prefix"],
        "top_k": record["top_k"],
        "status": execution["status"],
        "started_at": record["started_at"],
        "ended_at": execution.get("stopDate") and times.to_text(execution["stopDate"]),
        "images": done["images"],
        "labelled": labelled,
        "failed": done["failed"],
        "results_url": storage.link(folder(prediction) + "results.jsonl") if summary else None,
        "csv_url": storage.link(folder(prediction) + "results.csv") if summary else None,
        "error": problem,
    }


def list_predictions(limit: str | None, after: str | None) -> dict[str, Any]:
    """``GET /predictions``: a page, newest first. Raises InvalidParameter."""
    count = parse_count("limit", limit, default=DEFAULT_LIMIT, highest=MAX_LIMIT)
    token = read_token(after, str)
    stepfunctions = config.client("stepfunctions")
    query: dict[str, Any] = {"stateMachineArn": config.predictions_machine_arn(), "maxResults": count}
    try:
        page = stepfunctions.list_executions(**query, **({"nextToken": token} if token else {}))
    except stepfunctions.exceptions.InvalidToken as error:
        raise InvalidParameter(
            "next is no token that a page ended with.", "Leave next out for the first page."
        ) from error
    found: dict[str, dict[str, Any]] = {}
    for execution in page["executions"]:
        # Of several attempts the newest, which comes first, says how it stands.
        prediction = execution["name"].partition(ATTEMPT)[0]
        entry = {
            "id": prediction,
            "status": execution["status"],
            "started_at": times.to_text(execution["startDate"]),
            "ended_at": execution.get("stopDate") and times.to_text(execution["stopDate"]),
        }
        found.setdefault(prediction, entry)
    following = page.get("nextToken")
    return {"predictions": list(found.values()), "next": following and write_token(following)}


def folder(prediction: str) -> str:
    """Where everything of a prediction lies."""
    return f"{PREDICTIONS_PREFIX}{prediction}/"


def _images(prefix: str) -> Any:
    """The keys of the images below `prefix`, in order."""
    return (
        prefix + entry["key"]
        for entry in storage.list_folder(prefix)
        if is_data(entry["key"] or prefix) and is_image(prefix + entry["key"])
    )


def list_images(record: dict[str, Any]) -> dict[str, Any]:
    """ListImages: write down which images there are, in batches.

    Returns ``{"batches": n, "images": n}``. Raises InvalidParameter for more than `MAX_IMAGES`.
    """
    keys: list[str] = []
    for key in _images(record["prefix"]):
        keys.append(key)
        if len(keys) > MAX_IMAGES:
            raise InvalidParameter(
                f"There are more than {MAX_IMAGES} images below '{record['prefix']}'.",
                "Ask for longer prefixes, one after the other.",
            )
    if not keys:
        raise InvalidParameter(f"There is no image below '{record['prefix']}'.", "Upload images first.")
    starts = range(0, len(keys), BATCH_IMAGES)
    for number, first in enumerate(starts):
        body = json.dumps(keys[first : first + BATCH_IMAGES], ensure_ascii=False)
        storage.write(f"{folder(record['id'])}batches/{number:05d}.json", body)
    counts = {"batches": len(starts), "images": len(keys)}
    # It comes last: where it is, all batches are.
    storage.write(folder(record["id"]) + "batches.json", json.dumps(counts))
    return counts


def _execution_name(record: dict[str, Any]) -> str:
    return record["id"] if record["attempt"] == 1 else f"{record['id']}{ATTEMPT}{record['attempt']}"


def _execution(record: dict[str, Any]) -> dict[str, Any]:
    stepfunctions = config.client("stepfunctions")
    arn = execution_arn(config.predictions_machine_arn(), _execution_name(record))
    try:
        execution: dict[str, Any] = stepfunctions.describe_execution(executionArn=arn)
    except stepfunctions.exceptions.ExecutionDoesNotExist:
        # The function died between the record and the start, or Step Functions has forgotten it after 90 days.
        return {"status": "SUCCEEDED" if _json(record["id"], "summary.json") else "ABORTED"}
    return execution


def _record(prediction: str) -> dict[str, Any]:
    record = _json(prediction, "request.json") if names.is_run_id(prediction) else None
    if record is None:
        raise NotFound(f"There is no prediction '{prediction[:64]}'.", "GET /predictions lists them.")
    return record


def _json(prediction: str, name: str) -> dict[str, Any] | None:
    body = storage.read(folder(prediction) + name)
    if body is None:
        return None
    document: dict[str, Any] = json.loads(body)
    return document
