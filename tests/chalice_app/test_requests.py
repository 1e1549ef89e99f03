"""Reading what callers and EventBridge send."""

import json
from typing import Any

import pytest
from chalice.app import Response
from chalicelib import http_errors, queries, uploads
from chalicelib.errors import EmptyDataset, InvalidParameter, NoLiveModel


@pytest.mark.parametrize(("text", "count"), [(None, 3), ("", 3), ("1", 1), ("1000", 1000), ("007", 7)])
def test_a_count(text: str | None, count: int) -> None:
    assert queries.parse_count("top_k", text, default=3, highest=1000) == count


@pytest.mark.parametrize("text", ["0", "-1", "1.0", "1001", "x", " 1", "٣", "nan"])
def test_no_count(text: str) -> None:
    with pytest.raises(InvalidParameter, match="whole number from 1 to 1000"):
        queries.parse_count("top_k", text, default=3, highest=1000)


def event(kind: str, **thing: Any) -> dict[str, Any]:
    """An S3 event in EventBridge's form."""
    return {"id": "id-1", "detail-type": kind, "detail": {"bucket": {"name": "b"}, "object": thing}}


def test_a_change_is_told_from_the_next_one_of_the_same_key() -> None:
    first = uploads.parse_change(event("Object Created", key="datasets/x/a b+ü.jpg", sequencer="0A", etag="e"))
    again = uploads.parse_change(event("Object Created", key="datasets/x/a b+ü.jpg", sequencer="0A", etag="e"))
    later = uploads.parse_change(event("Object Created", key="datasets/x/a b+ü.jpg", sequencer="0B", etag="e"))
    gone = uploads.parse_change(event("Object Deleted", key="datasets/x/a b+ü.jpg", sequencer="0B"))
    # EventBridge does not encode keys, so they are taken as they are.
    assert first.key == "datasets/x/a b+ü.jpg"
    assert first == again
    assert len({first, later, gone}) == 3


def test_an_event_without_a_sequencer_is_told_by_etag_or_id() -> None:
    assert uploads.parse_change(event("Object Created", key="k", etag="e")).identity == "b/k#Object Created:e"
    assert uploads.parse_change(event("Object Deleted", key="k")).identity == "b/k#Object Deleted:id-1"


def test_a_message_of_another_form_is_refused() -> None:
    with pytest.raises(KeyError, match="detail"):
        uploads.parse_change({"Records": []})


def test_an_error_has_its_status_and_the_request_id() -> None:
    answer = http_errors.error_response(NoLiveModel("Nothing serves.", "Wait."), "r-1")
    assert (answer.status_code, answer.body) == (
        503,
        {"error": {"code": "NoLiveModel", "message": "Nothing serves.", "hint": "Wait.", "request_id": "r-1"}},
    )
    assert http_errors.error_response(EmptyDataset("x", "y"), "r-1").status_code == 500


@pytest.mark.parametrize(
    ("code", "status", "ours"),
    [
        ("MethodNotAllowedError", 405, "MethodNotAllowed"),
        ("UnsupportedMediaType", 415, "UnsupportedMediaType"),
        ("InternalServerError", 500, "InternalError"),
        ("BadRequestError", 400, "InvalidParameter"),
    ],
)
def test_chalices_own_refusals_get_the_one_shape(code: str, status: int, ours: str) -> None:
    refusal = Response({"Code": code, "Message": "m"}, status_code=status, headers={"Allow": "GET"})
    answer = http_errors.unify(refusal, "r-1")
    (error,) = answer.body.values()
    assert (answer.status_code, error["code"], error["request_id"]) == (status, ours, "r-1")
    assert answer.headers["Allow"] == "GET"


def test_an_answer_passes_as_it_is() -> None:
    answer = Response({"runs": []})
    assert http_errors.unify(answer, "r-1") is answer


def test_the_text_of_an_error_is_its_document() -> None:
    error = EmptyDataset("Dataset 'ä' holds no images.", "Upload some.")
    assert json.loads(str(error)) == {"code": "EmptyDataset", "message": error.message, "hint": error.hint}
