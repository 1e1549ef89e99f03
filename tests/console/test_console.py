"""The console in a real browser against a real local cloud: upload, run, report, prediction, rollback."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from tests.console.conftest import DATASET, RUN_MILLISECONDS
from tests.end_to_end.conftest import PHOTOS, System

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHECK = (Path(__file__).parent / "accessibility.js").read_text().split("\n", 2)[2]
VIEWS = (
    "#/predict",
    "#/upload",
    "#/runs",
    "#/runs/{run}",
    "#/datasets",
    f"#/datasets/{DATASET}",
    f"#/datasets/{DATASET}/versions/1",
)


def show(page: Page, address: str, view: str) -> None:
    """Go to a view and wait until what it loads is there."""
    page.goto("about:blank")
    page.goto(address + view)
    expect(page.get_by_text("Loading …")).to_have_count(0)


def test_a_run_shows_what_it_did(page: Page, address: str, first_run: str) -> None:
    # GIVEN a run that has ended
    show(page, address, f"#/runs/{first_run}")
    # THEN all its stages are done, with their times
    stages = page.locator(".graph li")
    for name in ("Settle", "Decode", "Prepare", "Tune", "Retrain", "Evaluate", "Register", "Release", "Mail", "Finish"):
        stage = stages.filter(has_text=re.compile(f"{name}.*\\d s", re.DOTALL))
        expect(stage).to_have_class("done")
    # AND its trials, the curves of its training and its mail are there
    expect(page.get_by_role("region", name="Trials", exact=True).locator("tbody tr")).to_have_count(8)
    expect(page.locator("figure svg")).to_have_count(3)
    expect(page.locator("figure path.line")).to_have_count(5)
    page.get_by_text("Read it").click()
    expect(page.locator("pre")).to_contain_text(f"dataset {DATASET}")
    expect(page.locator("pre a").first).to_have_attribute("href", re.compile("^http://127.0.0.1"))


def test_the_report_and_the_doctors_page_open(page: Page, address: str, first_run: str) -> None:
    show(page, address, f"#/runs/{first_run}")
    for name, title in (("Report", DATASET), ("Data doctor", DATASET)):
        # WHEN a link is followed
        with page.expect_popup() as popup:
            page.get_by_role("link", name=name, exact=True).click()
        # THEN the page that the run has written opens
        expect(popup.value.locator("body")).to_contain_text(title)
        popup.value.close()


def test_names_of_files_are_texts(page: Page, address: str, first_run: str) -> None:
    # GIVEN a file whose name is HTML, which the doctor left out
    show(page, address, f"#/datasets/{DATASET}/versions/1")
    # WHEN the list is opened
    page.locator("summary", has_text="Left out").click()
    # THEN the name stands there as it is, and made no element
    expect(page.get_by_role("cell", name="<img src=x onerror=alert(1)>.jpg")).to_be_visible()
    expect(page.locator("img[src=x]")).to_have_count(0)


def test_an_image_gets_its_labels(page: Page, address: str, first_run: str, system: System) -> None:
    # GIVEN a photo that the run has not seen
    photo = max((PHOTOS / "coin").glob("*.jpg"))
    show(page, address, f"#/predict/{DATASET}")
    expect(page.get_by_label("Dataset")).to_have_value(DATASET)
    # WHEN it is chosen
    page.locator("#image-file").set_input_files(photo)
    # THEN its labels are there, with the model's version and the map of what spoke for the best
    expect(page.locator(".bars li")).to_have_count(3)
    expect(page.get_by_text(re.compile(r"Model 1 of .* \d+ ms"))).to_be_visible()
    expect(page.locator("canvas.heat")).to_be_visible()
    painted = page.evaluate(
        "() => { const map = document.querySelector('canvas.heat');"
        " const pixels = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;"
        " return pixels.some((value, at) => at % 4 === 3 && value > 200); }"
    )
    assert painted
    # WHEN the right label is told
    page.get_by_label("In truth this is").fill("a medal")
    page.get_by_role("button", name="Tell").click()
    # THEN it is kept
    expect(page.get_by_text("Written down")).to_be_visible()
    bucket = system.json("env")["DROPTUNE_BUCKET"]
    kept = system.session().client("s3").list_objects_v2(Bucket=bucket, Prefix=f"feedback/{DATASET}/")
    assert kept["KeyCount"] == 2


def test_an_image_that_is_none_is_refused(
    page: Page, address: str, first_run: str, allowed: set[str], tmp_path: Path
) -> None:
    # GIVEN a text under the name of an image
    allowed.add("400")
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    show(page, address, f"#/predict/{DATASET}")
    expect(page.get_by_label("Dataset")).to_have_value(DATASET)
    # WHEN it is chosen THEN the page says what is wrong, and what to do
    page.locator("#image-file").set_input_files(text)
    expect(page.get_by_role("alert")).to_contain_text("InvalidImage")


def test_an_image_that_is_too_large_is_made_smaller(page: Page, address: str, first_run: str, tmp_path: Path) -> None:
    from PIL import Image

    # GIVEN an image of more bytes than the API takes: noise does not compress
    large = tmp_path / "large.png"
    Image.effect_noise((2600, 2200), 80).save(large)
    assert large.stat().st_size > 4_500_000
    show(page, address, f"#/predict/{DATASET}")
    expect(page.get_by_label("Dataset")).to_have_value(DATASET)
    # WHEN it is chosen THEN it is sent smaller, and answered
    page.locator("#image-file").set_input_files(large)
    expect(page.get_by_text(re.compile("Sent as a JPEG of 2000 . 1692 pixels"))).to_be_visible()


def test_another_model_is_brought_live_and_the_first_again(page: Page, address: str, second_model: None) -> None:
    # GIVEN two models, of which the first is live and the second was rejected
    show(page, address, f"#/datasets/{DATASET}")
    models = page.get_by_role("region", name="Models")
    expect(models.locator("tbody tr")).to_have_count(2)
    expect(models.locator("tr.best")).to_contain_text("1")
    for version in (2, 1):
        row = models.locator("tbody tr").filter(has=page.locator("td:first-child", has_text=re.compile(f"^{version}$")))
        # WHEN the other one is asked for, at first without meaning it
        row.get_by_role("button", name="Bring live").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        row.get_by_role("button", name="Bring live").click()
        page.get_by_role("dialog").get_by_role("button", name="Bring live").click()
        # THEN the page says when it is live
        expect(page.get_by_role("main").get_by_text(f"Model {version} is live.")).to_be_visible(
            timeout=RUN_MILLISECONDS
        )
        expect(row).to_have_class("best")
        expect(row).to_contain_text("live")
    # AND the one that was rejected is approved now, as it has proven itself
    expect(models).not_to_contain_text("rejected")


def test_settings_are_kept(page: Page, address: str, first_run: str) -> None:
    show(page, address, f"#/datasets/{DATASET}")
    page.get_by_label("Seconds of quiet").fill("3")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    show(page, address, f"#/datasets/{DATASET}")
    expect(page.get_by_label("Seconds of quiet")).to_have_value("3")


def test_a_folder_is_dropped(page: Page, address: str) -> None:
    # GIVEN the page's place for a folder
    show(page, address, "#/upload")
    place = page.locator(".drop").bounding_box()
    assert place
    # WHEN a folder of 271 photos is dragged there and let go, as the operating system tells the browser
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(PHOTOS)], "dragOperationsMask": 1}
    for event in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": event, "x": place["x"] + 9, "y": place["y"] + 9, "data": data})
    # THEN it was walked to its last file, and names the dataset
    expect(page.locator("main strong")).to_contain_text("271 files")
    expect(page.get_by_label("Name of the dataset")).to_have_value("tuxpaint-photos")
    expect(page.get_by_role("region", name="Images a class").locator("tbody tr")).to_have_count(12)


def test_what_the_storage_refuses_is_told_and_tried_again(
    page: Page, address: str, tmp_path: Path, system: System, allowed: set[str]
) -> None:
    # GIVEN a storage that refuses one class, and a way to it that breaks for another, once
    allowed |= {"403", "ERR_FAILED"}
    # (two photos a class are too few to be split: the run that they start ends soon)
    folder = tmp_path / "few"
    for label in ("bird", "coin", "flower"):
        (folder / label).mkdir(parents=True)
        for photo in sorted((PHOTOS / label).glob("*.jpg"))[:2]:
            (folder / label / photo.name).write_bytes(photo.read_bytes())
    broken: list[str] = []

    def refuse(route: Route) -> None:
        body = route.request.post_data_buffer or b""
        if b"/coin/" in body:
            error = "<Error><Code>AccessDenied</Code><Message>Not now.</Message></Error>"
            route.fulfill(status=403, body=error, headers={"Access-Control-Allow-Origin": "*"})
        elif b"/flower/" in body and not broken:
            broken.append("once")
            route.abort()
        else:
            route.continue_()

    bucket = system.json("env")["DROPTUNE_BUCKET"]
    page.route(f"**/{bucket}*", refuse)
    # WHEN photos are uploaded under a name that cannot be one, and then under one that can
    show(page, address, "#/upload")
    page.locator("#folder").set_input_files(folder)
    page.get_by_label("Name of the dataset").fill("Refused Photos")
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("Use small letters")).to_be_visible()
    page.get_by_label("Name of the dataset").fill("refused-photos")
    page.get_by_role("button", name="Upload").click()
    # THEN each file that did not arrive is named with the reason
    expect(page.get_by_role("heading", name="2 files could not be uploaded")).to_be_visible()
    refused = page.get_by_role("row", name=re.compile("^coin."))
    expect(refused).to_have_count(2)
    expect(refused.first).to_contain_text("Not now.")
    assert broken
    # AND the others have arrived, and the end of the uploads was not told
    s3 = system.session().client("s3")
    listed = s3.list_objects_v2(Bucket=bucket, Prefix="datasets/refused-photos/")
    assert listed["KeyCount"] == 4
    # WHEN the storage takes them THEN the rest is sent, and only the rest, and then the marker
    page.unroute(f"**/{bucket}*")
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if bucket in request.url else None)
    page.get_by_role("button", name="Try the rest again").click()
    page.wait_for_url("**/#/runs/*")
    assert len([request for request in sent if request.method == "POST"]) == 3
    listed = s3.list_objects_v2(Bucket=bucket, Prefix="datasets/refused-photos/")
    assert listed["KeyCount"] == 7
    assert "datasets/refused-photos/_READY" in {entry["Key"] for entry in listed["Contents"]}


def test_a_key_is_asked_for_once_and_kept_in_the_tab(page: Page, address: str, allowed: set[str]) -> None:
    # GIVEN an API that wants a key
    allowed.add("401")
    keys: list[str | None] = []

    def demand(route: Route) -> None:
        keys.append(route.request.headers.get("x-api-key"))
        if keys[-1] == "right":
            route.continue_()
        else:
            error = {"code": "Unauthorized", "message": "A key is needed.", "hint": "Send one.", "request_id": "r"}
            route.fulfill(status=401, json={"error": error})

    page.route(re.compile(r"/(runs|datasets|models)(\?|/|$)"), demand)
    page.goto(address + "#/datasets")
    dialog = page.get_by_role("dialog", name="API key")
    # WHEN a wrong one is given THEN it is asked for again, and the right one is sent from then on
    dialog.get_by_label("Key").fill("wrong")
    dialog.get_by_role("button", name="Use this key").click()
    expect(dialog).to_contain_text("did not take")
    dialog.get_by_label("Key").fill("right")
    dialog.get_by_label("Key").press("Enter")
    expect(page.get_by_role("heading", name="Datasets")).to_be_visible()
    expect(dialog).to_have_count(0)
    page.get_by_role("link", name="Runs").click()
    expect(page.get_by_text("Loading …")).to_have_count(0)
    assert set(keys) == {None, "wrong", "right"}
    # AND it is in no address, and not kept for another tab
    assert "right" not in page.url
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"


def test_an_unknown_run_is_an_error_with_a_next_step(page: Page, address: str, allowed: set[str]) -> None:
    allowed.add("404")
    page.goto(address + "#/runs/no-such-run")
    expect(page.get_by_role("alert")).to_contain_text("GET /runs lists the runs")


def test_the_check_of_accessibility_finds_faults(browser: Browser) -> None:
    # GIVEN a page with a fault of each kind
    page = browser.new_page()
    page.set_content(
        "<header></header><h1>One</h1><h3>Three</h3><img src='data:,'><input><button></button><a href='#x'></a>"
        "<p style='color: #999; background: #fff'>pale</p><table><tr><th>Head</th></tr></table><b id=a></b><b id=a></b>"
    )
    # WHEN it is checked THEN each is found
    found = " ".join(page.evaluate(CHECK))
    page.close()
    for fault in (
        "no name: <input>",
        "no name: <button>",
        "no name: <a>",
        "no alternative text",
        "contrast 2.85",
        "no scope",
        "an id twice: a",
        "h3 after h1",
        "no main",
        "no nav",
        "no language",
    ):
        assert fault in found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(page: Page, address: str, first_run: str, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    for view in VIEWS:
        # GIVEN a view WHEN it is checked for names, landmarks, headings and contrast THEN nothing is found
        show(page, address, view.format(run=first_run))
        assert page.evaluate(CHECK) == [], view


def test_it_fits_a_phone(page: Page, address: str, first_run: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for view in VIEWS:
        # GIVEN a view on a phone THEN it is not wider than the screen
        show(page, address, view.format(run=first_run))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view


def test_the_keyboard_is_enough(page: Page, address: str) -> None:
    # GIVEN the page WHEN tabbing from its beginning
    show(page, address, "#/runs")
    page.keyboard.press("Tab")
    # THEN the first stop leads past the navigation
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    # AND a part is reached and opened with keys alone, which moves the focus to its content
    page.get_by_role("link", name="Datasets").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Datasets")).to_be_visible()
    expect(page.locator("main")).to_be_focused()
    expect(page.get_by_role("link", name="Datasets")).to_have_attribute("aria-current", "page")
