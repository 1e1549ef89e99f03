"""`POST /predict/{dataset}`: every way in, one answer."""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from chalicelib import prediction_requests, url_fetch

from tests.api.deployed import DATASET, Handler, System

PHOTO = bytes(range(256)) * 40 + b"\r\n--not-a-boundary\r\n\x00\xff"
JPEG = {"Content-Type": "image/jpeg"}
JSON = {"Content-Type": "application/json"}


def error_of(answer: Any, status: int) -> dict[str, str]:
    """The error of an answer, which has the one shape."""
    assert (answer.status_code if isinstance(answer, httpx.Response) else answer.status) == status, answer.text
    (error,) = answer.json().values()
    assert set(error) == {"code", "message", "hint", "request_id"}
    assert all(error.values())
    return dict(error)


def in_base64(body: bytes) -> str:
    return base64.b64encode(body).decode()


@pytest.fixture(scope="module")
def expected(system: System) -> dict[str, Any]:
    """What the API answers to the photo as a raw body."""
    answer = system.api.post(f"/predict/{DATASET}", params={"top_k": 2}, content=PHOTO, headers=JPEG)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    assert len(document["predictions"]) == 2
    assert {"model_version": 1, "dataset": DATASET}.items() <= document.items()
    return document


class TestEveryWayIn:
    """The same image gives the same answer to the byte, over HTTP, through API Gateway and Lambda."""

    def test_all_raw_types(self, system: System, expected: dict[str, Any]) -> None:
        for media_type in (*prediction_requests.IMAGE_TYPES, "image/jpg", "IMAGE/PNG; charset=x"):
            headers = {"Content-Type": media_type}
            answer = system.api.post(f"/predict/{DATASET}", params={"top_k": 2}, content=PHOTO, headers=headers)
            assert answer.json() == expected, media_type

    def test_json(self, system: System, expected: dict[str, Any]) -> None:
        # GIVEN the photo in the bucket
        key = system.put("predictions/uploads/photo", PHOTO)
        sources = [
            {"base64": in_base64(PHOTO)},
            {"base64": f"data:image/jpeg;base64,{in_base64(PHOTO)}"},
            {"s3": key},
            {"s3": f"s3://{system.bucket}/{key}"},
        ]
        # WHEN it is named in each way, alone and in one list
        alone = [system.api.post(f"/predict/{DATASET}", json={**source, "top_k": 2}) for source in sources]
        listed = system.api.post(f"/predict/{DATASET}", json={"images": sources, "top_k": 2})
        # THEN every answer is that of the raw body
        assert [answer.json() for answer in alone] == [expected] * 4
        assert [result["predictions"] for result in listed.json()["results"]] == [expected["predictions"]] * 4
        assert [result["image"] for result in listed.json()["results"]] == [
            "0",
            "1",
            key,
            f"s3://{system.bucket}/{key}",
        ]

    def test_a_form(self, system: System, expected: dict[str, Any]) -> None:
        files = [("image", (name, PHOTO, "image/jpeg")) for name in ("a.jpg", "ü b.jpg")]
        answer = system.api.post(f"/predict/{DATASET}", params={"top_k": 2}, files=files)
        assert answer.json() == {
            "results": [{"image": name, "predictions": expected["predictions"]} for name in ("a.jpg", "ü b.jpg")],
            "model_version": 1,
            "dataset": DATASET,
        }

    def test_a_url(self, handler: Handler, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        # GIVEN a server that holds the photo (how it is fetched is the subject of test_url_fetch.py)
        monkeypatch.setattr(url_fetch, "fetch", lambda url, *_, **__: PHOTO)
        # WHEN its address is sent
        body = json.dumps({"url": "https://example.com/photo.jpg", "top_k": 2}).encode()
        answer = handler("POST", f"/predict/{DATASET}", body, JSON)
        # THEN the answer is that of the raw body
        assert answer.json() == expected

    def test_what_the_model_adds_is_passed_on(self, system: System) -> None:
        answer = system.api.post(f"/predict/{DATASET}?explain=true", content=PHOTO, headers=JPEG)
        assert answer.json()["heatmap"] == "iVBORw0KGgo="
        answer = system.api.post(f"/predict/{DATASET}", json={"base64": in_base64(PHOTO), "explain": True})
        assert "heatmap" in answer.json()


class TestSeveralImages:
    def test_a_bad_one_among_good_ones(self, system: System) -> None:
        # GIVEN good images and one of each kind of bad one
        bad = {
            "InvalidImage": {"base64": in_base64(b"no image")},
            "ImageTooLarge": {"base64": in_base64(b"huge")},
            "Overloaded": {"base64": in_base64(b"busy")},
            "NotFound": {"s3": "datasets/pets/none.jpg"},
            "InvalidParameter": {"s3": "runs/secret.json"},
            "UrlRefused": {"url": "https://127.0.0.1/a.jpg"},
            "EmptyBody": {"s3": system.put("predictions/uploads/empty", b"")},
        }
        good = {"base64": in_base64(PHOTO)}
        # WHEN they are asked for together
        answer = system.api.post(f"/predict/{DATASET}", json={"images": [good, *bad.values(), good]})
        # THEN the good ones have labels, and each bad one its own error
        assert answer.status_code == 200, answer.text
        first, *refused, last = answer.json()["results"]
        assert first["predictions"] == last["predictions"]
        assert [result["error"]["code"] for result in refused] == list(bad)
        assert all(result["error"]["message"] and result["error"]["hint"] for result in refused)

    def test_a_broken_model_fails_them_all(self, system: System) -> None:
        images = [{"base64": in_base64(PHOTO)}, {"base64": in_base64(b"broken")}]
        answer = system.api.post(f"/predict/{DATASET}", json={"images": images})
        assert error_of(answer, 503)["code"] == "ModelUnavailable"

    def test_too_many(self, handler: Handler) -> None:
        body = json.dumps({"images": [{"base64": "AA=="}] * 17}).encode()
        error = error_of(handler("POST", f"/predict/{DATASET}", body, JSON), 400)
        assert error["code"] == "InvalidParameter"
        assert "16" in error["message"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "code", "status"),
        [
            (b"no image", "InvalidImage", 400),
            (b"no map", "ExplainUnavailable", 400),
            (b"huge", "ImageTooLarge", 413),
            (b"busy", "Overloaded", 429),
            (b"broken", "ModelUnavailable", 503),
        ],
        ids=str,
    )
    def test_the_models_own(self, system: System, body: bytes, code: str, status: int) -> None:
        answer = system.api.post(f"/predict/{DATASET}", content=body, headers=JPEG)
        assert error_of(answer, status)["code"] == code
        assert ("retry-after" in answer.headers) == (status == 429)

    @pytest.mark.parametrize(
        "document",
        [
            {},
            [],
            "x",
            None,
            {"images": []},
            {"images": [{}]},
            {"images": [{"s3": "datasets/a", "url": "https://a"}]},
            {"s3": "datasets/a", "url": "https://a"},
            {"s3": 7},
            {"base64": "not base64!"},
            {"base64": "AA==", "top_k": 0},
            {"base64": "AA==", "top_k": 1001},
            {"base64": "AA==", "top_k": "3"},
            {"base64": "AA==", "explain": "yes"},
            {"base64": "AA==", "unknown": 1},
            {"s3": "s3://another-bucket/datasets/a.jpg"},
            {"s3": "runs/pets/secret"},
            {"s3": "datasets/../runs/secret"},
        ],
        ids=json.dumps,
    )
    def test_bad_json(self, handler: Handler, document: Any) -> None:
        answer = handler("POST", f"/predict/{DATASET}", json.dumps(document).encode(), JSON)
        assert error_of(answer, 400)["code"] == "InvalidParameter"

    @pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"top_k": NaN, "base64": "AA=="}'], ids=range(4))
    def test_no_json(self, handler: Handler, body: bytes) -> None:
        assert error_of(handler("POST", f"/predict/{DATASET}", body, JSON), 400)["code"] == "InvalidParameter"

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=b", b"no boundary"),
            ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\ncut off"),
            ("multipart/form-data; boundary=b", b"--b--\r\n"),
            ("multipart/form-data; boundary=b", b"--b\r\nX: " + b"y" * 10_000 + b"\r\n\r\n\r\n--b--\r\n"),
        ],
        ids=["no boundary", "no form", "cut off", "no file", "long header"],
    )
    def test_bad_forms(self, handler: Handler, content_type: str, body: bytes) -> None:
        answer = handler("POST", f"/predict/{DATASET}", body, {"Content-Type": content_type})
        assert error_of(answer, 400)["code"] == "InvalidParameter"

    @pytest.mark.parametrize("query", [{"top_k": "0"}, {"explain": "1"}, {"model_version": "x"}], ids=str)
    def test_bad_queries(self, handler: Handler, query: dict[str, str]) -> None:
        answer = handler("POST", f"/predict/{DATASET}", PHOTO, JPEG, query)
        assert error_of(answer, 400)["code"] == "InvalidParameter"

    def test_other_types_and_no_body(self, handler: Handler) -> None:
        text = handler("POST", f"/predict/{DATASET}", b"x", {"Content-Type": "text/plain"})
        assert error_of(text, 415)["code"] == "UnsupportedMediaType"
        assert error_of(handler("POST", f"/predict/{DATASET}", b"x", {}), 415)["code"] == "UnsupportedMediaType"
        assert error_of(handler("POST", f"/predict/{DATASET}", b"", JPEG), 400)["code"] == "EmptyBody"

    def test_unknown_datasets_and_versions(self, handler: Handler) -> None:
        unknown = handler("POST", "/predict/nobody", PHOTO, JPEG)
        assert error_of(unknown, 404)["code"] == "UnknownDataset"
        version = handler("POST", f"/predict/{DATASET}", PHOTO, JPEG, {"model_version": "99"})
        assert error_of(version, 404)["code"] == "UnknownModel"
        live = handler("POST", f"/predict/{DATASET}", PHOTO, JPEG, {"model_version": "1"})
        assert live.status == 200


