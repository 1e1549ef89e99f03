"""A mail's blocks as plain text and as HTML.

The HTML is one column of at most 600 px, with its style in the document: mail programs load no
style sheets, and many know neither flex nor grid. `color-scheme` lets them choose dark colours.
"""

import textwrap
from dataclasses import dataclass
from html import escape

TEXT_WIDTH = 78


@dataclass(frozen=True)
class Heading:
    """The title of what follows."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of two cells: what, and how much."""

    rows: list[list[str]]


@dataclass(frozen=True)
class Link:
    """A title and the address behind it."""

    text: str
    url: str


@dataclass(frozen=True)
class Command:
    """A title and the shell command that does it."""

    text: str
    command: str


Block = Heading | Paragraph | Table | Link | Command

STYLE = """
:root { color-scheme: light dark; supported-color-schemes: light dark; }
body { margin: 0; padding: 16px; background: #ffffff; color: #1c2024;
  font: 16px/1.5 -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
main { max-width: 600px; margin: 0 auto; overflow-wrap: anywhere; }
h1 { font-size: 20px; line-height: 1.3; margin: 0 0 16px; }
h2 { font-size: 16px; margin: 24px 0 4px; }
p { margin: 8px 0; }
table { width: 100%; border-collapse: collapse; }
td { padding: 6px 12px 6px 0; vertical-align: top; border-bottom: 1px solid #d9dde1; }
a { color: #0b57d0; }
pre { margin: 8px 0; padding: 8px; white-space: pre-wrap; background: #f1f3f4; font-size: 14px; }
@media (prefers-color-scheme: dark) {
  body { background: #16181b; color: #e6e8ea; }
  td { border-bottom-color: #3a3f45; }
  a { color: #8ab4f8; }
  pre { background: #26292d; }
}
"""


def to_text(blocks: list[Block]) -> str:
    """`blocks` as plain text; addresses and commands are never broken over lines."""
    return "\n\n".join(_block_text(block) for block in blocks).replace("\n\n\n", "\n\n") + "\n"


def to_html(title: str, blocks: list[Block]) -> str:
    """`blocks` as one HTML document under the heading `title`."""
    body = "\n".join(_block_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _block_text(block: Block) -> str:
    match block:
        case Heading(text):
            return f"{text}\n{'-' * len(text)}"
        case Paragraph(text):
            return textwrap.fill(text, TEXT_WIDTH, break_long_words=False, break_on_hyphens=False)
        case Link(text, target) | Command(text, target):
            return f"{text}:\n{target}"
        case Table(rows):
            width = min(max(len(row[0]) for row in rows), 40)
            return "\n".join(f"  {what:<{width}}  {much}" for what, much in rows)


def _block_html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Link(text, url):
            return f'<p><a href="{escape(url)}">{escape(text)}</a></p>'
        case Command(text, command):
            return f"<p>{escape(text)}:</p>\n<pre>{escape(command)}</pre>"
        case Table(rows):
            cells = "\n".join(f"<tr><td>{escape(what)}</td><td>{escape(much)}</td></tr>" for what, much in rows)
            return f'<table role="presentation">\n{cells}\n</table>'
