"""The deployed workflow from upload to mail; only the container programs are small ones."""

import json
import urllib.parse
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from droptune.local_cloud import recovery
from tests.state_machine.local_system import LocalSystem, wait_for

pytestmark = pytest.mark.slow


def predict(system: LocalSystem, dataset: str) -> dict[str, Any]:
    """The answer to one image."""
    answer = system.api.post(
        f"/predict/{dataset}", content=b"\xff\xd8\xff image", headers={"Content-Type": "image/jpeg"}
    )
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_first_better_worse_and_unchanged_data(system: LocalSystem) -> None:
    # GIVEN a dataset that is new
    # WHEN its images are uploaded
    system.upload_classes("pets", "cat", "dog")
    (first,) = system.ended_runs("pets", 1)
    # THEN one run promotes the first model
    assert (first["status"], first["verdict"], first["error"]) == ("SUCCEEDED", "promoted", None)
    assert (first["dataset_version"], first["model_version"], first["accuracy"]) == (1, 1, 0.56)
    # AND the version is sealed: the marker is no data
    keys = sorted(f"{label}/{number}.jpg" for label in ("cat", "dog") for number in range(3))
    assert [entry["key"] for entry in system.lines("versions/pets/1/objects.jsonl")] == keys
    assert system.document("versions/pets/1/decode.manifest") == [
        {"prefix": f"s3://{system.bucket}/datasets/pets/"},
        *keys,
    ]
    seal = system.document("versions/pets/1/seal.json")
    assert (seal["version"], seal["parent"], seal["objects"], seal["bytes"]) == (1, None, 6, 24)
    # AND the containers got what the contract says
    (prepared,) = system.keys("prepared/pets/", "versions/1/summary.json")
    environment = system.document(prepared)["environment"]
    wanted = {"DATASET": "pets", "DATASET_VERSION": "1", "BACKBONE": "resnet18", "IMAGE_SIZE": "224", "SEED": "0"}
    assert wanted.items() <= environment.items()
    recipe = prepared.removesuffix("versions/1/summary.json")
    assert recipe.startswith("prepared/pets/resnet18-224-2-")
    assert environment["BLOCKS_URI"] == f"s3://{system.bucket}/{recipe}blocks/"
    # AND Decode's two machines have shared the files
    shares = [system.lines(f"{recipe}decoded/1/records-{host}.jsonl") for host in ("algo-1", "algo-2")]
    assert [len(share) for share in shares] == [3, 3]
    assert sorted(record["key"] for share in shares for record in share) == keys
    hyper_parameters = system.document(f"runs/pets/{first['id']}/evaluation/evaluation.json")["hyper_parameters"]
    assert (hyper_parameters["artifact"], hyper_parameters["debug_hook"]) == ("model", "true")
    assert hyper_parameters["tuning"]["trials"] == 8
    assert {"learning_rate", "epochs", "batch_size"} <= set(hyper_parameters["tuning"]["best"])
    # AND it answers over HTTP
    assert predict(system, "pets")["model_version"] == 1
    # AND the owner has a mail with the numbers, the mistakes, the file left out and the links
    (mail,) = system.mails("pets: ")
    assert mail.subject == "pets: model 1 is live, accuracy 0.56"
    for words in ("first model of dataset pets", "cat taken for dog", "cat/broken.jpg", f"/runs/{first['id']}/report"):
        assert words in mail.text
        assert words in mail.html
    assert "All in all" in mail.text
    # AND the report is one click away
    report = system.api.get(f"/runs/{first['id']}/report")
    assert report.status_code == 302
    assert "<title>report</title>" in httpx.get(report.headers["location"], trust_env=False).text

    # WHEN the same bytes are uploaded again
    system.upload("datasets/pets/cat/0.jpg", b"cat0")
    system.upload("datasets/pets/_READY")
    unchanged, _ = system.ended_runs("pets", 2)
    # THEN the run says so, and neither trains nor writes
    assert (unchanged["status"], unchanged["verdict"], unchanged["dataset_version"]) == ("SUCCEEDED", "unchanged", 1)
    states = system.api.get(f"/runs/{unchanged['id']}").json()["states"]
    assert [state["name"] for state in states] == ["Settle", "Mail", "SendMail", "Finish"]
    assert len(system.mails("pets: nothing has changed since version 1")) == 1
    assert len(system.mails("pets: ")) == 2

    # WHEN images are deleted, so that the new model is worse
    for number in (1, 2):
        system.session.client("s3").delete_object(Bucket=system.bucket, Key=f"datasets/pets/cat/{number}.jpg")
    rejected = system.ended_runs("pets", 3)[0]
    # THEN it is registered and rejected, and the old one stays live
    assert (rejected["verdict"], rejected["dataset_version"], rejected["model_version"]) == ("rejected", 2, 2)
    assert predict(system, "pets")["model_version"] == 1
    assert [mail.subject for mail in system.mails("pets: model 2")] == ["pets: model 2 was not promoted, accuracy 0.54"]
    # AND nothing was decoded that had been decoded before: a manifest must name a file all the same
    assert len(system.document("versions/pets/2/decode.manifest")) == 2
    assert len(system.lines(f"{recipe}versions/2/index.jsonl")) == 4

    # WHEN images are added, so that the new model is better
    system.upload_classes("pets", "cat", "dog", start=10, images=4)
    promoted = system.ended_runs("pets", 4)[0]
    # THEN it takes the endpoint over
    assert (promoted["verdict"], promoted["model_version"]) == ("promoted", 3)
    assert wait_for("the new version", lambda: predict(system, "pets")["model_version"] == 3)
    (mail,) = system.mails("pets: model 3")
    assert "Model 3 replaced model 1 and is live." in mail.text
    # AND only what had come was decoded, with the files of the version before beside it
    assert len(system.document("versions/pets/3/decode.manifest")) == 1 + 8
    assert system.document("versions/pets/3/doctor.json")["decoded"] == 8
    # AND no file has moved to another split
    splits = [
        {image["key"]: image["split"] for image in system.lines(f"{recipe}versions/{version}/index.jsonl")}
        for version in (1, 3)
    ]
    assert splits[0].keys() - splits[1].keys() == {"cat/1.jpg", "cat/2.jpg"}
    assert all(splits[0][key] == splits[1][key] for key in splits[0].keys() & splits[1].keys())
    # AND the models are listed, newest first
    models = system.api.get("/models/pets").json()
    assert models["live"] == 3
    assert [(m["version"], m["status"], m["accuracy"], m["run"]) for m in models["models"]] == [
        (3, "Approved", 0.62, promoted["id"]),
        (2, "Rejected", 0.54, rejected["id"]),
        (1, "Approved", 0.56, first["id"]),
    ]


