"""The routes below /datasets, called as API Gateway calls them, on a real bucket, tables and SageMaker."""

import json
from typing import Any

import httpx
import pytest
from chalice.test import HTTPResponse
from chalicelib import config, dataset_settings, datasets, sealing

from tests.chalice_app.conftest import Api, Stack

DOCTOR: dict[str, Any] = {
    "dataset": "pets",
    "version": 2,
    "parent": 1,
    "images": 3,
    "classes": {"cat": {"images": 2, "train": 1, "valid": 1, "test": 0}},
    "quarantined": [{"file": "cat/9.jpg", "reason": "The file is empty.", "hint": "Upload it again."}],
    "duplicates": [{"files": ["cat/1.jpg", "cat/2.jpg"], "kind": "exact", "splits_joined": True}],
    "suspected_labels": [],
    "findings": [],
    "remarks": {},
    "decoded": 1,
    "reused": 2,
}


def refusal(answer: HTTPResponse) -> tuple[int, str]:
    """Status and code of an error in the one shape."""
    error = answer.json_body["error"]
    assert set(error) == {"code", "message", "hint", "request_id"}
    assert all(error.values())
    return answer.status_code, error["code"]


def settle(dataset: str = "pets") -> dict[str, Any]:
    return sealing.settle(dataset, 60, 900, "resnet18", 224)


@pytest.fixture
def pets(stack: Stack) -> Stack:
    """Two versions of `pets`, the second one looked at by the doctor."""
    for key in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        stack.put(f"datasets/pets/{key}")
    settle()
    stack.put("datasets/pets/cat/9.jpg", "")
    stack.delete("datasets/pets/dog/1.jpg")
    settle()
    stack.put("versions/pets/2/doctor.json", json.dumps(DOCTOR))
    stack.put("versions/pets/2/doctor.html", "<h1>The data doctor</h1>")
    stack.put("versions/pets/2/manifest.jsonl", '{"key": "cat/1.jpg"}\n')
    return stack


def test_datasets_are_listed_by_name_and_page(api: Api, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN datasets, more than a page holds, one of them in use
    for number in (3, 1, 2, 0):
        config.datasets_table().put_item(Item={"dataset": f"set-{number}", "uploads": 1})
    config.datasets_table().put_item(Item={"dataset": "pets", "last_upload_at": "2026-11-22T14:39:12.000Z", "run": "r"})
    scan = config.datasets_table().scan
    monkeypatch.setattr(config.datasets_table(), "scan", lambda **request: scan(Limit=2, **request))
    # WHEN they are listed page by page
    pages = [api.get("/datasets?limit=2").json_body]
    while pages[-1]["next"]:
        pages.append(api.get(f"/datasets?limit=2&next={pages[-1]['next']}").json_body)
    # THEN each is there once, by name
    names = [[dataset["name"] for dataset in page["datasets"]] for page in pages]
    assert names == [["pets", "set-0"], ["set-1", "set-2"], ["set-3"]]
    # AND what is not known yet is null
    assert pages[0]["datasets"][0] == {
        "name": "pets",
        "versions": 0,
        "newest_version": None,
        "live_version": None,
        "objects": None,
        "bytes": None,
        "last_upload_at": "2026-11-22T14:39:12.000Z",
        "run": "r",
        "settings": {
            "quiet_seconds": None,
            "max_wait_seconds": None,
            "defaults": {"quiet_seconds": 60, "max_wait_seconds": 900},
        },
    }


def test_a_dataset(api: Api, pets: Stack) -> None:
    # GIVEN a dataset with two versions WHEN it is asked for THEN its newest version is summed up
    found = api.get("/datasets/pets").json_body
    assert (found["name"], found["versions"], found["newest_version"]) == ("pets", 2, 2)
    assert (found["objects"], found["bytes"], found["live_version"]) == (3, 10, None)


def test_uploads_that_nothing_has_counted_make_a_dataset(api: Api, stack: Stack) -> None:
    stack.put("datasets/fresh/cat/1.jpg")
    found = api.get("/datasets/fresh").json_body
    assert (found["name"], found["versions"], found["last_upload_at"]) == ("fresh", 0, None)
    assert api.get("/datasets/fresh/versions").json_body == {"versions": [], "next": None}


def test_versions_are_listed_newest_first(api: Api, pets: Stack) -> None:
    # GIVEN two versions and a number without a seal
    pets.put("versions/pets/3/objects.jsonl", "")
    # WHEN they are listed
    listing = api.get("/datasets/pets/versions").json_body
    # THEN the gap is no version, and the doctor's numbers are those that are known
    assert listing["next"] is None
    second, first = listing["versions"]
    assert tuple(second) == (*datasets.SEALED, *datasets.FOUND)
    assert (second["version"], second["parent"], second["added"], second["removed"], second["changed"]) == (
        2,
        1,
        1,
        1,
        0,
    )
    assert {name: second[name] for name in datasets.FOUND} == {
        "images": 3,
        "quarantined": 1,
        "suspected_labels": 0,
        "duplicates": 1,
    }
    assert (first["version"], first["parent"], first["images"], first["quarantined"]) == (1, None, None, None)
    # AND page by page
    page = api.get("/datasets/pets/versions?limit=1").json_body
    assert ([v["version"] for v in page["versions"]], page["next"]) == ([2], "2")
    last = api.get("/datasets/pets/versions?limit=1&next=2").json_body
    assert ([v["version"] for v in last["versions"]], last["next"]) == ([1], None)


def test_a_version(api: Api, pets: Stack) -> None:
    # GIVEN a version that the doctor has looked at WHEN it is asked for
    found = api.get("/datasets/pets/versions/2").json_body
    # THEN it comes with the difference, the findings and links that work
    assert found["diff"] == {"parent": 1, "added": ["cat/9.jpg"], "removed": ["dog/1.jpg"], "changed": []}
    assert found["doctor"] == DOCTOR
    assert (found["images"], found["duplicates"]) == (3, 1)
    assert httpx.get(found["manifest_url"], trust_env=False).text == '{"key": "cat/1.jpg"}\n'
    assert "The data doctor" in httpx.get(found["doctor_url"], trust_env=False).text
    # AND the page is one redirect away
    link = api.get("/datasets/pets/versions/2/doctor")
    assert (link.status_code, link.body) == (302, b"")
    assert "The data doctor" in httpx.get(link.headers["Location"], trust_env=False).text


def test_a_version_before_its_prepare(api: Api, pets: Stack) -> None:
    # GIVEN a version that the doctor has not looked at WHEN it is asked for
    found = api.get("/datasets/pets/versions/1").json_body
    # THEN what is not known is null
    assert found["diff"]["added"] == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]
    assert [found[name] for name in ("doctor", "manifest_url", "doctor_url", "images")] == [None] * 4
    # AND its page is not there yet
    assert refusal(api.get("/datasets/pets/versions/1/doctor")) == (404, "NotFound")


