"""`data` and `settings` against the real API, which a small HTTP server serves in this process."""

from __future__ import annotations

import json
import re
import threading
import webbrowser
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import app as application
import pytest
from chalice.test import Client
from chalicelib import config, sealing

from droptune.cli import main
from droptune.client import Cloud
from tests.chalice_app.conftest import BUCKET, Stack, ministack, sagemaker, stack

# Fixtures of the API's own tests.
__all__ = ["ministack", "sagemaker", "stack"]

DOCTOR: dict[str, Any] = {
    "dataset": "pets",
    "version": 2,
    "parent": 1,
    "images": 40,
    "classes": {
        "cat": {"images": 20, "train": 12, "valid": 4, "test": 4},
        "[dog]": {"images": 20, "train": 12, "valid": 4, "test": 4},
    },
    "quarantined": [{"file": "cat/9.jpg", "reason": "The file is empty.", "hint": "Upload it again."}],
    "duplicates": [
        {"files": [f"cat/{n}.jpg", f"cat/{n} copy.jpg"], "kind": "exact", "splits_joined": True} for n in range(12)
    ],
    "suspected_labels": [{"file": "cat/7.jpg", "label": "cat", "suggested": "[dog]", "score": 0.1, "rank": 1}],
    "findings": [
        {
            "code": "Quarantined",
            "severity": "warning",
            "message": "1 file was left out.",
            "hint": "Mend it [or not].",
            "files": ["cat/9.jpg"],
        },
        {
            "code": "Duplicates",
            "severity": "note",
            "message": "12 groups look the same.",
            "hint": "Keep one.",
            "files": [],
        },
    ],
    "remarks": {},
    "decoded": 1,
    "reused": 39,
}


