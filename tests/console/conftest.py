"""A local cloud, and a browser that looks at its console."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.end_to_end.conftest import PHOTOS, System, make_system

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One local cloud for all tests of the console."""
    yield from make_system(tmp_path_factory.mktemp("system") / "home")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine. Where there is none its tests are left out, but not where all must pass."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        assert os.environ.get("CI") != "true", "The pages are tested in Chromium, and there is none."
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        # The first answer of a function that starts takes seconds, and other tests run beside these.
        expect.set_options(timeout=30_000)
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight photos, an image whose name is HTML, and what is no image."""
    folder = tmp_path_factory.mktemp("photos") / "Holiday Photos"
    for label in ("bird", "coin", "flower"):
        (folder / label).mkdir(parents=True)
        for photo in sorted((PHOTOS / label).glob("*.jpg"))[:8]:
            shutil.copy(photo, folder / label)
    (folder / "bird" / "<img src=x onerror=alert(1)>.jpg").write_bytes(b"no image")
    (folder / "bird" / "notes.txt").write_text("a note")
    (folder / "bird" / "empty.jpg").touch()
    (folder / "bird" / ".hidden.jpg").write_bytes(b"hidden")
    return folder
