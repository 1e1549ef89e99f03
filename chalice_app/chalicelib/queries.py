"""Read the query parameters that several routes share."""

import base64
import binascii
import json
from typing import Any

from chalicelib.errors import InvalidParameter

# SageMaker's pattern of a model package's name ends in at most nine digits
# (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeModelPackage.html).
MAX_VERSION = 999_999_999
WORDS = {"true": True, "false": False}


def parse_count(name: str, text: str | None, *, default: int, highest: int) -> int:
    """A whole number from 1 to `highest` from a query parameter. Raises InvalidParameter."""
    if text is None or text == "":
        return default
    # Python refuses to read a number of thousands of digits, and calls that a ValueError.
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and 1 <= int(text) <= highest):
        raise InvalidParameter(
            f"{name} is '{text[:100]}', which is no whole number from 1 to {highest}.",
            f"Leave {name} out for {default}, or send for example {name}=5.",
        )
    return int(text)


def parse_version(text: str) -> int:
    """The number of a model version from a path. Raises InvalidParameter."""
    return parse_count("version", text, default=1, highest=MAX_VERSION)


def parse_flag(name: str, text: str | None) -> bool:
    """``true`` or ``false`` from a query parameter; without one, false. Raises InvalidParameter."""
    if not text:
        return False
    if text not in WORDS:
        raise InvalidParameter(
            f"{name} is '{text[:100]}', which is neither true nor false.", f"Send {name}=true, or leave it out."
        )
    return WORDS[text]


def parse_json(body: bytes) -> Any:
    """The JSON document in a request's body. Raises InvalidParameter."""
    try:
        # NaN and Infinity are none of JSON, though Python reads them.
        return json.loads(body, parse_constant=_refuse_constant, parse_float=_parse_number)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter("The body is no JSON document that can be read.", f"Send JSON: {error}.") from error


def _parse_number(text: str) -> int | float:
    # JSON knows one kind of numbers: for a schema too, 1.0 is an integer.
    value = float(text)
    return int(value) if value.is_integer() else value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def write_token(position: Any) -> str:
    """`position`, a JSON value, as the token that the next page is asked for with."""
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def read_token(token: str | None, kind: type) -> Any:
    """The position that `write_token` wrote, or None without a token. Raises InvalidParameter unless it is a `kind`."""
    if not token:
        return None
    refused = InvalidParameter("next is no token that a page ended with.", "Leave next out for the first page.")
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        position = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError, binascii.Error) as error:
        raise refused from error
    if not isinstance(position, kind):
        raise refused
    return position