@pytest.fixture(autouse=True)
def cloud(stack: Stack, sagemaker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """The command's own connection to the API."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", sagemaker)
    monkeypatch.setenv("DROPTUNE_HOME", str(tmp_path / "home"))

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = api.http.request(self.command, self.path, headers=dict(self.headers), body=body)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_PUT = _answer  # noqa: N815 - the names of http.server

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Keep the test's output clean."""

    with Client(application.app) as api, HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        environment = {
            "AWS_ENDPOINT_URL": stack.url,
            "DROPTUNE_API_URL": f"http://127.0.0.1:{server.server_address[1]}",
            "DROPTUNE_BUCKET": BUCKET,
        }
        with Cloud(environment) as connection:
            monkeypatch.setattr(Cloud, "connect", lambda home: connection)
            yield connection
        server.shutdown()
        thread.join()


@pytest.fixture
def pets(stack: Stack) -> Stack:
    """Two versions of `pets`: a first one, and one that the doctor has looked at and a live model learned from."""
    for key in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        stack.put(f"datasets/pets/{key}")
    sealing.settle("pets", 60, 900, "resnet18", 224)
    for number in range(12):
        stack.put(f"datasets/pets/cat/new-{number:02}.jpg")
    stack.put("datasets/pets/cat/1.jpg", b"another")
    stack.delete("datasets/pets/dog/1.jpg")
    sealing.settle("pets", 60, 900, "resnet18", 224)
    stack.put("versions/pets/2/doctor.json", json.dumps(DOCTOR))
    stack.put("versions/pets/2/doctor.html", "<h1>The data doctor</h1>")
    return stack


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command: its text, or with `--json` its document."""

    def command(*arguments: str, code: int = 0) -> Any:
        assert main(list(arguments)) == code
        printed = capsys.readouterr()
        return json.loads(printed.out) if "--json" in arguments else printed.out + printed.err

    return command


def test_all_datasets(run: Callable[..., Any], pets: Stack) -> None:
    # GIVEN more datasets than the API gives at once
    for number in range(101):
        config.datasets_table().put_item(Item={"dataset": f"set-{number:03}"})
    # WHEN they are listed THEN all are there
    found = run("data", "--json")
    assert [dataset["name"] for dataset in found] == ["pets", *(f"set-{number:03}" for number in range(101))]
    text = run("data")
    assert "pets" in text
    assert "set-100" in text
    assert max(map(len, text.splitlines())) <= 80


def test_no_dataset_yet(run: Callable[..., Any]) -> None:
    assert run("data", "--json") == []
    assert "droptune drop" in run("data")


def test_the_versions_of_a_dataset(run: Callable[..., Any], pets: Stack) -> None:
    # GIVEN two versions WHEN they are listed
    document, text = run("data", "pets", "--json"), run("data", "pets")
    # THEN each has its numbers, and the terminal shows them in 80 columns
    assert document["dataset"]["newest_version"] == 2
    assert [version["version"] for version in document["versions"]] == [2, 1]
    second, first = [line for line in text.splitlines() if re.match(r"v\d", line)]
    assert second.split()[:8] == ["v2", "40", "1", "12", "1", "+12", "-1", "~1"]
    assert first.split()[:6] == ["v1", "-", "-", "-", "-", "+3"]
    assert max(map(len, text.splitlines())) <= 80
    # AND a limit is kept
    assert [version["version"] for version in run("data", "pets", "--limit", "1", "--json")["versions"]] == [2]


def test_the_live_version_is_marked(
    run: Callable[..., Any], pets: Stack, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a dataset of which the API says that version 1 is live
    dataset = cloud.dataset
    monkeypatch.setattr(cloud, "dataset", lambda name: {**dataset(name), "live_version": 1})
    # WHEN its versions are listed THEN that one is marked
    assert [line.split()[0] for line in run("data", "pets").splitlines() if line.rstrip().endswith("live")] == ["v1"]


def test_a_dataset_without_a_version(run: Callable[..., Any], stack: Stack) -> None:
    stack.put("datasets/fresh/cat/1.jpg")
    assert "No version of fresh yet" in run("data", "fresh")
    assert run("data", "fresh", "--open", "--json", code=4)["error"]["code"] == "UnknownVersion"


def test_one_version(run: Callable[..., Any], pets: Stack, cloud: Cloud) -> None:
    # GIVEN a version that the doctor has looked at WHEN it is shown
    document, text = run("data", "pets", "--version", "2", "--json"), run("data", "pets", "--version", "2")
    # THEN the document is the API's, with the page's address
    assert document["doctor"] == DOCTOR
    assert (document["dataset"], document["version"], document["page"]) == ("pets", 2, None)
    assert document["page_url"] == f"{cloud.api_url}/datasets/pets/versions/2/doctor"
    # AND the terminal shows the difference, the classes and the findings, long lists cut
    for words in (
        "against v1: +12 -1 ~1",
        "+ cat/new-09.jpg",
        "- dog/1.jpg",
        "~ cat/1.jpg",
        "\ncat ",
        "\n[dog] ",
        "warning: 1 file was left out.",
        "Mend it [or not].",
        "cat/9.jpg: The file is empty.",
        "cat/9.jpg, cat/9 copy.jpg",
        "cat/7.jpg: cat, or rather [dog]?",
        document["page_url"],
    ):
        assert words in text
    assert "new-10" not in text
    assert "cat/10 copy.jpg" not in text


def test_a_version_that_was_never_looked_at(run: Callable[..., Any], pets: Stack) -> None:
    text = run("data", "pets", "--version", "1")
    assert "the first: +3" in text
    assert "has not looked at this version" in text
    error = run("data", "pets", "--version", "1", "--open", "--json", code=4)["error"]
    assert (error["code"], "droptune runs" in error["hint"]) == ("NotFound", True)


def test_the_page_opens_in_the_browser(
    run: Callable[..., Any], pets: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a browser
    opened: list[str] = []

    def browser(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", browser)
    # WHEN the newest version's page is asked for
    document = run("data", "pets", "--open", "--json")
    # THEN it was saved and opened
    page = tmp_path / "home" / "reports" / "pets-version-2.html"
    assert (document["page"], opened) == (str(page), [page.as_uri()])
    assert page.read_text() == "<h1>The data doctor</h1>"
    # WHEN there is no browser THEN the file is named
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert str(page) in run("data", "pets", "--open", code=1)


def test_settings(run: Callable[..., Any], pets: Stack) -> None:
    # GIVEN a dataset without settings of its own
    defaults = {"quiet_seconds": 60, "max_wait_seconds": 900}
    nothing = {"dataset": "pets", "quiet_seconds": None, "max_wait_seconds": None, "defaults": defaults}
    assert run("settings", "pets", "--json") == nothing
    # WHEN one is set, then the other THEN both hold
    run("settings", "pets", "--quiet-seconds", "30")
    both = run("settings", "pets", "--max-wait-seconds", "300", "--json")
    assert both == nothing | {"quiet_seconds": 30, "max_wait_seconds": 300}
    # AND are told from what holds for all
    run("settings", "pets", "--reset")
    text = run("settings", "pets", "--quiet-seconds", "30")
    assert [line.split()[-4:] for line in text.splitlines()[1:]] == [
        ["30", "for", "pets", "alone"],
        ["900", "for", "all", "datasets"],
    ]
    # WHEN they are reset THEN nothing is left
    assert run("settings", "pets", "--reset", "--json") == nothing


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error_code"),
    [
        (["data", "dogs"], 4, "UnknownDataset"),
        (["data", "dogs", "--version", "1"], 4, "UnknownDataset"),
        (["data", "pets", "--version", "3"], 4, "UnknownVersion"),
        (["data", "Pets!"], 2, "BadDatasetName"),
        (["data", "--version", "1"], 2, "UsageError"),
        (["data", "--open"], 2, "UsageError"),
        (["data", "pets", "--version", "0"], 2, "UsageError"),
        (["settings"], 2, "UsageError"),
        (["settings", "dogs"], 4, "UnknownDataset"),
        (["settings", "dogs", "--quiet-seconds", "5"], 4, "UnknownDataset"),
        (["settings", "pets", "--quiet-seconds", "0"], 2, "UsageError"),
        (["settings", "pets", "--quiet-seconds", "5", "--reset"], 2, "UsageError"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_says_why(
    run: Callable[..., Any], pets: Stack, arguments: list[str], exit_code: int, error_code: str
) -> None:
    error = run(*arguments, "--json", code=exit_code)["error"]
    assert error["code"] == error_code
    assert error["hint"]
    assert "next step: " in run(*arguments, code=exit_code)
