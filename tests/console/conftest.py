"""A local cloud, and a browser that looks at its console."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.end_to_end.conftest import PHOTOS, System, make_system

DATASET = "holiday-photos"
# The first answer of a function that starts takes seconds, and other tests run beside these; so do runs.
ANSWER_MILLISECONDS = 30_000
RUN_MILLISECONDS = 300_000
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One local cloud for all tests of the console."""
    yield from make_system(tmp_path_factory.mktemp("system") / "home")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium of this machine. Where there is none its tests are left out, but not where all must pass."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        assert os.environ.get("CI") != "true", "The pages are tested in Chromium, and there is none."
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        expect.set_options(timeout=ANSWER_MILLISECONDS)
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def address(system: System) -> str:
    """The console's address."""
    return str(system.json("env")["DROPTUNE_API_URL"]) + "/"


@pytest.fixture
def allowed() -> set[str]:
    """Texts of errors that a test expects in the browser's console."""
    return set()


@pytest.fixture
def page(browser: Browser, address: str, allowed: set[str]) -> Iterator[Page]:
    """A page of the console; afterwards nothing in its console may be an error, or a warning."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(ANSWER_MILLISECONDS)
    found: list[str] = []

    def keep(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(text in message.text for text in allowed):
            found.append(message.text)

    page = context.new_page()
    page.on("console", keep)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.goto(address)
    yield page
    context.close()
    assert found == []


@pytest.fixture(scope="module")
def first_run(browser: Browser, address: str, photos: Path) -> str:
    """The run of a dataset that was uploaded with the console; its id."""
    errors: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(ANSWER_MILLISECONDS)
    page.on("pageerror", lambda error: errors.append(str(error)))
    # GIVEN a folder of photos, chosen on the page
    page.goto(f"{address}#/upload")
    page.locator("#folder").set_input_files(photos)
    # THEN the folder names the dataset, the classes are shown, and what cannot be uploaded with its reason
    expect(page.get_by_label("Name of the dataset")).to_have_value(DATASET)
    expect(page.get_by_role("cell", name="bird", exact=True)).to_be_visible()
    expect(page.locator("main strong")).to_contain_text("25 files")
    page.get_by_text("2 files left out", exact=True).click()
    expect(page.get_by_role("row", name="notes.txt")).to_contain_text("Not an image")
    expect(page.get_by_role("row", name="empty.jpg")).to_contain_text("empty")
    # WHEN it is uploaded
    page.get_by_role("button", name="Upload").click()
    # THEN the page goes to the run by itself, and follows it to its end
    page.wait_for_url("**/#/runs/*")
    run = page.url.rsplit("/", 1)[1]
    expect(page.get_by_text("The new model is live.")).to_be_visible(timeout=RUN_MILLISECONDS)
    assert not errors
    page.close()
    return run


@pytest.fixture(scope="module")
def second_model(system: System, first_run: str) -> None:
    """A second version of the model, rejected: the first one's files under a run of their own, as a run leaves them."""
    run = f"{first_run[:-4]}ffff"
    bucket = system.json("env")["DROPTUNE_BUCKET"]
    s3, sagemaker = system.session().client("s3"), system.session().client("sagemaker")
    for name in ("evaluation.json", "sample.jpg"):
        source = {"Bucket": bucket, "Key": f"runs/{DATASET}/{first_run}/evaluation/{name}"}
        s3.copy_object(Bucket=bucket, Key=f"runs/{DATASET}/{run}/evaluation/{name}", CopySource=source)
    group = f"droptune-{DATASET}"
    (first,) = sagemaker.list_model_packages(ModelPackageGroupName=group)["ModelPackageSummaryList"]
    package = sagemaker.describe_model_package(ModelPackageName=first["ModelPackageArn"])
    (container,) = package["InferenceSpecification"]["Containers"]
    sagemaker.create_model_package(
        ModelPackageGroupName=group,
        ModelApprovalStatus="Rejected",
        InferenceSpecification={
            "Containers": [{name: container[name] for name in ("Image", "ModelDataUrl")}],
            "SupportedContentTypes": ["image/jpeg"],
        },
        CustomerMetadataProperties=package["CustomerMetadataProperties"] | {"run": run},
    )
