"""The data doctor's page: doctor.json for people, with thumbnails. It loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from doctor import counted

TEMPLATE = "doctor.html.j2"
# What a page shows of long lists; a browser opens the whole in a moment, and doctor.json has the rest.
SHOWN_FILES = 60
SHOWN_GROUPS = 24
SHOWN_IN_GROUP = 6
SHOWN_SUSPECTED = 36
SHOWN_IN_FINDING = 12
SHOWN_CHANGES = 8
SHOWN_CLASSES = 100
# These have sections of their own.
LISTED_CODES = ("Quarantined", "Duplicates", "SuspectedLabels")

Record = dict[str, Any]


def render(
    diagnosis: dict[str, Any],
    seal: Mapping[str, Any],
    diff: Mapping[str, Sequence[str]],
    record: Mapping[str, Record],
    thumbnail: Callable[[Record], bytes],
) -> str:
    """The page as HTML.

    `record` are the version's records by key, and `thumbnail` gives the JPEG of one that was decoded.
    """

    def picture(file: str) -> str | None:
        """A data URI, or None for a file that was never decoded."""
        known = record.get(file, {})
        if "block" not in known:
            return None
        return "data:image/jpeg;base64," + base64.b64encode(thumbnail(known)).decode("ascii")

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    codes = {finding["code"]: finding for finding in diagnosis["findings"]}
    classes = sorted(diagnosis["classes"].items(), key=lambda item: (-item[1]["images"], item[0]))
    return environment.get_template(TEMPLATE).render(
        diagnosis=diagnosis,
        seal=seal,
        headline=headline(diagnosis),
        changes=[(word, diff[word][:SHOWN_CHANGES], len(diff[word])) for word in ("added", "removed", "changed")],
        classes=classes[:SHOWN_CLASSES],
        largest=classes[0][1]["images"],
        codes=codes,
        findings=[finding for finding in diagnosis["findings"] if finding["code"] not in LISTED_CODES],
        picture=picture,
        shown={
            "files": SHOWN_FILES,
            "groups": SHOWN_GROUPS,
            "in_group": SHOWN_IN_GROUP,
            "suspected": SHOWN_SUSPECTED,
            "in_finding": SHOWN_IN_FINDING,
        },
    )


def headline(diagnosis: dict[str, Any]) -> str:
    """The one or two sentences that a person who reads nothing else should know."""
    classes = len(diagnosis["classes"])
    sentence = f"{counted(diagnosis['images'], 'image')} in {counted(classes, 'class', 'classes')} can be trained on."
    warnings = [finding["message"] for finding in diagnosis["findings"] if finding["severity"] == "warning"]
    if not warnings:
        return f"{sentence} Nothing stands in the way."
    more = f" {counted(len(warnings) - 1, 'more thing')} to look at below." if len(warnings) > 1 else ""
    return f"{sentence} {warnings[0]}{more}"