@pytest.mark.parametrize(
    ("dataset", "classes", "code", "words"),
    [
        ("lonely", ["cat"], "TooFewClasses", "Dataset 'lonely' has one class, 'cat'."),
        ("heavy", ["cat", "untrainable"], "OutOfMemory", "The batch does not fit into memory."),
        ("silent", ["cat", "mute"], "EndpointFailed", "did not pass the ping health check"),
    ],
)
def test_a_failure_is_explained(system: LocalSystem, dataset: str, classes: list[str], code: str, words: str) -> None:
    # GIVEN data that some container refuses
    # WHEN it is uploaded
    system.upload_classes(dataset, *classes)
    (run,) = system.ended_runs(dataset, 1)
    # THEN the run and its mail say what the container said
    assert (run["status"], run["error"]["code"]) == ("FAILED", code)
    assert words in run["error"]["message"]
    (mail,) = system.mails(f"{dataset}: the run failed: ")
    assert run["error"]["hint"] in " ".join(mail.text.split())
    # AND nothing serves
    answer = system.api.post(f"/predict/{dataset}", content=b"x", headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "NoLiveModel")
    assert system.api.get(f"/models/{dataset}").json()["live"] is None


def test_a_model_that_does_not_prove_itself_is_taken_back(system: LocalSystem) -> None:
    # GIVEN a live model
    system.upload_classes("pupils", "cat", "dog")
    (first,) = system.ended_runs("pupils", 1)
    assert first["verdict"] == "promoted"
    # WHEN a better one is released, but labels the sample otherwise than in its evaluation
    system.upload_classes("pupils", "liar")
    failed = system.ended_runs("pupils", 2)[0]
    # THEN the run fails, the old model serves again, and the new one is not approved
    assert (failed["status"], failed["error"]["code"]) == ("FAILED", "VerificationFailed")
    wait_for("the old model", lambda: predict(system, "pupils")["predictions"][0]["label"] == "cat")
    wait_for("the old version", lambda: system.api.get("/models/pupils").json()["live"] == 1)
    assert [m["status"] for m in system.api.get("/models/pupils").json()["models"]] == ["Rejected", "Approved"]


