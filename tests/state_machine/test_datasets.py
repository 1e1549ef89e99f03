"""Datasets on the deployed stack: forms that start a run, its version, and the commands that show it."""

import json

import httpx
import pytest

from droptune.cli import main
from tests.state_machine.local_system import LocalSystem

pytestmark = pytest.mark.slow


def test_from_forms_to_a_live_version(system: LocalSystem, capsys: pytest.CaptureFixture[str]) -> None:
    # GIVEN a dataset that does not exist, and forms for its files
    paths = [f"{label}/{number}.jpg" for label in ("cat", "dog") for number in range(3)]
    files = [{"path": path, "content_type": "image/jpeg"} for path in paths]
    files.append({"path": "_READY", "content_type": "text/plain"})
    answer = system.api.post("/datasets/posted/uploads", json={"files": files})
    assert answer.status_code == 200, answer.text
    # WHEN the files are sent with them
    for upload in answer.json()["uploads"]:
        sent = httpx.post(
            upload["url"], data=upload["fields"], files={"file": upload["path"].encode()}, trust_env=False
        )
        assert sent.status_code == 204, sent.text
    # THEN one run makes a version and a model of them
    (run,) = system.ended_runs("posted", 1)
    assert (run["status"], run["verdict"], run["dataset_version"]) == ("SUCCEEDED", "promoted", 1)
    dataset = system.api.get("/datasets/posted").json()
    assert (dataset["newest_version"], dataset["live_version"], dataset["objects"]) == (1, 1, 6)
    assert "posted" in [found["name"] for found in system.api.get("/datasets?limit=100").json()["datasets"]]
    version = system.api.get("/datasets/posted/versions/1").json()
    assert version["diff"] == {"parent": None, "added": paths, "removed": [], "changed": []}
    assert version["images"] == 6
    # AND its mail names the doctor's page, which is there
    (mail,) = system.mails("posted: model 1")
    page = f"{str(system.api.base_url).rstrip('/')}/datasets/posted/versions/1/doctor"
    assert page in mail.text
    assert "6 usable images in 2 classes" in " ".join(mail.text.split())
    assert "<title>doctor</title>" in httpx.get(page, follow_redirects=True, trust_env=False).text
    # AND the command shows that it is live
    home = str(system.cloud.home)
    assert main(["--state-dir", home, "data", "posted"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("v1")]
    assert line.split()[1:3] == ["6", "1"]
    assert line.rstrip().endswith("live")

    # WHEN the dataset gets a quiet time of its own
    assert main(["--state-dir", home, "--json", "settings", "posted", "--quiet-seconds", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["quiet_seconds"] == 3
    # THEN the next burst is sealed all the same, by the function that reads it
    system.upload("datasets/posted/cat/9.jpg", b"new")
    assert system.ended_runs("posted", 2)[0]["dataset_version"] == 2
    assert system.api.get("/datasets/posted/versions/2").json()["diff"]["added"] == ["cat/9.jpg"]


def test_the_api_refuses_in_one_shape(system: LocalSystem) -> None:
    # GIVEN requests that cannot be answered WHEN they pass the gateway THEN each says why
    for answer, expected in (
        (system.api.get("/datasets/none"), (404, "UnknownDataset")),
        (system.api.get("/datasets/none/versions/1/doctor"), (404, "UnknownDataset")),
        (system.api.get("/datasets?limit=x"), (400, "InvalidParameter")),
        (system.api.put("/datasets/none/settings", content=b"{"), (400, "InvalidParameter")),
        (system.api.put("/datasets/none/settings", json={"quiet_seconds": 3}), (404, "UnknownDataset")),
        (system.api.post("/datasets/none/uploads", content=b""), (400, "InvalidParameter")),
        (system.api.post("/datasets/none"), (405, "MethodNotAllowed")),
        (system.api.get("/datasets/none/settings"), (405, "MethodNotAllowed")),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == expected
        assert error["hint"]
        assert error["request_id"]
