"""Writes the API's OpenAPI document, `chalice_app/chalicelib/openapi.json`: `make docs`.

The schemas are pydantic's, from the types in `chalicelib/api_types.py`; the operations are those of
`chalicelib/operations.py`. The function in Lambda reads the written document and needs no pydantic, whose compiled part
it could not carry. `tests/api/test_openapi.py` fails while the document is stale.
"""

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "chalice_app" / "chalicelib" / "openapi.json"
REFERENCES = "#/components/schemas/{model}"
DATASET = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"}
NUMBER = {"type": "integer", "minimum": 1, "maximum": 999_999_999}
PARAMETERS: dict[str, dict[str, Any]] = {
    "dataset": DATASET,
    "name": DATASET,
    "id": {"type": "string", "minLength": 1, "maxLength": 64},
    "version": NUMBER,
    "v": NUMBER,
    "model_version": NUMBER,
    "top_k": {"type": "integer", "minimum": 1, "maximum": 1000},
    "limit": {"type": "integer", "minimum": 1, "maximum": 100},
    "next": {"type": "string", "minLength": 1},
    "explain": {"type": "boolean"},
    "embedding": {"type": "boolean"},
}


def document() -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document."""
    sys.path.insert(0, str(ROOT / "chalice_app"))
    try:
        from chalicelib import api_types, http_errors
        from chalicelib.operations import OPERATIONS
    finally:
        sys.path.remove(str(ROOT / "chalice_app"))
    wanted: set[type] = {api_types.ErrorAnswer, api_types.Link}
    for operation in OPERATIONS.values():
        wanted |= {each for each in (*_answers(operation), operation.request) if isinstance(each, type)}
    wanted.discard(dict)
    inputs: list[tuple[type, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        (kind, "validation", TypeAdapter(kind)) for kind in sorted(wanted, key=lambda kind: kind.__name__)
    ]
    # What has a default is left out of `required` in both modes, and only requests have defaults.
    _, definitions = TypeAdapter.json_schemas(inputs, ref_template=REFERENCES)
    schemas = {name: _plain(schema) for name, schema in sorted(definitions["$defs"].items())}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    paths: dict[str, Any] = {}
    for route, operation in OPERATIONS.items():
        method, path = route.split()
        paths.setdefault(path, {})[method.lower()] = _operation(route, operation, http_errors.statuses())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "droptune",
            "version": version,
            "description": "Labels images with the models that were made from yours, and shows how they came about.",
        },
        # Relative to this document: the same on every stage and under every name.
        "servers": [{"url": "./"}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def written(content: dict[str, Any]) -> str:
    """Returns the document as the file holds it."""
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _answers(operation: Any) -> tuple[Any, ...]:
    return operation.answer if isinstance(operation.answer, tuple) else (operation.answer,)


def _operation(route: str, operation: Any, statuses: dict[str, int]) -> dict[str, Any]:
    method, path = route.split()
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": PARAMETERS[name]}
        for name in re.findall(r"{(\w+)}", path)
    ] + [
        {"name": name, "in": "query", "required": False, "description": text, "schema": PARAMETERS[name]}
        for name, text in operation.query.items()
    ]
    described: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()} {path}").strip("_"),
        "summary": operation.summary,
        "tags": [tag if (tag := path.split("/")[1]) not in ("health", "openapi.json", "docs") else "the API itself"],
        "parameters": parameters,
        "responses": _responses(operation, statuses),
    }
    if operation.request is not None:
        content: dict[str, Any] = {"application/json": {"schema": _reference(operation.request)}}
        if path == "/predict/{dataset}":
            content |= _image_bodies()
        described["requestBody"] = {"required": True, "content": content}
    return described


def _image_bodies() -> dict[str, Any]:
    files = {"type": "array", "maxItems": 16, "items": {"type": "string", "contentMediaType": "image/*"}}
    form = {"type": "object", "required": ["image"], "properties": {"image": files}}
    return {
        "multipart/form-data": {"schema": form},
        **{f"image/{kind}": {"schema": {"type": "string"}} for kind in ("jpeg", "png", "webp", "bmp", "tiff", "gif")},
    }


def _responses(operation: Any, statuses: dict[str, int]) -> dict[str, Any]:
    headers = {"X-Request-Id": {"description": "the id of the request in the log", "schema": {"type": "string"}}}
    good: dict[str, Any] = {"description": operation.summary, "headers": headers}
    kinds = [kind for kind in _answers(operation) if kind is not None]
    responses: dict[str, Any] = {}
    if operation.status == 302:
        json_answer = {"application/json": {"schema": {"$ref": "#/components/schemas/Link"}}}
        responses["200"] = {"description": "The link, to who accepts JSON", "headers": headers, "content": json_answer}
        location = {"description": "a signed link that works for 5 minutes", "schema": {"type": "string"}}
        good["headers"] = headers | {"Location": location}
    elif not kinds:
        good["content"] = {operation.media_type: {"schema": {"type": "string"}}}
    else:
        schemas = [{"type": "object"} if kind is dict else _reference(kind) for kind in kinds]
        good["content"] = {operation.media_type: {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
    responses[str(operation.status)] = good
    codes = ["InternalError", *operation.errors.split()]
    for status in sorted({statuses[code] for code in codes}):
        told = ", ".join(sorted(code for code in codes if statuses[code] == status))
        responses[str(status)] = {
            "description": told,
            "headers": headers,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}},
        }
    return responses


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": REFERENCES.format(model=kind.__name__)}


def _plain(schema: Any) -> Any:
    """Returns a schema of pydantic's without titles, which only repeat the members' names.

    In Python an optional member is None when it is left out; in JSON it may not be null, unless its type says so.
    """
    if isinstance(schema, list):
        return [_plain(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _plain(value) for key, value in schema.items() if key not in ("title", "properties", "nullable")}
    if "properties" in schema:
        # A member may be called "title": only the schemas below lose theirs.
        kept["properties"] = {key: _plain(value) for key, value in schema["properties"].items()}
    if "default" in kept and kept.pop("default") is None and "nullable" not in schema:
        (kept,) = (each for each in kept["anyOf"] if each != {"type": "null"})
    return kept


if __name__ == "__main__":
    FILE.write_text(written(document()), encoding="utf-8")
