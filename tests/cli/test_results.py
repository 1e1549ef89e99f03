"""`runs`, `report` and `predict` against an HTTP server that answers as the API does."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber
from PIL import Image

from droptune import demo
from droptune.cli import main
from droptune.client import Cloud
from droptune.commands.drop import planned

Document = Callable[..., dict[str, Any]]
ANSWER = {
    "predictions": [{"label": "cat", "score": 0.93}, {"label": "dog", "score": 0.07}],
    "model_version": 2,
    "dataset": "pets",
}


@pytest.fixture(autouse=True)
def connected(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Cloud, "connect", lambda home: cloud)


def image(path: Path, kind: str) -> Path:
    Image.new("RGB", (8, 8)).save(path, kind)
    return path


def endpoints(cloud: Cloud, *names: str) -> Stubber:
    """SageMaker's answer to ListEndpoints, by the real client."""
    stub = Stubber(cloud.sagemaker)
    summaries = [
        {
            "EndpointName": name,
            "EndpointArn": f"arn:aws:sagemaker:us-east-1:000000000000:endpoint/{name}",
            "CreationTime": 0,
            "LastModifiedTime": 0,
            "EndpointStatus": "InService",
        }
        for name in names
    ]
    request = {"NameContains": "droptune-", "StatusEquals": "InService"}
    stub.add_response("list_endpoints", {"Endpoints": summaries}, request)
    return stub


def output_of(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_runs_are_listed_as_the_contract_says(
    api: Any, run_document: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN two runs, one on its way, and one of another dataset
    open_run = {"status": "RUNNING", "ended_at": None, "accuracy": None, "model_version": None, "verdict": None}
    api.runs = [run_document("two", **open_run), run_document("one"), run_document("x", dataset="x")]

    # WHEN they are listed
    assert main(["runs", "--dataset", "pets", "--json"]) == 0
    documents = output_of(capsys)
    assert main(["runs"]) == 0
    table = capsys.readouterr().out

    # THEN each has these fields, and no more
    assert [document["id"] for document in documents] == ["two", "one"]
    assert documents[1] == {
        "id": "one",
        "dataset": "pets",
        "status": "SUCCEEDED",
        "verdict": "promoted",
        "started_at": "2026-11-22T14:00:00Z",
        "ended_at": "2026-11-22T14:02:03Z",
        "dataset_version": 1,
        "model_version": 1,
        "accuracy": 0.875,
    }
    assert "promoted" in table
    assert "87.5%" in table
    assert max(map(len, table.splitlines())) <= 80


def test_no_runs_are_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--json"]) == 0
    assert output_of(capsys) == []
    assert main(["runs"]) == 0
    assert "droptune drop" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["latest"], ["two"]], ids=["default", "latest", "by id"])
