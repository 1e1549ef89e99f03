"""Reads the documentation's Markdown: sections, tables, code and links."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "reference"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def named(page: Path) -> str:
    """A page's name in test ids."""
    return str(page.relative_to(ROOT))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fences(markdown: str, language: str) -> list[str]:
    """The contents of the fenced blocks of a language."""
    return [content for name, content in FENCE.findall(markdown) if name == language]


def json_fences(markdown: str) -> list[Any]:
    return [json.loads(content) for content in fences(markdown, "json")]


def prose(markdown: str) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", markdown)


def words(markdown: str) -> list[str]:
    """The contents of the inline code spans."""
    return re.findall(r"`([^`\n]+)`", prose(markdown))


def code(markdown: str) -> list[str]:
    """Everything that is written as code: fenced blocks and spans."""
    return [content for _, content in FENCE.findall(markdown)] + words(markdown)


def headings(markdown: str) -> list[str]:
    return [title for _, title in HEADING.findall(prose(markdown))]


def section(markdown: str, title: str) -> str:
    """What stands below a heading, down to the next one of its level or above."""
    fenced = [match.span() for match in FENCE.finditer(markdown)]
    found = [
        match for match in HEADING.finditer(markdown) if not any(start <= match.start() < end for start, end in fenced)
    ]
    for index, match in enumerate(found):
        if match[2] == title:
            level = len(match[1])
            ends = (other.start() for other in found[index + 1 :] if len(other[1]) <= level)
            return markdown[match.end() : next(ends, len(markdown))]
    raise AssertionError(f"there is no heading {title!r} among {[match[2] for match in found]}")


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables' rows without their heads, each a list of cells."""
    blocks = re.findall(r"(?:^\|.*\|\n?)+", prose(markdown), re.MULTILINE)
    return [[_cells(line) for line in block.strip().splitlines()[2:]] for block in blocks]


def first_words(table: list[list[str]]) -> list[str]:
    """The code spans of a table's first column."""
    return [word for row in table for word in words(row[0])]


def anchors(markdown: str) -> set[str]:
    """The fragments that GitHub gives to the headings."""
    seen: Counter[str] = Counter()
    found = set()
    for title in headings(markdown):
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """The relative links of a page: as written, the file, the fragment (empty if there is none)."""
    # A regular expression in a code span may look like a link.
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "``", prose(text(page)))):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, fragment = target.partition("#")
            yield target, (page.parent / path).resolve() if path else page, fragment


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
