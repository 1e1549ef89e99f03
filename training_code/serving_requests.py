"""What a caller of `/invocations` asks for: the body's kind, the attributes, the answer's kind, and refusals."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

LINES = "application/jsonlines"
JSON = "application/json"
IMAGE_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
    "application/x-image",
)
# Names that the same things have elsewhere.
ALIASES = {
    "image/jpg": "image/jpeg",
    "image/x-ms-bmp": "image/bmp",
    "application/x-jsonlines": LINES,
    "application/jsonl": LINES,
    "application/x-ndjson": LINES,
}
ATTRIBUTES_HEADER = "x-amzn-sagemaker-custom-attributes"
DEFAULT_TOP_K = 3
MAX_TOP_K = 1000
MAX_LINES = 1000


class Refused(Exception):  # noqa: N818 - an answer, not an error of the program
    """An answer other than 200, in the contract's shape."""

    def __init__(self, status: int, code: str, message: str, hint: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.document = {"error": {"code": code, "message": message, "hint": hint}}
        self.headers = headers


@dataclass(frozen=True)
class Wishes:
    """`X-Amzn-SageMaker-Custom-Attributes`: how many labels, and what else beside them."""

    top_k: int = DEFAULT_TOP_K
    embedding: bool = False
    explain: bool = False


def media_type(header: str) -> str:
    """The body's media type, one of `IMAGE_TYPES` or `LINES`. Raises Refused 415 `UnsupportedMediaType`."""
    given = header.split(";")[0].strip().lower()
    known = ALIASES.get(given, given)
    if known not in (*IMAGE_TYPES, LINES):
        raise Refused(
            415,
            "UnsupportedMediaType",
            f"The body's Content-Type is {given!r}.",
            f"Send the image itself, with one of: {', '.join(IMAGE_TYPES)}; or several as {LINES}.",
        )
    return known


def answer_type(accept: str, default: str) -> str:
    """`JSON` or `LINES`, whichever the caller names first; `default` if any will do.

    Raises Refused 406 `NotAcceptable`.
    """
    wanted = [part.split(";")[0].strip().lower() for part in accept.split(",") if part.strip()]
    for each in wanted or ["*/*"]:
        if each in ("*/*", "application/*"):
            return default
        if ALIASES.get(each, each) in (JSON, LINES):
            return ALIASES.get(each, each)
    raise Refused(
        406, "NotAcceptable", f"The Accept header asks for {accept!r}.", f"Accept {JSON} or {LINES}, or leave it out."
    )


def parse_wishes(attributes: str) -> Wishes:
    """`name=value` pairs separated by commas; other names are none of our business.

    Raises Refused 400 `InvalidParameter`.
    """
    pairs = dict(part.strip().partition("=")[::2] for part in attributes.split(","))
    text = pairs.get("top_k", str(DEFAULT_TOP_K)).strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_TOP_K)) and 1 <= int(text) <= MAX_TOP_K):
        hint = f"Give top_k as an integer from 1 to {MAX_TOP_K}."
        raise Refused(400, "InvalidParameter", f"top_k is {text!r}.", hint)
    return Wishes(int(text), _flag(pairs, "embedding"), _flag(pairs, "explain"))


def _flag(pairs: dict[str, str], name: str) -> bool:
    text = pairs.get(name, "false").strip().lower()
    if text not in ("true", "false"):
        raise Refused(400, "InvalidParameter", f"{name} is {text!r}.", f"Give {name} as true or false.")
    return text == "true"


def parse_lines(body: bytes) -> list[bytes | Refused]:
    """The images of a JSON Lines body, `{"image": "<base64>"}` each; a line that is none becomes its refusal.

    Raises Refused 400 `InvalidBatch` for a body without lines, and 413 `ImageTooLarge` for too many.
    """
    lines = [line for line in body.split(b"\n") if line.strip()]
    if not lines:
        raise Refused(400, "InvalidBatch", "The body has no line.", 'Send a JSON object a line: {"image": "<base64>"}.')
    if len(lines) > MAX_LINES:
        raise Refused(
            413,
            "ImageTooLarge",
            f"The body has {len(lines)} lines; the limit is {MAX_LINES}.",
            "Send the images in several requests.",
        )
    return [_image(number, line) for number, line in enumerate(lines, start=1)]


def _image(number: int, line: bytes) -> bytes | Refused:
    try:
        document: Any = json.loads(line)
        # Characters outside the alphabet are an error: without them a cut or mixed-up text would pass.
        return base64.b64decode(document["image"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        return Refused(
            400,
            "InvalidBatch",
            f"Line {number} is no JSON object with a base64 text as 'image' ({type(error).__name__}: {error}).",
            'Send a JSON object a line: {"image": "<base64 of the file>"}.',
        )