def test_a_report_is_fetched_through_its_signed_link(
    arguments: list[str],
    cloud: Cloud,
    api: Any,
    run_document: Document,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # GIVEN a report in S3 and an API that redirects to it
    cloud.s3.put_object(Bucket=cloud.bucket, Key="report.html", Body=b"<html>87.5 %</html>")
    link = cloud.s3.generate_presigned_url("get_object", Params={"Bucket": cloud.bucket, "Key": "report.html"})
    api.runs = [run_document("two"), run_document("one")]
    api.reports = {"two": link}

    # WHEN it is asked for
    assert main(["report", *arguments, "--json"]) == 0

    # THEN it lies where the command says
    document = output_of(capsys)
    assert document["run"] == "two"
    assert document["path"] == str(tmp_path / "home" / "reports" / "two.html")
    assert Path(document["path"]).read_bytes() == b"<html>87.5 %</html>"


def test_a_report_that_cannot_be_had_says_why(
    cloud: Cloud, api: Any, run_document: Document, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN no run; then a run without a report; then a report that is gone, or cannot be written
    none = main(["report", "--json"]), output_of(capsys)["error"]["code"]
    api.runs = [run_document("one")]
    without = main(["report", "--json"]), output_of(capsys)["error"]["code"]
    parameters = {"Bucket": cloud.bucket, "Key": "absent.html"}
    api.reports = {"one": cloud.s3.generate_presigned_url("get_object", Params=parameters)}
    gone = main(["report", "--json"]), output_of(capsys)["error"]["code"]
    cloud.s3.put_object(Bucket=cloud.bucket, Key="absent.html", Body=b"x")
    (tmp_path / "file").touch()
    unwritable = main(["report", "-o", str(tmp_path / "file" / "x.html"), "--json"])

    # THEN each is told apart
    assert none == (4, "UnknownRun")
    assert without == (4, "NotFound")
    assert gone == (4, "NotFound")
    assert (unwritable, output_of(capsys)["error"]["code"]) == (1, "CannotWrite")


def test_watch_ends_with_one_document_and_the_runs_result(
    api: Any, run_document: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN a failed run and an older one that ended well
    reason = {"code": "TooFewClasses", "message": "One class.", "hint": "Add one."}
    api.runs = [run_document("bad", status="FAILED", error=reason), run_document("good")]

    # THEN watch says so by its exit code, and names the reason
    assert main(["watch", "good", "--json"]) == 0
    assert output_of(capsys)["id"] == "good"
    assert main(["watch", "--json"]) == 1
    assert output_of(capsys)["error"] == reason
    assert main(["watch"]) == 1
    assert "error      One class." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kind", "media_type"),
    [
        ("a.jpg", "JPEG", "image/jpeg"),
        ("a.png", "PNG", "image/png"),
        ("a.webp", "WEBP", "image/webp"),
        ("lies.jpg", "PNG", "image/png"),
    ],
)
def test_an_image_is_sent_as_it_is_with_its_own_media_type(
    name: str, kind: str, media_type: str, api: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN an API that notes what it gets
    got: list[tuple[str, str, bytes]] = []

    def predict(*request: Any) -> tuple[int, dict[str, Any]]:
        got.append(request)
        return 200, ANSWER

    api.predict = predict
    file = image(tmp_path / name, kind)

    # WHEN an image is classified
    assert main(["predict", str(file), "--dataset", "pets", "--top", "2", "--json"]) == 0

    # THEN it went over the wire unchanged, and the answer has the contract's form
    assert got == [("pets", media_type, file.read_bytes())]
    assert api.requests == ["/predict/pets?top_k=2"]
    assert output_of(capsys) == [
        {"file": str(file), "predictions": ANSWER["predictions"], "model_version": ANSWER["model_version"]}
    ]


def test_a_bad_image_does_not_keep_the_others_from_their_answer(
    api: Any, api_error: Document, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN a good image, one the API refuses, and one that is not there
    refusal = api_error("UnsupportedMediaType", "[text] is no image.", "Send a JPEG.")
    api.predict = lambda dataset, kind, body: (200, ANSWER) if kind == "image/png" else (415, refusal)
    good = image(tmp_path / "good.png", "PNG")
    bad = tmp_path / "bad.txt"
    bad.write_text("no image")
    arguments = ["predict", "--dataset", "pets", str(bad), str(good), str(tmp_path / "absent.jpg")]

    # WHEN they are classified together
    assert main([*arguments, "--json"]) == 1
    refused, answered, absent = output_of(capsys)
    assert main(arguments) == 1
    shown = capsys.readouterr()

    # THEN each has its own result
    assert refused["error"] == {
        "code": "UnsupportedMediaType",
        "message": "[text] is no image.",
        "hint": "Save it as JPEG, PNG or WebP.",
    }
    assert answered["predictions"] == ANSWER["predictions"]
    assert absent["error"]["code"] == "NoSuchPath"
    assert "good.png" in shown.out
    # AND what failed stands beside the table, each with its next step
    assert "bad.txt: [text] is no image. Save it as JPEG, PNG or WebP." in shown.err
    assert "absent.jpg could not be read. No such file or directory. Check the path." in shown.err
    assert "93.0%" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(404, "UnknownDataset", 4), (503, "NoLiveModel", 1), (503, "ModelUnavailable", 1)],
)
def test_what_no_image_can_pass_is_one_error(
    status: int,
    code: str,
    exit_code: int,
    api: Any,
    api_error: Document,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api.predict = lambda *request: (status, api_error(code))
    file = str(image(tmp_path / "a.png", "PNG"))
    assert main(["predict", file, file, "--dataset", "pets", "--json"]) == exit_code
    assert output_of(capsys)["error"]["code"] == code
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("names", "exit_code", "code"),
    [
        (["droptune-pets"], 0, None),
        (["droptune-pets", "my-droptune-other"], 0, None),
        ([], 4, "NoLiveModel"),
        (["droptune-pets", "droptune-birds"], 2, "AmbiguousDataset"),
    ],
)
def test_without_a_name_the_only_live_dataset_is_asked(
    names: list[str],
    exit_code: int,
    code: str | None,
    cloud: Cloud,
    api: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # GIVEN these endpoints in service
    api.predict = lambda *request: (200, ANSWER)
    with endpoints(cloud, *names):
        # WHEN no dataset is named
        assert main(["predict", str(image(tmp_path / "a.png", "PNG")), "--json"]) == exit_code

    # THEN one is asked, or the error lists them
    document = output_of(capsys)
    if code is None:
        assert api.requests == ["/predict/pets?top_k=3"]
    else:
        assert document["error"]["code"] == code
        assert all(name.removeprefix("droptune-") in document["error"]["message"] for name in names)


def test_an_answer_that_is_not_the_apis_is_told_as_such(
    cloud: Cloud, api: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN something else on the API's port
    cloud.api_url += "/proxy"

    # THEN the error has the status and the words of whatever answered
    assert main(["runs", "--json"]) == 1
    error = output_of(capsys)["error"]
    assert error["code"] == "UnexpectedAnswer"
    assert "502" in error["message"]
    assert "bad gateway" in error["message"]


def test_an_api_that_is_gone_is_not_running(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.api_url = "http://127.0.0.1:9"
    assert main(["runs", "--json"]) == 3
    assert output_of(capsys)["error"]["code"] == "NotRunning"


def test_the_demo_holds_one_photo_of_each_class_back() -> None:
    # GIVEN the example photos
    plan = planned(demo.PHOTOS, demo.DATASET)

    # WHEN they are split
    kept, held_out = demo.split(plan)

    # THEN the model can never see the held-out ones, nor a copy of one
    def digests(files: Any) -> set[str]:
        return {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert set(held_out) == set(plan.classes)
    assert len(kept.files) == len(plan.files) - len(held_out)
    assert not digests(kept.files.values()) & digests(held_out.values())
    assert demo.split(plan) == (kept, held_out)


def test_the_demo_counts_the_right_answers(cloud: Cloud, api: Any, tmp_path: Path) -> None:
    from rich.console import Console

    # GIVEN a model that says "cat" to everything
    api.predict = lambda *request: (200, ANSWER)
    photos = {label: image(tmp_path / f"{label}.png", "PNG") for label in ("cat", "dog")}
    console = Console(file=io.StringIO(), width=80)

    # THEN one of two photos is right
    assert demo.predict_held_out(cloud, console, photos) == 1
    assert isinstance(console.file, io.StringIO)
    assert "✗ cat" in console.file.getvalue()


@pytest.mark.parametrize(("command", "code"), [("watch", "UnknownRun"), ("report", "NotFound")])
def test_the_next_step_is_a_command_and_not_a_request(
    command: str, code: str, api: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN an API that knows no run, and whose own next step is a request
    # WHEN a command meets its refusal
    assert main([command, "nope", "--json"]) == 4

    # THEN the next step is one that can be typed
    error = output_of(capsys)["error"]
    assert error["code"] == code
    assert "`droptune " in error["hint"]


@pytest.mark.parametrize("command", [["runs"], ["watch"], ["predict", "x.jpg"]])
@pytest.mark.parametrize("name", ["../runs", "a b/ü", "-x", "x" * 33, ""])
def test_a_name_that_no_dataset_can_have_is_refused_at_once(
    command: list[str], name: str, api: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--dataset", name, "--json"]) == 2
    assert output_of(capsys)["error"]["code"] == "BadDatasetName"
    assert api.requests == []


def test_no_run_of_a_dataset_is_told_from_no_run_at_all(api: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    assert "No run yet." in capsys.readouterr().out
    assert main(["runs", "--dataset", "cats"]) == 0
    assert "No run of dataset cats yet. Start one with droptune drop FOLDER --dataset cats." in capsys.readouterr().out


@pytest.mark.parametrize("status", ["ABORTED", "TIMED_OUT"])
def test_a_run_that_was_stopped_has_a_next_step(
    status: str, api: Any, run_document: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    api.runs = [run_document("stopped", status=status, verdict=None)]
    assert main(["watch", "stopped"]) == 1
    text = capsys.readouterr().out
    assert "every upload is kept" in text
    assert "next step  Upload one file again" in text