def test_an_upload_during_a_run_leads_to_one_more(system: LocalSystem) -> None:
    # GIVEN a run that has sealed its version
    system.upload_classes("late", "cat", "dog")
    wait_for("the seal", lambda: "sealed_at" in system.dataset_item("late"))
    # WHEN many more images come while it runs
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: system.upload(f"datasets/late/cat/late-{n}.jpg", str(n).encode()), range(24)))
    runs = system.ended_runs("late", 2)
    # THEN one follow-up run takes them all
    assert [(run["dataset_version"], run["verdict"]) for run in runs] == [(2, "promoted"), (1, "promoted")]
    assert system.document("versions/late/2/seal.json")["objects"] == 30


def test_a_change_is_counted_once_however_often_it_is_announced(system: LocalSystem) -> None:
    # GIVEN a change that EventBridge delivers three times, as it may
    event = {
        "id": str(uuid.uuid4()),
        "detail-type": "Object Created",
        "detail": {
            "bucket": {"name": system.bucket},
            "object": {"key": "datasets/echo/README.txt", "sequencer": "0A"},
        },
    }
    image = json.loads(json.dumps(event).replace("README.txt", "cat/1.jpg"))
    queue = system.session.client("sqs")
    # WHEN the messages are handled, beside one about a file that is no data
    for document in (image, event, image, image):
        queue.send_message(QueueUrl=system.outputs["UploadQueueUrl"], MessageBody=json.dumps(document))
    (run,) = system.ended_runs("echo", 1)
    # THEN one upload is counted, and its run finds that the bucket holds nothing
    assert system.dataset_item("echo")["uploads"] == 1
    assert (run["status"], run["error"]["code"]) == ("FAILED", "EmptyDataset")
    assert "holds no images" in system.mails("echo: the run failed")[0].text


def test_an_upload_that_belongs_to_no_dataset_is_answered_once(system: LocalSystem) -> None:
    # GIVEN uploads under a name that no dataset can have, and one beside the datasets
    # WHEN they come
    for number in range(3):
        system.upload(f"datasets/My Photos/cat/{number}.jpg")
    system.upload("datasets/stray.jpg")
    # THEN each is answered by one mail that says what to do
    wait_for("the mails", lambda: system.mails("My Photos") and system.mails("stray.jpg"))
    (mail,) = system.mails("My Photos")
    assert "cannot be the name of a dataset" in mail.subject
    assert "holiday-photos" in mail.text
    (mail,) = system.mails("stray.jpg")
    assert "datasets/<dataset>/<class>/" in mail.text
    # AND no run is started, nor looked for after a restart
    assert system.dataset_item("My Photos") == {}
    unanswered = recovery.unanswered_datasets(system.session, system.outputs)
    assert "My Photos" not in {dataset for dataset, _ in unanswered}


def test_a_run_that_was_stopped_by_hand_blocks_nothing(system: LocalSystem) -> None:
    # GIVEN a run whose execution is stopped, so that it cannot free its dataset
    system.upload("datasets/halted/cat/1.jpg")
    (run,) = wait_for("a run", lambda: system.runs("halted"))
    arn = f"{system.outputs['StateMachineArn'].replace(':stateMachine:', ':execution:')}:{run['id']}"
    system.session.client("stepfunctions").stop_execution(executionArn=arn)
    # THEN the API says so
    wait_for("the end", lambda: system.runs("halted")[0]["status"] == "ABORTED")
    # WHEN the next upload comes
    system.upload_classes("halted", "cat", "dog")
    # THEN it starts a run of its own
    newest, oldest = system.ended_runs("halted", 2)
    assert (newest["verdict"], oldest["status"]) == ("promoted", "ABORTED")


@pytest.mark.parametrize(("age", "keeps_its_id"), [(timedelta(0), True), (timedelta(hours=1), False)])
def test_a_lock_whose_run_never_began_blocks_nothing(system: LocalSystem, age: timedelta, keeps_its_id: bool) -> None:
    # GIVEN a lock that was taken by a function that died before it started the execution
    dataset = "fresh" if keeps_its_id else "stale"
    run = f"{dataset}-261122143912-9f3a"
    requested_at = (datetime.now(UTC) - age).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    system.session.client("dynamodb").put_item(
        TableName=system.outputs["DatasetsTable"],
        Item={"dataset": {"S": dataset}, "run": {"S": run}, "run_requested_at": {"S": requested_at}},
    )
    # WHEN an upload comes
    system.upload_classes(dataset, "cat")
    # THEN a run starts: under the lock's own id as long as another function may be about to start it
    (started,) = system.ended_runs(dataset, 1)
    assert (started["id"] == run) == keeps_its_id
    assert started["error"]["code"] == "TooFewClasses"


