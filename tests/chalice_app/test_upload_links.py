"""POST /datasets/{name}/uploads: which forms are signed, and that S3 holds their users to them."""

import base64
import json
from datetime import datetime
from typing import Any

import httpx
import pytest
from chalicelib import config, times, upload_links

from tests.chalice_app.conftest import BUCKET, Api, Stack
from tests.chalice_app.test_datasets_api import refusal

JPEG = {"path": "cat/1.jpg", "content_type": "image/jpeg"}


def ask(api: Api, *files: Any, dataset: str = "pets") -> Any:
    """The API's answer for these files."""
    return api.send("POST", f"/datasets/{dataset}/uploads", {"files": files})


def send(upload: dict[str, Any], body: bytes, **fields: str) -> httpx.Response:
    """Send a file with its form, as a browser does; `fields` are changed in it."""
    return httpx.post(upload["url"], data=upload["fields"] | fields, files={"file": ("1.jpg", body)}, trust_env=False)


def test_a_form_uploads_its_file(api: Api, stack: Stack) -> None:
    # GIVEN a dataset that does not exist yet
    answer = ask(api, JPEG, {"path": "train/dog/ü 1.PNG", "content_type": "image/png"})
    document = answer.json_body
    assert (answer.status_code, document["expires_in"]) == (200, 3600)
    assert [(upload["path"], upload["max_bytes"]) for upload in document["uploads"]] == [
        ("cat/1.jpg", 104857600),
        ("train/dog/ü 1.PNG", 104857600),
    ]
    # WHEN the files are sent
    for upload in document["uploads"]:
        assert send(upload, b"an image").status_code == 204
    # THEN they lie in the dataset, with their types
    assert stack.keys("datasets/pets/") == ["cat/1.jpg", "train/dog/ü 1.PNG"]
    head = config.client("s3").head_object(Bucket=BUCKET, Key="datasets/pets/cat/1.jpg")
    assert (head["ContentLength"], head["ContentType"]) == (8, "image/jpeg")


@pytest.mark.parametrize(
    ("path", "content_type", "body", "max_bytes"),
    [
        ("photos.zip", "application/zip", b"PK", 5 * 1024**3),
        ("photos.tar.gz", "application/gzip", b"\x1f\x8b", 5 * 1024**3),
        ("labels.csv", "text/csv", b"path,label\n", 100 * 1024**2),
        ("output.manifest", "application/json", b"{}", 100 * 1024**2),
        ("_READY", "text/plain", b"", 1024),
    ],
)
def test_other_kinds_of_files(
    api: Api, stack: Stack, path: str, content_type: str, body: bytes, max_bytes: int
) -> None:
    (upload,) = ask(api, {"path": path, "content_type": content_type}).json_body["uploads"]
    assert upload["max_bytes"] == max_bytes
    assert send(upload, body).status_code == 204
    assert stack.keys("datasets/pets/") == [path]


