"""`/predictions`: all images below a prefix, in the background, from the request to the mail."""

import csv
import io
import json
from typing import Any

import httpx
import pytest
from chalicelib import bulk_labelling, bulk_predictions
from chalicelib.errors import InvalidParameter

from droptune.local_cloud import mailbox
from droptune.packaging import DEFINITIONS
from tests.api.deployed import DATASET, Handler, System
from tests.api.test_predict import JSON, error_of
from tests.state_machine.local_system import wait_for

PREFIX = "predictions/uploads/holiday/"
GOOD = 120


@pytest.fixture(scope="module")
def images(system: System) -> dict[str, bytes]:
    """Three batches of images, two of them bad, and files that are none."""
    found = {f"{PREFIX}{number:03d}.jpg": b"photo %d" % number for number in range(GOOD)}
    found |= {f"{PREFIX}050-broken.png": b"no image", f'{PREFIX}sub/Ä,"quoted".JPG': b"photo of a name"}
    for key, body in found.items():
        system.put(key, body)
    system.put(f"{PREFIX}notes.txt", b"no image at all")
    return found


def ended(system: System, prediction: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        document: dict[str, Any] = system.api.get(f"/predictions/{prediction}").json()
        return document if document["status"] != "RUNNING" else None

    document: dict[str, Any] = wait_for("the prediction", look)
    return document


def test_a_whole_prefix(system: System, images: dict[str, bytes]) -> None:
    # WHEN all images below a prefix are asked for
    answer = system.api.post(
        "/predictions", json={"dataset": DATASET, "prefix": f"s3://{system.bucket}/{PREFIX}", "top_k": 2}
    )
    # THEN the answer comes at once
    assert answer.status_code == 202, answer.text
    begun = answer.json()
    assert begun["labelled"] <= len(images)
    # AND in the end every image is there once, in the order of the keys
    done = ended(system, begun["id"])
    assert (done["status"], done["images"], done["labelled"], done["failed"]) == ("SUCCEEDED", 122, 122, 1)
    lines = [json.loads(line) for line in httpx.get(done["results_url"], trust_env=False).text.splitlines()]
    assert [line["key"] for line in lines] == sorted(images)
    # AND the labels are those of a single prediction
    one = system.api.post(f"/predict/{DATASET}", json={"s3": f"{PREFIX}007.jpg", "top_k": 2}).json()
    assert next(line for line in lines if line["key"].endswith("007.jpg"))["predictions"] == one["predictions"]
    broken = next(line for line in lines if line["key"].endswith("broken.png"))
    assert broken["error"]["code"] == "InvalidImage"
    # AND the table says the same
    table = list(csv.DictReader(io.StringIO(httpx.get(done["csv_url"], trust_env=False).content.decode())))
    assert list(table[0]) == ["key", "label_1", "score_1", "label_2", "score_2", "error"]
    assert [row["key"] for row in table] == sorted(images)
    for row, line in zip(table, lines, strict=True):
        assert row["label_1"] == (line["predictions"][0]["label"] if "predictions" in line else "")
        assert bool(row["error"]) == ("error" in line)

    # AND a mail tells where everything is
    def told() -> Any:
        found = mailbox.messages(system.cloud.home / "mail")
        return next((mail for mail in found if begun["id"] in mail.text), None)

    mail = wait_for("the mail", told)
    assert mail.subject == f"{DATASET}: 122 images labelled"
    # AND it is in the list
    listed = system.api.get("/predictions", params={"limit": 5}).json()["predictions"]
    assert begun["id"] in [entry["id"] for entry in listed]
    assert set(listed[0]) == {"id", "status", "started_at", "ended_at"}


def test_what_was_stopped_goes_on(system: System, images: dict[str, bytes]) -> None:
    # GIVEN a prediction that was stopped, with its first batch labelled (marked here, to be told apart)
    begun = system.api.post("/predictions", json={"dataset": DATASET, "prefix": PREFIX}).json()
    ended(system, begun["id"])
    folder = f"predictions/{begun['id']}/"
    for name in ("summary.json", "results.jsonl", "results.csv", "parts/00001.jsonl", "parts/00002.jsonl"):
        system.s3.delete_object(Bucket=system.bucket, Key=folder + name)
    record = system.document(folder + "request.json")
    system.put(folder + "request.json", json.dumps(record | {"attempt": 2}).encode())
    kept = system.s3.get_object(Bucket=system.bucket, Key=folder + "parts/00000.jsonl")["Body"].read()
    marked = kept.replace(b'"predictions"', b'"kept": true, "predictions"')
    system.put(folder + "parts/00000.jsonl", marked)
    halfway = system.api.get(f"/predictions/{begun['id']}").json()
    assert (halfway["status"], halfway["labelled"], halfway["results_url"]) == ("ABORTED", 50, None)
    assert "/resume" in halfway["error"]["hint"]
    # WHEN it is resumed
    answer = system.api.post(f"/predictions/{begun['id']}/resume")
    assert answer.status_code == 202, answer.text
    done = ended(system, begun["id"])
    # THEN it ends well, and what was there was not labelled again
    assert (done["status"], done["images"], done["failed"]) == ("SUCCEEDED", 122, 1)
    lines = [json.loads(line) for line in httpx.get(done["results_url"], trust_env=False).text.splitlines()]
    assert sum("kept" in line for line in lines) == 50
    # AND there is nothing more to resume
    assert error_of(system.api.post(f"/predictions/{begun['id']}/resume"), 409)["code"] == "NothingToResume"


def test_a_model_that_breaks(system: System) -> None:
    # GIVEN an image at which the model breaks, and a step that does not wait for it
    record = {"id": "pets-261122150000-0009", "dataset": DATASET, "prefix": "predictions/uploads/bad/", "top_k": 1}
    key = system.put("predictions/uploads/bad/1.jpg", b"broken")
    system.put(f"predictions/{record['id']}/batches/00000.json", json.dumps([key]).encode())
    # WHEN its batch is labelled
    answer = system.session.client("lambda").invoke(
        FunctionName="droptune-label-images",
        Payload=json.dumps({"step": "label", "prediction": record, "batch": 0}).encode(),
    )
    # THEN the step fails by a name that the state machine tries again for, and leaves no part behind
    assert json.load(answer["Payload"])["errorType"] == "ModelUnavailable"
    definition = json.loads(DEFINITIONS["PredictionsMachine"].read_text())
    retried = definition["States"]["LabelBatches"]["ItemProcessor"]["States"]["LabelBatch"]["Retry"][0]["ErrorEquals"]
    assert {"ModelUnavailable", "Overloaded"} <= set(retried)
    listing = system.s3.list_objects_v2(Bucket=system.bucket, Prefix=f"predictions/{record['id']}/parts/")
    assert listing["KeyCount"] == 0


def test_the_mail_of_a_failure(handler: Handler) -> None:
    record = {"id": "pets-1", "dataset": DATASET, "prefix": PREFIX}
    mail = bulk_labelling.write_mail(record, {"error": "ModelUnavailable", "cause": "It broke."})
    assert "could not all be labelled" in mail["subject"]
    assert "/predictions/pets-1/resume" in mail["text"]


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ({"dataset": DATASET}, 400, "InvalidParameter"),
        ({"dataset": "No", "prefix": "datasets/"}, 400, "InvalidParameter"),
        ({"dataset": DATASET, "prefix": "runs/"}, 400, "InvalidParameter"),
        ({"dataset": DATASET, "prefix": "s3://elsewhere/datasets/"}, 400, "InvalidParameter"),
        ({"dataset": DATASET, "prefix": "datasets/none/"}, 400, "InvalidParameter"),
        ({"dataset": DATASET, "prefix": "datasets/", "top_k": 0}, 400, "InvalidParameter"),
        ({"dataset": "nobody", "prefix": "datasets/"}, 404, "UnknownDataset"),
    ],
    ids=json.dumps,
)
def test_refusals(handler: Handler, document: dict[str, Any], status: int, code: str) -> None:
    answer = handler("POST", "/predictions", json.dumps(document).encode(), JSON)
    assert error_of(answer, status)["code"] == code


@pytest.mark.parametrize("prediction", ["none", "pets-261122150000-ffff", ".."])
def test_unknown_predictions(handler: Handler, prediction: str) -> None:
    assert error_of(handler("GET", f"/predictions/{prediction}"), 404)["code"] == "NotFound"
    assert error_of(handler("POST", f"/predictions/{prediction}/resume"), 404)["code"] == "NotFound"


def test_a_bound_of_images(handler: Handler, images: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_predictions, "MAX_IMAGES", 100)
    record = {"id": "pets-261122150000-000a", "prefix": PREFIX}
    with pytest.raises(InvalidParameter, match="more than 100 images"):
        bulk_predictions.list_images(record)