def test_an_answer_fits_into_a_lambda(api: Api, pets: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN more findings than an answer takes
    groups = [
        {"files": [f"cat/{n}-{m}.jpg" for m in range(30)], "kind": "near", "splits_joined": False} for n in range(1200)
    ]
    pets.put("versions/pets/2/doctor.json", json.dumps(DOCTOR | {"duplicates": groups}))
    # WHEN the version is asked for THEN its lists are cut, and its numbers are not
    found = api.get("/datasets/pets/versions/2").json_body
    assert (len(found["doctor"]["duplicates"]), found["duplicates"]) == (1000, 1200)
    assert len(found["doctor"]["duplicates"][0]["files"]) == 30
    # AND shorter where that is still too much
    monkeypatch.setattr(datasets, "MAX_ANSWER_BYTES", 100_000)
    found = api.get("/datasets/pets/versions/2").json_body
    assert (len(found["doctor"]["duplicates"]), found["duplicates"]) == (100, 1200)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/datasets?limit=0", (400, "InvalidParameter")),
        ("/datasets?limit=101", (400, "InvalidParameter")),
        ("/datasets/dogs", (404, "UnknownDataset")),
        ("/datasets/No%20Name", (404, "UnknownDataset")),
        ("/datasets/dogs/versions", (404, "UnknownDataset")),
        ("/datasets/pets/versions?limit=x", (400, "InvalidParameter")),
        ("/datasets/pets/versions?next=x", (400, "InvalidParameter")),
        ("/datasets/dogs/versions/1", (404, "UnknownDataset")),
        ("/datasets/pets/versions/3", (404, "UnknownVersion")),
        ("/datasets/pets/versions/0", (404, "UnknownVersion")),
        ("/datasets/pets/versions/latest", (404, "UnknownVersion")),
        ("/datasets/pets/versions/3/doctor", (404, "UnknownVersion")),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_not_there_is_refused(api: Api, pets: Stack, path: str, expected: tuple[int, str]) -> None:
    assert refusal(api.get(path)) == expected


def test_settings_are_changed_one_by_one(api: Api, pets: Stack) -> None:
    # GIVEN a dataset whose uploads are waited for as the stack says
    defaults = {"quiet_seconds": 60, "max_wait_seconds": 900}
    for body, quiet, longest in (
        # WHEN one setting is changed THEN the other stays
        ({"quiet_seconds": 30}, 30, None),
        ({"max_wait_seconds": 7200}, 30, 7200),
        # AND null goes back to the stack's
        ({"quiet_seconds": None}, None, 7200),
        ({"quiet_seconds": 1, "max_wait_seconds": None}, 1, None),
    ):
        answer = api.send("PUT", "/datasets/pets/settings", body)
        expected = {"quiet_seconds": quiet, "max_wait_seconds": longest, "defaults": defaults}
        assert (answer.status_code, answer.json_body) == (200, expected)
        assert api.get("/datasets/pets").json_body["settings"] == expected
        # AND Settle reads them
        assert dataset_settings.settings_of(pets.item("pets")) == {
            name: seconds
            for name, seconds in (("quiet_seconds", quiet), ("max_wait_seconds", longest))
            if seconds is not None
        }


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"quiet_seconds": 0},
        {"quiet_seconds": 7201},
        {"max_wait_seconds": 1.5},
        {"quiet_seconds": True},
        {"quiet_seconds": "30"},
        {"quiet_seconds": 30, "colour": "red"},
        b"",
        b"quiet_seconds=30",
        b"\xff",
        b"[" * 100_000,
    ],
    ids=range(12),
)
def test_other_settings_are_refused(api: Api, pets: Stack, body: Any) -> None:
    assert refusal(api.send("PUT", "/datasets/pets/settings", body)) == (400, "InvalidParameter")
    assert "settings" not in pets.item("pets")


def test_settings_of_an_unknown_dataset_are_refused(api: Api) -> None:
    assert refusal(api.send("PUT", "/datasets/dogs/settings", {"quiet_seconds": 1})) == (404, "UnknownDataset")
