"""A whole local cloud, used as a user does: through the `droptune` command and any AWS client."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from droptune.local_cloud.session import LocalSession

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "examples" / "tuxpaint-photos"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class System:
    """One local cloud in a home of its own."""

    home: Path

    def run(self, *arguments: str, expect: int = 0, timeout: float = 280) -> str:
        """Run `droptune <arguments>` and return what it printed."""
        done = subprocess.run(
            [str(BIN / "droptune"), *arguments],
            env={**os.environ, "DROPTUNE_HOME": str(self.home), "COLUMNS": "100"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, expect: int = 0) -> Any:
        """Run `droptune <arguments> --json` and return the document."""
        return json.loads(self.run(*arguments, "--json", expect=expect))

    def aws(self, *arguments: str) -> str:
        """Run the AWS CLI with nothing but what `droptune env` gives."""
        done = subprocess.run(
            [str(BIN / "aws"), *arguments],
            env={**os.environ, **self.json("env"), "AWS_CONFIG_FILE": os.devnull, "AWS_PAGER": ""},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def session(self) -> boto3.Session:
        return LocalSession(self.json("env")["AWS_ENDPOINT_URL"])

    def runs(self, dataset: str) -> list[dict[str, Any]]:
        return [run for run in self.json("runs") if run["dataset"] == dataset]

    def mails(self, dataset: str) -> list[dict[str, Any]]:
        return [mail for mail in self.json("mail") if mail["subject"].startswith(f"{dataset}:")]


def free_port_pair() -> int:
    """Return a port that is free, as the next one is: test processes side by side must not choose the same."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + 1))
                return port


def make_system(home: Path) -> Iterator[System]:
    """Bring up a local cloud in `home` and take it down with every process it started."""
    system = System(home)
    system.run("up", "--quiet-seconds", "2", "--port", str(free_port_pair()))
    try:
        yield system
    finally:
        system.run("down")
        if "DROPTUNE_KEEP" not in os.environ:
            shutil.rmtree(home / "sagemaker", ignore_errors=True)


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One local cloud for all tests that do not kill it."""
    yield from make_system(tmp_path_factory.mktemp("system") / "home")


@pytest.fixture
def own_system(tmp_path: Path) -> Iterator[System]:
    """A local cloud that the test may kill."""
    yield from make_system(tmp_path / "home")


@pytest.fixture(scope="session")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight photos: a run of seconds."""
    folder = tmp_path_factory.mktemp("few") / "few"
    for label in ("bird", "coin", "flower"):
        (folder / label).mkdir(parents=True)
        for photo in sorted((PHOTOS / label).glob("*.jpg"))[:8]:
            shutil.copy(photo, folder / label)
    return folder
