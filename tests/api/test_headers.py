"""What every answer has: a request id, an entity tag, the rules of browsers, pages, and one form of errors."""

import json
from typing import Any

import pytest
from chalicelib import queries
from chalicelib.errors import InvalidParameter
from chalicelib.http_errors import statuses

from droptune.packaging import RESOURCES
from tests.api.deployed import DATASET, Handler, System
from tests.api.test_predict import error_of

LISTS = (
    "/runs",
    f"/models/{DATASET}",
    "/datasets",
    f"/datasets/{DATASET}/versions",
    "/predictions",
    f"/feedback/{DATASET}",
)


class TestRequestIds:
    def test_every_answer_has_one(self, system: System) -> None:
        for path in ("/health", "/runs/none", "/nothing/here"):
            answer = system.api.get(path)
            assert answer.headers["x-request-id"]
            if answer.is_error:
                assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


class TestEntityTags:
    @pytest.mark.parametrize(
        "path", ["/health", "/openapi.json", "/runs", f"/models/{DATASET}", f"/datasets/{DATASET}"]
    )
    def test_what_has_not_changed_is_not_sent_again(self, handler: Handler, path: str) -> None:
        # GIVEN an answer and its tag
        answer = handler("GET", path)
        tag = answer.headers["etag"]
        assert answer.status == 200
        # WHEN it is asked for again with the tag, alone, among others, or as a strong one
        for given in (tag, f'"x", {tag}', tag.removeprefix("W/"), "*"):
            again = handler("GET", path, headers={"If-None-Match": given})
            # THEN nothing comes but the tag
            assert (again.status, again.text, again.headers["etag"]) == (304, "", tag)
        # AND with another tag everything comes
        assert handler("GET", path, headers={"If-None-Match": 'W/"x"'}).status == 200

    def test_over_http(self, system: System) -> None:
        tag = system.api.get(f"/models/{DATASET}").headers["etag"]
        answer = system.api.get(f"/models/{DATASET}", headers={"If-None-Match": tag})
        assert (answer.status_code, answer.content) == (304, b"")

    def test_errors_have_none(self, handler: Handler) -> None:
        assert "etag" not in handler("GET", "/runs/none").headers


class TestBrowsers:
    @pytest.mark.parametrize(
        ("configured", "origin", "allowed"),
        [
            ("", "https://a.example", None),
            ("*", "https://a.example", "*"),
            ("https://a.example", "https://a.example", "https://a.example"),
            ("https://b.example, https://a.example", "https://a.example", "https://a.example"),
            ("https://a.example", "https://a.example.evil", None),
            ("https://a.example", None, None),
        ],
    )
    def test_origins(
        self,
        handler: Handler,
        monkeypatch: pytest.MonkeyPatch,
        configured: str,
        origin: str | None,
        allowed: str | None,
    ) -> None:
        monkeypatch.setenv("CORS_ORIGIN", configured)
        headers = {"Origin": origin} if origin else {}
        # GIVEN an answer, and an error
        for path in ("/health", "/runs/none"):
            assert handler("GET", path, headers=headers).headers.get("access-control-allow-origin") == allowed
        # WHEN a browser asks first
        asked = handler("OPTIONS", f"/predict/{DATASET}", headers=headers)
        # THEN it may where the origin may, and else the method is as unknown as ever
        assert asked.status == (204 if allowed else 405)
        assert ("access-control-allow-methods" in asked.headers) == (allowed is not None)


class TestPages:
    @pytest.mark.parametrize("path", LISTS)
    def test_every_list_has_them(self, handler: Handler, path: str) -> None:
        document = handler("GET", path, query={"limit": "1"}).json()
        assert "next" in document
        for query in ({"limit": "0"}, {"limit": "x"}, {"limit": "101"}):
            assert error_of(handler("GET", path, query=query), 400)["code"] == "InvalidParameter"

    @pytest.mark.parametrize("path", ["/runs", f"/models/{DATASET}", "/predictions", f"/feedback/{DATASET}"])
    @pytest.mark.parametrize("token", ["x", "e30", "W10", "MQ", "Ii4uL3gi", "eyJpZCI6MX0", "ü", "ImFiYyI", "=" * 9])
    def test_a_token_that_no_page_ended_with(self, handler: Handler, path: str, token: str) -> None:
        answer = handler("GET", path, query={"next": token})
        # A token of the right kind may be one that an earlier page ended with.
        if answer.status != 200:
            assert error_of(answer, 400)["code"] == "InvalidParameter"

    def test_runs_page_by_page(self, system: System, handler: Handler) -> None:
        # GIVEN runs of two datasets
        dynamodb = system.session.client("dynamodb")
        for number in range(7):
            record = {"id": f"r-{number}", "dataset": ("a", "b")[number % 2], "kind": "run", "status": "SUCCEEDED"}
            record["started_at"] = f"2026-11-22T15:00:0{number}.000Z"
            item = {name: {"S": value} for name, value in record.items()}
            dynamodb.put_item(TableName="droptune-runs", Item=item)
        # WHEN they are listed two at a time
        for query, expected in (({}, "6543210"), ({"dataset": "a"}, "6420"), ({"dataset": "b"}, "531")):
            found, token = [], ""
            while True:
                page = handler(
                    "GET", "/runs", query={**query, "limit": "2"} | ({"next": token} if token else {})
                ).json()
                assert len(page["runs"]) <= 2
                found += [run["id"] for run in page["runs"]]
                token = page["next"]
                if token is None:
                    break
            # THEN each comes once, newest first (the uploads of these tests have started a run as well)
            assert [run for run in found if run.startswith("r-")] == [f"r-{number}" for number in expected]

    @pytest.mark.parametrize("position", ["x", 7, {"id": "ü"}, ["a"], "a/b c"], ids=str)
    def test_tokens(self, position: Any) -> None:
        token = queries.write_token(position)
        assert token.isascii()
        assert queries.read_token(token, type(position)) == position
        with pytest.raises(InvalidParameter):
            queries.read_token(token, bytes)


class TestErrors:
    def test_paths_and_methods(self, system: System) -> None:
        assert error_of(system.api.get("/nothing/here"), 404)["code"] == "NotFound"
        refused = system.api.delete("/health")
        assert error_of(refused, 405)["code"] == "MethodNotAllowed"
        assert refused.headers["allow"] == "GET"

    def test_the_gateways_own(self, system: System) -> None:
        # GIVEN the answers that API Gateway gives without the function
        client = system.session.client("apigateway")
        (api,) = [api for api in client.get_rest_apis()["items"] if api["name"] == "droptune"]
        resources = json.loads(RESOURCES.read_text())
        body = resources["Resources"]["RestAPI"]["Properties"]["DefinitionBody"]
        answers = body["x-amazon-apigateway-gateway-responses"]
        # THEN they are of the one form, with the codes that are told
        for name, answer in answers.items():
            text = answer["responseTemplates"]["application/json"].replace("$context.requestId", "r-1")
            (error,) = json.loads(text).values()
            assert set(error) == {"code", "message", "hint", "request_id"}, name
            assert error["code"] in statuses(), name
        assert {"REQUEST_TOO_LARGE", "THROTTLED", "DEFAULT_4XX", "DEFAULT_5XX"} <= set(answers)
        assert api["binaryMediaTypes"]
