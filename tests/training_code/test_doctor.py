"""The data doctor's findings, and its page."""

import base64
import io
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import doctor_page
import numpy as np
import pytest
from PIL import Image

from tests.training_code.versions import FEATURES, Bad, Files, Labels, Runs, Usable, encoded, jpeg

COLOURS = {"apple": (200, 60, 60), "pear": (60, 180, 60)}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def coloured(label: str, count: int, first: int = 0, size: tuple[int, int] = (48, 40)) -> Files:
    """Photos of a class that is told by its colour, by features too."""
    return {
        f"{label}/{number}.jpg": Usable(
            jpeg(zlib.crc32(label.encode()) + number, size, COLOURS.get(label, (90, 90, 220))), vector(label, number)
        )
        for number in range(first, first + count)
    }


def vector(label: str, number: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    centre = np.random.default_rng(zlib.crc32(label.encode())).normal(size=FEATURES)
    return (centre + np.random.default_rng(number).normal(scale=0.1, size=FEATURES)).astype(np.float32)


def healthy() -> Files:
    return {**coloured("apple", 20), **coloured("pear", 20)}


def codes(runs: Runs) -> list[str]:
    return [finding["code"] for finding in runs.doctor()["findings"]]


def test_a_healthy_dataset_has_no_findings(runs: Runs) -> None:
    assert runs.run(healthy()) == 0
    document = runs.doctor()
    assert document["findings"] == []
    assert document["classes"] == {
        label: {"images": 20, "train": 12, "valid": 4, "test": 4} for label in ("apple", "pear")
    }
    assert {name: document[name] for name in ("dataset", "version", "parent", "images", "decoded", "reused")} == {
        "dataset": "shapes",
        "version": 1,
        "parent": None,
        "images": 40,
        "decoded": 40,
        "reused": 0,
    }
    page = (runs.version / "doctor.html").read_text("utf-8")
    assert "40 images in 2 classes can be trained on. Nothing stands in the way." in page


@pytest.mark.parametrize(
    ("odd", "code", "words", "files"),
    [
        (lambda: coloured("plum", 9), "SmallClass", "1 class has fewer than 10 images: 'plum'", []),
        (lambda: coloured("pear", 200, first=100) | coloured("plum", 12), "ClassImbalance", "'pear' has 220 images",
         []),
        (lambda: coloured("pear", 1, 90, (12, 14)), "LowResolution", "1 of 41 images has to be enlarged",
         ["pear/90.jpg"]),
        (lambda: coloured("pear", 2, 90, (200, 40)), "UnusualShape", "2 of 42 images are more than 4 times",
         ["pear/90.jpg", "pear/91.jpg"]),
        (lambda: {"pear/b.jpg": Usable(encoded(Image.new("RGB", (40, 40), (99, 90, 90))), vector("pear", 0))},
         "NearlyBlank", "1 of 41 images shows nearly nothing", ["pear/b.jpg"]),
        (lambda: {"pear/d.jpg": Usable(encoded(dots(0, 255)), vector("pear", 0))}, "TooDark", "very dark",
         ["pear/d.jpg"]),
        (lambda: {"pear/l.jpg": Usable(encoded(dots(255, 60)), vector("pear", 0))}, "TooBright", "very bright",
         ["pear/l.jpg"]),
        (lambda: {"pear/g.jpg": Usable(jpeg(7), vector("pear", 0))}, "MixedColour", "1 of 41 images has no colour",
         ["pear/g.jpg"]),
        (lambda: {"pear/c.jpg": healthy()["pear/1.jpg"]}, "Duplicates", "2 images look the same as another, in 1 group",
         ["pear/1.jpg", "pear/c.jpg"]),
        (lambda: {"pear/x.jpg": Bad(), "loose.jpg": Usable(jpeg(1))}, "Quarantined", "2 files could not be used",
         ["loose.jpg", "pear/x.jpg"]),
    ],
    ids=["small-class", "imbalance", "low-resolution", "shape", "blank", "dark", "bright", "grey", "copies", "bad"],
)  # fmt: skip
def test_what_is_odd_is_found_and_nothing_else(runs: Runs, odd: Any, code: str, words: str, files: list[str]) -> None:
    # GIVEN a healthy dataset, and one thing that is odd
    assert runs.run({**healthy(), **odd()}) == 0

    # THEN that is found, in plain words, with its files and a next step
    finding = runs.finding(code)
    assert words in finding["message"]
    assert finding["files"] == files
    assert finding["hint"]
    assert finding["severity"] in ("warning", "note")
    grey = {"TooDark", "TooBright"} & {code}
    assert set(codes(runs)) - ({"MixedColour"} if grey else set()) == {code}
    # AND only what is quarantined is left out
    used = runs.splits().keys()
    assert all((file in used) is (code != "Quarantined") for file in files)


def dots(ground: int, dot: int) -> Image.Image:
    """Grey, with a few dots that keep it from being blank."""
    image = Image.new("L", (60, 60), ground)
    image.paste(dot, (20, 20, 30, 30))
    return image


def test_doubtful_labels_are_suggested_and_used_all_the_same(runs: Runs) -> None:
    # GIVEN one pear among the apples
    files = {**healthy(), "apple/pear.jpg": Usable(jpeg(3, colour=COLOURS["pear"]), vector("pear", 77))}
    assert runs.run(files) == 0

    # THEN it is suspected, with the class that it looks like, and nothing happens to it
    (suspicion,) = runs.doctor()["suspected_labels"]
    assert suspicion["score"] < 0.2
    assert {**suspicion, "score": None} == {
        "file": "apple/pear.jpg",
        "label": "apple",
        "suggested": "pear",
        "rank": 1,
        "score": None,
    }
    assert "1 label looks doubtful" in runs.finding("SuspectedLabels")["message"]
    assert runs.labels()["apple/pear.jpg"] == "apple"


def test_classes_that_a_split_lacks_are_named(runs: Runs) -> None:
    # GIVEN own splits of which one has no pears
    files: Files = {}
    for split, count, first in (("train", 12, 0), ("valid", 4, 20), ("test", 4, 40)):
        files |= {f"{split}/{key}": file for key, file in coloured("apple", count, first).items()}
        if split != "test":
            files |= {f"{split}/{key}": file for key, file in coloured("pear", count, first).items()}
    assert runs.run(files) == 0
    assert "1 class is missing in a split: 'pear'" in runs.finding("SmallClass")["message"]


class Page(HTMLParser):
    """What a browser would load and show of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]
        assert not [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(runs: Runs) -> Page:
    return Page((runs.version / "doctor.html").read_text("utf-8"))


def test_the_page_needs_nothing_but_itself(runs: Runs) -> None:
    # GIVEN a version with something to show of everything
    files = {**healthy(), "apple/copy.jpg": healthy()["apple/1.jpg"], "apple/bad.jpg": Bad(), "x.csv": Labels(b"a,b\n")}
    assert runs.run(files) == 0

    # WHEN the page is read, THEN it has no script and loads nothing, and its pictures are JPEGs in it
    page = page_of(runs)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert page.links
    for link in page.links:
        kind, _, data = link.partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).format == "JPEG"
    style = (runs.version / "doctor.html").read_text("utf-8").split("</style>")[0]
    assert not re.search(r"url\(|@import", style)
    # AND every list of doctor.json is there
    for word in ("apple/bad.jpg", "truncated or damaged", "x.csv", "apple/copy.jpg", "Equal files", "no picture"):
        assert word in page.text


def test_names_of_files_and_classes_are_text(runs: Runs) -> None:
    # GIVEN names that would be HTML
    hostile = "<img src=x onerror=alert(1)>"
    files: Files = {**coloured("apple", 12), **coloured(f"'\"{hostile}", 12)}
    files |= {
        f"apple/{hostile}&amp;.jpg": Bad(f"The file {hostile}."),
        f"apple/{hostile}.jpg": coloured("apple", 1)["apple/0.jpg"],
    }
    assert runs.run(files) == 0

    # WHEN the page is read, THEN they are shown as they are
    page = page_of(runs)
    assert "x" not in page.links
    assert f"The file {hostile}." in page.text
    assert f"apple/{hostile}&amp;.jpg" in page.text


def test_long_lists_are_cut_on_the_page_and_whole_in_the_document(runs: Runs) -> None:
    # GIVEN many bad files, many copies of one image, and many small images
    files = {**coloured("apple", 30, size=(12, 12)), **coloured("pear", 20)}
    files |= {f"apple/bad-{number:03}.jpg": Bad() for number in range(100)}
    files |= {f"pear/copy-{number}.jpg": files["pear/1.jpg"] for number in range(9)}
    assert runs.run(files) == 0

    # WHEN the page is read, THEN it says how many more there are
    text = page_of(runs).text
    assert text.count("truncated or damaged") == doctor_page.SHOWN_FILES
    assert f"And {100 - doctor_page.SHOWN_FILES} more, see doctor.json." in text
    assert f"And {10 - doctor_page.SHOWN_IN_GROUP} more, see doctor.json." in text
    assert f"And {30 - doctor_page.SHOWN_IN_FINDING} more, see doctor.json." in text
    # AND the document has all
    assert len(runs.doctor()["quarantined"]) == 100
    assert len(runs.finding("LowResolution")["files"]) == 30


def test_a_later_version_says_what_changed(runs: Runs) -> None:
    assert runs.run(healthy()) == 0
    assert runs.run({**healthy(), **coloured("apple", 2, first=50)}) == 0
    text = page_of(runs).text
    assert "Against version 1:" in text
    assert "40 images were known already and not decoded again." in text
    assert "added: apple/0.jpg, " in text
