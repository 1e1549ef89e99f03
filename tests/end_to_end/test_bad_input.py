"""Bad input gets a clear error and loses nothing."""

import io
import shutil
import zipfile
from pathlib import Path

import httpx
import pytest

from droptune.local_cloud.processes import wait_until
from tests.end_to_end.conftest import PHOTOS, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def drop(system: System, folder: Path, dataset: str, *, expect: int = 0) -> dict[str, object]:
    """Drop `folder`, wait, and return the record of the run."""
    system.run("drop", str(folder), "--dataset", dataset, "--wait", expect=expect)
    runs = system.runs(dataset)
    assert runs, "no run was started"
    return dict(runs[0])


def error_of(system: System, run: dict[str, object]) -> dict[str, str]:
    api = system.json("env")["DROPTUNE_API_URL"]
    return dict(httpx.get(f"{api}/runs/{run['id']}", timeout=30).json()["error"])


def test_bad_files_among_good_ones_are_named_and_do_not_stop_the_run(
    system: System, few_photos: Path, tmp_path: Path
) -> None:
    # GIVEN a dataset with a text file for a photo, a truncated JPEG, an empty file and a zip that climbs out
    folder = tmp_path / "mixed"
    shutil.copytree(few_photos, folder)
    whole = next((PHOTOS / "bird").glob("*.jpg")).read_bytes()
    (folder / "bird" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "coin" / "text.jpg").write_text("no image")
    (folder / "coin" / "empty.jpg").touch()
    climbing = io.BytesIO()
    with zipfile.ZipFile(climbing, "w") as archive:
        archive.writestr("../../../../escaped/x.jpg", whole)
    (folder / "climbing.zip").write_bytes(climbing.getvalue())
    # WHEN it is dropped
    run = drop(system, folder, "mixed")
    # THEN the run ends well, and the mail names each bad file
    assert run["status"] == "SUCCEEDED"
    text = system.mails("mixed")[0]["text"]
    for name in ("truncated.jpg", "text.jpg", "empty.jpg", "climbing.zip"):
        assert name in text
    # AND nothing that was uploaded is gone
    bucket = system.json("env")["DROPTUNE_BUCKET"]
    listed = system.session().client("s3").list_objects_v2(Bucket=bucket, Prefix="datasets/mixed/")["KeyCount"]
    assert listed == 24 + 4


@pytest.mark.parametrize(
    ("dataset", "labels", "code"),
    [("one-class", ["bird"], "TooFewClasses"), ("no-image", ["bird", "coin"], "NoUsableImages")],
)
def test_data_that_cannot_be_learned_from_fails_with_a_reason(
    system: System, few_photos: Path, tmp_path: Path, dataset: str, labels: list[str], code: str
) -> None:
    # GIVEN a dataset with too little in it
    folder = tmp_path / dataset
    for label in labels:
        (folder / label).mkdir(parents=True)
        (folder / label / "zero.jpg").touch()
    if code == "TooFewClasses":
        shutil.copytree(few_photos / "bird", folder / "bird", dirs_exist_ok=True)
    # WHEN it is dropped
    run = drop(system, folder, dataset, expect=1)
    # THEN the run failed, and its status and its mail say why and what to do
    assert run["status"] == "FAILED"
    error = error_of(system, run)
    assert error["code"] == code
    assert error["hint"]
    mail = system.mails(dataset)[0]
    text = " ".join(mail["text"].split())
    assert "failed" in mail["subject"]
    assert error["message"] in text
    assert error["hint"] in text


def test_an_unusable_dataset_name_is_mailed(system: System) -> None:
    # GIVEN an upload beside the rules: a dataset name with a blank and capitals
    bucket = system.json("env")["DROPTUNE_BUCKET"]
    s3 = system.session().client("s3")
    # WHEN it arrives
    s3.put_object(Bucket=bucket, Key="datasets/My Photos/cat/1.jpg", Body=b"x")

    # THEN no run starts, the object stays, and a mail says what to do
    def mails() -> list[object]:
        return [mail for mail in system.json("mail") if "My Photos" in mail["text"]]

    assert wait_until(lambda: bool(mails()), 30)
    assert len(mails()) == 1
    assert not [run for run in system.json("runs") if run["dataset"] == "My Photos"]
    assert s3.head_object(Bucket=bucket, Key="datasets/My Photos/cat/1.jpg")


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status", "code"),
    [
        ("/predict/nowhere", b"\xff\xd8\xff", "image/jpeg", 404, "UnknownDataset"),
        ("/predict/one-class", b"\xff\xd8\xff", "image/jpeg", 503, "NoLiveModel"),
        ("/predict/mixed", b"", "image/jpeg", 400, "EmptyBody"),
        ("/predict/mixed", b"no image", "image/jpeg", 400, "InvalidImage"),
        ("/predict/mixed", b"no image", "text/plain", 415, "UnsupportedMediaType"),
        ("/predict/mixed?top_k=many", b"\xff\xd8\xff", "image/jpeg", 400, "InvalidParameter"),
        ("/nothing-here", b"", "application/json", 404, "NotFound"),
    ],
)
def test_a_bad_prediction_request_gets_the_error_document(
    system: System, path: str, body: bytes, content_type: str, status: int, code: str
) -> None:
    # GIVEN datasets with and without a live model (from the tests above)
    api = system.json("env")["DROPTUNE_API_URL"]
    # WHEN a bad request is posted
    answer = httpx.post(f"{api}{path}", content=body, headers={"content-type": content_type}, timeout=60)
    # THEN it is refused in the one shape of errors
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"code", "message", "hint", "request_id"}
    assert answer.json()["error"]["request_id"]
