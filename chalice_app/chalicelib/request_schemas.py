"""Hold the JSON of requests to the schemas that ``/openapi.json`` publishes."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from chalicelib.errors import InvalidParameter

FILE = Path(__file__).parent / "openapi.json"


@cache
def document() -> dict[str, Any]:
    """The API's OpenAPI document."""
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def validated(value: Any, name: str) -> dict[str, Any]:
    """`value`, which fits the schema `name` of the document. Raises InvalidParameter."""
    # Only requests with a body of JSON pay for the import.
    from fastjsonschema import JsonSchemaValueException

    try:
        _validator(name)(value)
    except JsonSchemaValueException as error:
        # Its message begins with where it is: `data.images[0].top_k must be …`.
        place, _, problem = str(error.message).partition(" ")
        where = place.removeprefix("data").lstrip(".") or "The body"
        raise InvalidParameter(
            f"{where} {problem}.",
            f"The schema {name} in /openapi.json says what is allowed.",
        ) from error
    checked: dict[str, Any] = value
    return checked


@cache
def _validator(name: str) -> Callable[[Any], Any]:
    from fastjsonschema import compile  # noqa: A004 - the library's own name

    # The schemas refer to each other by where they stand in the document.
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    # Defaults belong to the code that reads the request.
    check: Callable[[Any], Any] = compile(schema, use_default=False)
    return check
