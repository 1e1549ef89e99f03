"""Thousands of requests made from our own OpenAPI document, right ones and wrong ones: no 5xx, and answers conform.

schemathesis makes the requests and judges the answers; the function answers them in this process, on the services of
the local cloud.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

import hypothesis
import pytest
import schemathesis
from chalicelib import request_schemas
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.deployed import DATASET, Handler

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
POSITIVE = schemathesis.GenerationMode.POSITIVE
REQUESTS = 5000
StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Wsgi:
    """The function as a WSGI application (PEP 3333), which schemathesis calls without a network."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.answered: Counter[int] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        headers = {
            name[5:].replace("_", "-"): str(value) for name, value in environ.items() if name.startswith("HTTP_")
        }
        if environ.get("CONTENT_TYPE"):
            headers["Content-Type"] = environ["CONTENT_TYPE"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        # A WSGI path is UTF-8 in disguise.
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        answer = self._handler(environ["REQUEST_METHOD"], path, body, headers, _query(environ["QUERY_STRING"]))
        self.answered[answer.status] += 1
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", list(answer.headers.items()))
        return [answer.text.encode()]


def _query(text: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    return dict(parse_qsl(text, keep_blank_values=True))


def ask(operation: Any, mode: Any, settings: hypothesis.settings) -> None:
    """Make the requests of one operation and mode, and judge the answers."""

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @settings
    def one(case: Any) -> None:
        if mode is POSITIVE:
            # Of all names only this one leads beyond the first refusal.
            case.path_parameters.update({name: DATASET for name in ("dataset", "name") if name in case.path_parameters})
        case.call_and_validate(checks=CHECKS)

    one()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_requests_from_the_document(handler: Handler) -> None:
    # GIVEN the document, and the function behind it
    wsgi = Wsgi(handler)
    document = request_schemas.document() | {"servers": [{"url": "http://localhost"}]}
    schema = schemathesis.openapi.from_dict(document)
    schema.app = wsgi
    results: list[Any] = list(schema.get_all_operations())
    operations = [result.ok() for result in results]
    assert len(operations) == sum(len(methods) for methods in document["paths"].values())
    settings = hypothesis.settings(
        max_examples=105,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    for operation in operations:
        takes_something = bool(operation.definition.raw["parameters"] or operation.definition.raw.get("requestBody"))
        for mode in schemathesis.GenerationMode if takes_something else [POSITIVE]:
            # WHEN requests are made that fit it, and such that do not
            # THEN none is a server error, and each answer is one that the document tells
            ask(operation, mode, settings)
    assert wsgi.answered.total() >= REQUESTS, wsgi.answered
    assert wsgi.answered[200] > 0
    assert wsgi.answered[400] > 0