def test_every_error_of_the_api_has_one_shape(system: LocalSystem) -> None:
    # GIVEN a dataset with a live model
    system.upload_classes("shape", "cat", "dog")
    (run,) = system.ended_runs("shape", 1)
    jpeg = {"Content-Type": "image/jpeg"}
    requests: list[tuple[str, str, bytes, dict[str, str], int, str]] = [
        ("POST", "/predict/shape", b"", jpeg, 400, "EmptyBody"),
        ("POST", "/predict/shape", b"no image", jpeg, 400, "InvalidImage"),
        ("POST", "/predict/shape?top_k=0", b"x", jpeg, 400, "InvalidParameter"),
        ("POST", "/predict/shape?top_k=2.5", b"x", jpeg, 400, "InvalidParameter"),
        ("GET", "/runs?limit=101", b"", {}, 400, "InvalidParameter"),
        ("POST", "/predict/nothing-here", b"x", jpeg, 404, "UnknownDataset"),
        ("POST", "/predict/No%20Name", b"x", jpeg, 404, "UnknownDataset"),
        ("GET", "/models/nothing-here", b"", {}, 404, "UnknownDataset"),
        ("GET", "/models/No%20Name", b"", {}, 404, "UnknownDataset"),
        ("GET", "/models/%C3%9Cn%C3%AF", b"", {}, 404, "UnknownDataset"),
        ("GET", "/runs/none", b"", {}, 404, "UnknownRun"),
        ("GET", "/runs/none/report", b"", {}, 404, "UnknownRun"),
        ("GET", "/no/such/path", b"", {}, 404, "NotFound"),
        ("GET", "/predict/shape", b"", {}, 405, "MethodNotAllowed"),
        ("DELETE", "/runs", b"", {}, 405, "MethodNotAllowed"),
        ("POST", "/predict/shape", b"huge", jpeg, 413, "ImageTooLarge"),
        ("POST", "/predict/shape", b"x" * 6_300_000, jpeg, 413, "ImageTooLarge"),
        ("POST", "/predict/shape", b"{}", {"Content-Type": "application/json"}, 400, "InvalidParameter"),
        ("POST", "/predict/shape", b"text", {"Content-Type": "text/plain"}, 415, "UnsupportedMediaType"),
        ("POST", "/predict/shape", b"broken", jpeg, 503, "ModelUnavailable"),
    ]
    for method, path, body, headers, status, code in requests:
        # WHEN it is asked for something that it cannot give
        answer = system.api.request(method, path, content=body, headers=headers)
        # THEN it says so in one shape
        assert answer.status_code == status, (method, path, answer.text)
        assert answer.headers["content-type"] == "application/json"
        (error,) = answer.json().values()
        assert set(error) == {"code", "message", "hint", "request_id"}
        assert error["code"] == code
        assert all(error.values()), error
    # AND what is right is answered: binary bodies, top_k, other image types, paging, a dataset's own runs
    body = bytes(range(256))
    for content_type in ("image/jpeg", "image/png", "image/webp; q=1", "application/x-image"):
        answer = system.api.post(
            "/predict/shape", params={"top_k": "1"}, content=body, headers={"Content-Type": content_type}
        )
        assert answer.json() == {
            "predictions": [{"label": "cat", "score": 0.9}],
            "model_version": 1,
            "dataset": "shape",
        }
    assert [found["id"] for found in system.runs("shape")] == [run["id"]]
    assert len(system.api.get("/runs", params={"limit": "1"}).json()["runs"]) == 1
    described = system.api.get(f"/runs/{urllib.parse.quote(run['id'])}").json()
    assert [state["name"] for state in described["states"]][:7] == [
        "Settle",
        "Decode",
        "Prepare",
        "Tune",
        "Retrain",
        "DescribeChampion",
        "Evaluate",
    ]
    assert {state["status"] for state in described["states"]} == {"SUCCEEDED"}


def test_nothing_ended_in_the_dead_letter_queue(system: LocalSystem) -> None:
    # GIVEN all that the tests above did (or nothing, when this one runs alone)
    attributes = system.session.client("sqs").get_queue_attributes(
        QueueUrl=system.outputs["UploadDeadLetterQueueUrl"], AttributeNames=["ApproximateNumberOfMessages"]
    )["Attributes"]
    # THEN no event was too much for its handler
    assert attributes["ApproximateNumberOfMessages"] == "0"