def test_s3_refuses_what_the_form_does_not_allow(api: Api, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN forms, one of them signed for small files and one long ago
    monkeypatch.setattr(upload_links, "IMAGE", upload_links.Kind("an image", ("image/jpeg",), 10))
    (upload,) = ask(api, JPEG).json_body["uploads"]
    monkeypatch.setattr(upload_links, "EXPIRES_IN_SECONDS", -60)
    (expired,) = ask(api, JPEG).json_body["uploads"]
    # WHEN they are used for anything else THEN S3 says no
    for answer, code in (
        (send(upload, b""), "EntityTooSmall"),
        (send(upload, b"x" * 11), "EntityTooLarge"),
        (send(upload, b"x", **{"Content-Type": "text/html"}), "AccessDenied"),
        (send(upload, b"x", key="datasets/pets/cat/2.jpg"), "AccessDenied"),
        (send(upload, b"x", key="weights/resnet18/x.pth"), "AccessDenied"),
        (send(upload, b"x", **{"x-amz-meta-more": "1"}), "AccessDenied"),
        (send(expired, b"x"), "AccessDenied"),
    ):
        assert answer.status_code in (400, 403)
        assert f"<Code>{code}</Code>" in answer.text
    assert stack.keys("") == []
    # AND yes to what was signed
    assert send(upload, b"x" * 10).status_code == 204


def test_the_policy_is_signed_for_this_file_alone(api: Api) -> None:
    # GIVEN a form WHEN its policy is read
    (upload,) = ask(api, JPEG).json_body["uploads"]
    policy = json.loads(base64.b64decode(upload["fields"]["policy"]))
    # THEN it names the bucket, the key, the type, the size and an hour
    for condition in (
        {"bucket": BUCKET},
        {"key": "datasets/pets/cat/1.jpg"},
        {"Content-Type": "image/jpeg"},
        ["content-length-range", 1, 104857600],
    ):
        assert condition in policy["conditions"]
    assert not any(isinstance(condition, list) and condition[0] == "starts-with" for condition in policy["conditions"])
    left = datetime.fromisoformat(policy["expiration"]) - times.now()
    assert 3500 < left.total_seconds() <= 3600


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/cat/1.jpg",
        "../other/cat/1.jpg",
        "cat/../../x/1.jpg",
        "cat/./1.jpg",
        "cat//1.jpg",
        "cat/",
        "cat\\1.jpg",
        "cat/\n1.jpg",
        "cat/\ud8001.jpg",
        "cat/${filename}",
        "${filename}.jpg",
        "ü" * 505 + ".jpg",
        "cat/notes.txt",
        "cat/photos.zip",
        "cat/labels.csv",
        "cat/_READY",
        "cat/.1.jpg",
        "__MACOSX/cat/1.jpg",
        "README.jpg",
        "cat",
    ],
    ids=range(21),
)
def test_paths_that_are_no_data_are_refused(api: Api, path: str) -> None:
    # GIVEN one path among good ones that cannot be part of a dataset
    # WHEN forms are asked for THEN none is signed
    answer = ask(api, JPEG, {"path": path, "content_type": "image/jpeg"})
    assert refusal(answer) == (400, "InvalidParameter")


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        {"path": "cat/1.jpg"},
        ["cat/1.jpg"],
        [{"path": "cat/1.jpg"}],
        [{"path": 1, "content_type": "image/jpeg"}],
        [{"path": "cat/1.jpg", "content_type": "text/html"}],
        [{"path": "photos.zip", "content_type": "image/jpeg"}],
        [JPEG] * 101,
    ],
    ids=range(9),
)
def test_other_requests_are_refused(api: Api, files: Any) -> None:
    answer = api.send("POST", "/datasets/pets/uploads", {"files": files})
    assert refusal(answer) == (400, "InvalidParameter")


def test_a_hundred_files_at_once(api: Api) -> None:
    assert len(ask(api, *[JPEG] * 100).json_body["uploads"]) == 100


def test_a_name_that_no_dataset_can_have_is_refused(api: Api) -> None:
    assert refusal(ask(api, JPEG, dataset="My-Pets")) == (400, "InvalidParameter")


@pytest.mark.parametrize("body", [b"", b"files", b"[]", b"{}"])
def test_other_bodies_are_refused(api: Api, body: bytes) -> None:
    assert refusal(api.send("POST", "/datasets/pets/uploads", body)) == (400, "InvalidParameter")


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_links_and_forms_name_the_buckets_own_region(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a function in AWS itself
    for name, value in (("AWS_DEFAULT_REGION", region), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BUCKET", "droptune-pets")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    config.client.cache_clear()
    # WHEN a form is signed THEN its address is no redirect, which would lose the file
    (upload,) = upload_links.sign_uploads("pets", {"files": [JPEG]})["uploads"]
    config.client.cache_clear()
    host = "s3.amazonaws.com" if region == "us-east-1" else f"s3.{region}.amazonaws.com"
    assert upload["url"] == f"https://droptune-pets.{host}/"
