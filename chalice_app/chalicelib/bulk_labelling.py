"""The work of ``/predictions``: label a batch, and put the parts together.

Runs in a function of its own, which has minutes and not the seconds of an HTTP request.
"""

import csv
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aws_lambda_powertools import Logger

from chalicelib import bulk_predictions, config, image_sources, mail_format, predictions, storage, times
from chalicelib.bulk_predictions import folder
from chalicelib.errors import Overloaded, RequestError
from chalicelib.mail_format import Block, Link, Paragraph, Table

logger = Logger(child=True)

THREADS = 4
# An overloaded endpoint says for how long; a batch waits a little longer each time.
OVERLOAD_WAITS = (1.0, 2.0, 4.0, 8.0)


def take_step(event: dict[str, Any]) -> dict[str, Any]:
    """One state's step of ``predictions.asl.json``: ``{"step", "prediction"}`` and what the step needs."""
    record = event["prediction"]
    match event["step"]:
        case "list":
            return bulk_predictions.list_images(record)
        case "label":
            return label_batch(record, event["batch"])
        case "collect":
            return collect(record, event["batches"])
        case "mail":
            return write_mail(record, event["outcome"])
    raise ValueError(f"{event['step']} is no step")


def label_batch(record: dict[str, Any], number: int) -> dict[str, Any]:
    """LabelBatch: label the images of one batch, unless its part is there already.

    Returns ``{"images": n}``. Raises ModelUnavailable, or Overloaded when waiting did not help: the state tries again.
    """
    part = f"{folder(record['id'])}parts/{number:05d}.jsonl"
    keys: list[str] = json.loads(_require(f"{folder(record['id'])}batches/{number:05d}.json"))
    if storage.read(part) is not None:
        return {"images": 0}
    with ThreadPoolExecutor(THREADS) as threads:
        lines = list(threads.map(lambda key: _label(record, key), keys))
    storage.write(part, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "application/x-ndjson")
    return {"images": len(lines)}


def _label(record: dict[str, Any], key: str) -> dict[str, Any]:
    for wait in (*OVERLOAD_WAITS, None):
        try:
            body = image_sources.read_object(key)
            attributes = {"top_k": str(record["top_k"])}
            return {"key": key} | predictions.ask_model(record["dataset"], body, image_sources.ANY_IMAGE, attributes)
        except Overloaded:
            if wait is None:
                raise
            time.sleep(wait)
        except RequestError as error:
            if error.status >= 500:
                raise
            return {"key": key, "error": error.document()}
    raise AssertionError("unreachable")


def collect(record: dict[str, Any], batches: int) -> dict[str, Any]:
    """Collect: one file of JSON lines and one of CSV, in the order of the keys, and a summary.

    Returns ``{"images": n, "failed": n}``.
    """
    failed = images = 0
    columns = [f"{what}_{rank}" for rank in range(1, record["top_k"] + 1) for what in ("label", "score")]
    with (
        tempfile.TemporaryFile("w+b") as lines,
        tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as table,
    ):
        writer = csv.writer(table)
        writer.writerow(["key", *columns, "error"])
        for number in range(batches):
            part = _require(f"{folder(record['id'])}parts/{number:05d}.jsonl")
            lines.write(part)
            for line in map(json.loads, part.splitlines()):
                images += 1
                failed += "error" in line
                writer.writerow(_row(line, len(columns)))
        _put(lines, folder(record["id"]) + "results.jsonl", "application/x-ndjson")
        table.flush()
        _put(table.buffer, folder(record["id"]) + "results.csv", "text/csv; charset=utf-8")
    summary = {"images": images, "failed": failed, "ended_at": times.to_text(times.now())}
    # It comes last: where it is, the results are whole.
    storage.write(folder(record["id"]) + "summary.json", json.dumps(summary))
    logger.info("collected a prediction", prediction=record["id"], images=images, failed=failed)
    return {"images": images, "failed": failed}


def _row(line: dict[str, Any], width: int) -> list[Any]:
    if "error" in line:
        return [line["key"], *[""] * width, f"{line['error']['code']}: {line['error']['message']}"]
    cells = [cell for found in line["predictions"] for cell in (found["label"], found["score"])]
    return [line["key"], *cells, *[""] * (width - len(cells)), ""]


def write_mail(record: dict[str, Any], outcome: dict[str, Any]) -> dict[str, str]:
    """WriteMail: what the owner is told.

    Args:
        record: the prediction's record.
        outcome: ``{"images", "failed"}``, or ``{"error", "cause"}``.

    Returns ``{"subject", "text", "html"}``.
    """
    place = f"s3://{config.bucket()}/{folder(record['id'])}"
    blocks: list[Block]
    if "error" in outcome:
        subject = f"{record['dataset']}: the images below {record['prefix']} could not all be labelled"
        blocks = [
            Paragraph(f"{outcome['error']}: {outcome['cause']}"),
            Paragraph(f"What was labelled is kept. POST /predictions/{record['id']}/resume goes on from there."),
        ]
    else:
        subject = f"{record['dataset']}: {outcome['images']} images labelled"
        blocks = [
            Table(
                [
                    ["images", str(outcome["images"])],
                    ["without a label", str(outcome["failed"])],
                    ["JSON lines", f"{place}results.jsonl"],
                    ["table", f"{place}results.csv"],
                ]
            )
        ]
    api_url = config.run_config()["api_url"]
    if api_url:
        blocks.append(Link("Progress and links", f"{api_url}/predictions/{record['id']}"))
    return {
        "subject": subject,
        "text": mail_format.to_text(blocks),
        "html": mail_format.to_html(subject, blocks),
    }


def _require(key: str) -> bytes:
    body = storage.read(key)
    if body is None:
        raise FileNotFoundError(f"s3://{config.bucket()}/{key}")
    return body


def _put(file: Any, key: str, content_type: str) -> None:
    file.seek(0)
    config.client("s3").put_object(Bucket=config.bucket(), Key=key, Body=file, ContentType=content_type)
