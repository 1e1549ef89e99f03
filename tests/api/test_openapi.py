"""`/openapi.json`: fresh, valid, complete, and what the API does."""

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from chalicelib import http_errors, request_schemas
from chalicelib.errors import InvalidParameter
from chalicelib.operations import OPERATIONS

from tests.api.deployed import Handler, System

ROOT = Path(__file__).resolve().parents[2]
# The console's page and its files, which are for browsers.
PAGES = {"GET /", "GET /console/{version}/{name}"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return request_schemas.document()


def test_it_is_fresh() -> None:
    # GIVEN the generator WHEN it writes the document anew THEN nothing changes; if this fails: make docs
    generator = runpy.run_path(str(ROOT / "docs" / "generate_openapi.py"))
    assert generator["written"](generator["document"]()) == generator["FILE"].read_text(encoding="utf-8")


def test_every_route_is_in_it(document: dict[str, Any]) -> None:
    import app

    routes = {f"{method} {path}" for path, methods in app.app.routes.items() for method in methods}
    told = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert told == set(OPERATIONS) == routes - PAGES


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references == set(schemas)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_code_of_a_refusal_is_one() -> None:
    for route, operation in OPERATIONS.items():
        assert set(operation.errors.split()) <= set(http_errors.statuses()), route


def test_the_checks_at_run_time_are_those_of_the_document(document: dict[str, Any]) -> None:
    # GIVEN requests, right and wrong
    requests: list[tuple[str, Any]] = [
        ("PredictRequest", {"s3": "datasets/a"}),
        ("PredictRequest", {"images": [{"base64": "AA=="}], "top_k": 3}),
        ("PredictRequest", {"images": []}),
        ("PredictRequest", {"images": [{"unknown": 1}]}),
        ("PredictRequest", {"top_k": None}),
        ("PredictRequest", {"top_k": 1.5}),
        ("PredictRequest", []),
        ("UploadRequest", {"bytes": 1}),
        ("UploadRequest", {}),
        ("BulkRequest", {"dataset": "pets", "prefix": "x"}),
        ("BulkRequest", {"dataset": "Pets", "prefix": "x"}),
        ("FeedbackRequest", {"dataset": "pets", "label": ""}),
    ]
    for name, request in requests:
        # WHEN both the function's validator and the reference implementation judge them
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        right = jsonschema.Draft202012Validator(schema).is_valid(request)
        # THEN they agree
        if right:
            assert request_schemas.validated(request, name) == request
        else:
            with pytest.raises(InvalidParameter):
                request_schemas.validated(request, name)


def test_the_page_for_people(system: System) -> None:
    # GIVEN the page, as a browser asks for it
    answer = system.api.get("/docs", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    # THEN it loads nothing but the document beside it
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    addresses = re.findall(r'(?:src|href)="([^"]*)"', answer.text) + re.findall(r'fetch\("([^"]*)"', answer.text)
    assert set(addresses) == {"openapi.json"}
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    # AND the document is there, as it is in the tree
    assert system.api.get("/openapi.json").json() == request_schemas.document()


def test_answers_fit_their_schemas(handler: Handler, document: dict[str, Any]) -> None:
    for path in ("/health", "/runs", "/datasets", "/models/pets", "/feedback/pets", "/predictions", "/datasets/pets"):
        template = re.sub("pets$", "{dataset}" if "datasets" not in path else "{name}", path)
        responses = document["paths"][template]["get"]["responses"]
        schema = responses["200"]["content"]["application/json"]["schema"] | {"components": document["components"]}
        jsonschema.validate(handler("GET", path).json(), schema, cls=jsonschema.Draft202012Validator)


def test_pydantic_stays_out_of_the_function() -> None:
    import subprocess

    program = "import sys; import app; print([name for name in sys.modules if name.startswith('pydantic')])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT / "chalice_app", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
