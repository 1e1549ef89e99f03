"""The mail's words, in both forms."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from chalicelib import costs, history, notifications
from chalicelib.mail_format import Block, Command, Heading, Link, Paragraph, Table, to_html, to_text

from tests.chalice_app.conftest import Stack

EVALUATION: dict[str, Any] = {"accuracy": 0.8727}


@pytest.mark.parametrize(
    ("run", "evaluation", "subject"),
    [
        (
            {"status": "SUCCEEDED", "verdict": "promoted", "model_version": 1},
            EVALUATION,
            "tuxpaint-photos: model 1 is live, accuracy 0.87",
        ),
        (
            {"status": "SUCCEEDED", "verdict": "rejected", "model_version": 2},
            EVALUATION,
            "tuxpaint-photos: model 2 was not promoted, accuracy 0.87",
        ),
        (
            {"status": "SUCCEEDED", "verdict": "unchanged", "dataset_version": 3},
            None,
            "tuxpaint-photos: nothing has changed since version 3",
        ),
        (
            {"status": "FAILED", "error": {"message": "Dataset 'x' has\none class."}},
            None,
            "tuxpaint-photos: the run failed: Dataset 'x' has one class.",
        ),
    ],
)
def test_the_subject(run: dict[str, Any], evaluation: dict[str, Any] | None, subject: str) -> None:
    assert notifications.subject_of({"dataset": "tuxpaint-photos"} | run, evaluation) == subject


def test_a_long_cause_does_not_make_a_long_subject() -> None:
    run = {"dataset": "x", "status": "FAILED", "error": {"message": "word " * 100}}
    assert len(notifications.subject_of(run, None)) == 150


CURL = "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' https://example.com/api/predict/x"
BLOCKS: list[Block] = [
    Paragraph("Model 1 <is> live & well. " * 8),
    Heading("Numbers"),
    Table([["Accuracy", "0.87"], ["a/very/long/file/name/that/goes/on/and/on/for/ever.jpg", "The file is cut off."]]),
    Link("The report", "https://example.com/api/runs/x/report?a=1&b=2"),
    Command("Predict", CURL),
]


def test_text_keeps_addresses_and_commands_whole() -> None:
    text = to_text(BLOCKS)
    assert "https://example.com/api/runs/x/report?a=1&b=2" in text.splitlines()
    assert CURL in text.splitlines()
    assert all(len(line) <= 78 for line in text.splitlines() if "http" not in line and ".jpg" not in line)


def test_html_is_well_formed_escaped_and_says_the_same() -> None:
    # GIVEN the same blocks as HTML
    html = to_html("a <title>", BLOCKS)

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.words: list[str] = []
            self.links: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag != "meta":
                self.open.append(tag)
            self.links += [value for name, value in attrs if name == "href" and value]

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

        def handle_data(self, data: str) -> None:
            if "style" not in self.open:
                self.words += data.split()

    reader = Reader()
    reader.feed(html)
    # THEN every tag is closed, nothing is lost or taken for a tag, and it knows dark and small screens
    assert reader.open == []
    assert reader.links == ["https://example.com/api/runs/x/report?a=1&b=2"]
    words = set(re.findall(r"\w+", to_text(BLOCKS))) - {"https", "example", "com", "api", "runs", "a", "b", "1", "2"}
    assert words <= set(re.findall(r"\w+", " ".join(reader.words))) | {"report", "x"}
    assert "prefers-color-scheme: dark" in html
    assert "width=device-width" in html


@pytest.mark.parametrize(
    ("key", "subject", "step"),
    [
        ("datasets/My Photos/cat/1.jpg", "My Photos: this cannot be the name of a dataset", "datasets/holiday-photos/"),
        ("datasets/stray.jpg", "stray.jpg: this upload belongs to no dataset", "datasets/<dataset>/<class>/"),
    ],
)
def test_the_mail_about_an_upload_that_belongs_nowhere(key: str, subject: str, step: str) -> None:
    found, blocks = notifications.refusal(key)
    text = to_text(blocks)
    assert found == subject
    assert key in " ".join(text.split())
    assert step in " ".join(text.split())


def test_a_price_is_an_estimate_or_unknown() -> None:
    assert costs.Use("Tune", "ml.g4dn.xlarge", 1800).usd == pytest.approx(0.3682)
    assert costs.Use("Tune", "ml.future.xlarge", 1800).usd is None


def test_mistakes_are_counted_in_words() -> None:
    evaluation = {
        "confused_pairs": [
            {"true": "tool", "predicted": "vehicle", "count": 2},
            {"true": "fish", "predicted": "mammal", "count": 1},
        ],
        "per_class": [{"label": "fish", "recall": 0.5, "images": 2}, {"label": "bird", "recall": 1.0, "images": 7}],
    }
    text = to_text(notifications._mistakes(evaluation))
    assert re.search(r"tool taken for vehicle +2 times", text)
    assert re.search(r"fish taken for mammal +once", text)
    assert "bird" not in text


RUN: dict[str, Any] = {
    "run": "pets-261122143912-9f3a",
    "dataset": "pets",
    "dataset_version": 2,
    "config": {"api_url": "https://example.com/api", "instances": {"endpoint": "ml.m5.large"}},
}
DOCTOR: dict[str, Any] = {
    "version": 2,
    "images": 271,
    "classes": {"cat": {}, "dog": {}},
    "quarantined": [{}],
    "duplicates": [],
    "suspected_labels": [{}, {}],
}
PAGE = "https://example.com/api/datasets/pets/versions/2/doctor"


@pytest.fixture
def mail(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Writes the mail of a run that took no time."""
    monkeypatch.setattr(history, "list_states", lambda _: [])

    def write(**facts: Any) -> dict[str, str]:
        return notifications.write_mail(RUN | {"execution_arn": "arn"} | facts)

    return write