class TestLargeBodies:
    """The limit of Lambda's requests, with a way around it."""

    def test_4_4_megabytes_pass(self, system: System) -> None:
        answer = system.api.post(f"/predict/{DATASET}", content=os.urandom(4_400_000), headers=JPEG)
        assert answer.status_code == 200, answer.text

    def test_4_6_megabytes_get_a_hint_that_works(self, system: System, tmp_path: Path) -> None:
        # GIVEN an image that is too large for Lambda and small enough for the model
        photo = os.urandom(4_600_000)
        error = error_of(system.api.post(f"/predict/{DATASET}", content=photo, headers=JPEG), 413)
        assert error["code"] == "ImageTooLarge"
        # WHEN the hint is followed to the letter
        url = re.search(r"PUT to (\S+)", error["hint"])
        source = re.search(r"POST (\{.*?\})", error["hint"])
        assert url
        assert source
        assert httpx.put(url[1], content=photo, trust_env=False).status_code == 200
        answer = system.api.post(f"/predict/{DATASET}", json=json.loads(source[1]))
        # THEN it has its labels
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"]

    def test_more_than_the_model_takes_has_to_be_made_smaller(self, handler: Handler) -> None:
        error = error_of(handler("POST", f"/predict/{DATASET}", bytes(6_300_000), JPEG), 413)
        assert "smaller" in error["hint"]
        assert "http" not in error["hint"]

    def test_a_signed_place(self, system: System) -> None:
        place = system.api.post("/predictions/uploads", json={"bytes": len(PHOTO)}).json()
        assert httpx.request(place["method"], place["url"], content=PHOTO, trust_env=False).status_code == 200
        assert system.api.post(f"/predict/{DATASET}", json={"s3": place["s3"]}).status_code == 200
        # AND the size is part of what is signed
        assert "content-length" in place["url"].lower()

    def test_no_place_for_what_no_model_takes(self, handler: Handler) -> None:
        for size in (0, 6_300_000, -1):
            answer = handler("POST", "/predictions/uploads", json.dumps({"bytes": size}).encode(), JSON)
            assert error_of(answer, 400)["code"] == "InvalidParameter"

    def test_an_object_that_is_too_large(self, system: System, handler: Handler) -> None:
        key = system.put("predictions/uploads/large", bytes(6_300_000))
        answer = handler("POST", f"/predict/{DATASET}", json.dumps({"s3": key}).encode(), JSON)
        assert error_of(answer, 413)["code"] == "ImageTooLarge"