def test_what_the_doctor_found_is_told(stack: Stack, mail: Callable[..., dict[str, str]]) -> None:
    # GIVEN a version that the doctor has looked at, and a run that failed later
    stack.put("versions/pets/2/doctor.json", json.dumps(DOCTOR))
    written = mail(status="FAILED", error={"message": "No capacity.", "hint": "Wait."})
    # WHEN its mail is read THEN it says in a line what was found, and where to look
    for words in (
        "271 usable images in 2 classes.",
        "left out 1 file, and found no groups of images that look the same and 2 labels that may be wrong",
        PAGE,
    ):
        assert words in " ".join(written["text"].split())
        assert words in " ".join(written["html"].split())


def test_where_the_doctor_never_came_nothing_is_told(mail: Callable[..., dict[str, str]]) -> None:
    # GIVEN runs that failed in Decode, and before their seal
    for version in (1, 2):
        error = {"message": "One class.", "hint": "Add one."}
        written = mail(status="FAILED", error=error, dataset_version=version)
        # WHEN their mails are read THEN they name no page that is not there
        assert "doctor" not in written["text"]
    unsealed = {name: value for name, value in RUN.items() if name != "dataset_version"}
    facts: dict[str, Any] = {
        "status": "FAILED",
        "error": {"message": "No images.", "hint": "Add some."},
        "execution_arn": "arn",
    }
    assert "doctor" not in notifications.write_mail(unsealed | facts)["text"]


def test_a_run_that_found_nothing_new_says_so(stack: Stack, mail: Callable[..., dict[str, str]]) -> None:
    # GIVEN a run on the content of version 2
    stack.put("versions/pets/2/doctor.json", json.dumps(DOCTOR))
    written = mail(status="SUCCEEDED", verdict="unchanged")
    # WHEN its mail is read THEN it says that nothing was done, and repeats no findings
    assert written["subject"] == "pets: nothing has changed since version 2"
    assert "nothing was trained" in written["text"]
    assert "doctor" not in written["text"]
