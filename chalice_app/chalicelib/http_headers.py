"""What every answer's headers say: the request's id, who may read it, and whether it has changed."""

import hashlib
import json
from typing import Any

from chalice.app import Request, Response

from chalicelib import config

ALLOWED_METHODS = "GET, POST, PUT, OPTIONS"
ALLOWED_HEADERS = "Content-Type, If-None-Match"
EXPOSED_HEADERS = "ETag, Location, Retry-After, X-Request-Id"
PREFLIGHT_SECONDS = "3600"


def preflight(request: Request | None) -> Response | None:
    """The answer to a browser's question whether it may ask, or None when it is no such question."""
    if request is None or request.method != "OPTIONS" or not _allowed_origin(request):
        return None
    headers: dict[str, str | list[str]] = {
        "Access-Control-Allow-Methods": ALLOWED_METHODS,
        "Access-Control-Allow-Headers": ALLOWED_HEADERS,
        "Access-Control-Max-Age": PREFLIGHT_SECONDS,
    }
    return Response(body="", status_code=204, headers=headers)


def complete(request: Request | None, response: Response, request_id: str) -> Response:
    """`response` with the headers of every answer; 304 without a body when the caller has what it says."""
    response.headers["X-Request-Id"] = request_id
    if isinstance(response.body, dict):
        # API Gateway would say so too; a function that is called otherwise has to say it itself.
        response.headers.setdefault("Content-Type", "application/json")
    if request is None:
        return response
    origin = _allowed_origin(request)
    if origin:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        if origin != "*":
            response.headers["Vary"] = "Origin"
    if request.method != "GET" or response.status_code != 200 or not isinstance(response.body, dict):
        return response
    tag = etag(response.body)
    response.headers["ETag"] = tag
    # A run goes on while one looks: a copy may be kept, but has to be asked about.
    response.headers.setdefault("Cache-Control", "no-cache")
    if _matches(request.headers.get("if-none-match", ""), tag):
        response.body, response.status_code = "", 304
    return response


def etag(document: dict[str, Any]) -> str:
    """A weak entity tag of a JSON document (RFC 9110, section 8.8.3)."""
    text = json.dumps(document, sort_keys=True, default=str)
    return f'W/"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def _matches(wanted: str, tag: str) -> bool:
    tags = [each.strip().removeprefix("W/") for each in wanted.split(",")]
    return "*" in tags or tag.removeprefix("W/") in tags


def _allowed_origin(request: Request) -> str:
    allowed = [origin.strip() for origin in config.cors_origin().split(",") if origin.strip()]
    if "*" in allowed:
        return "*"
    origin = str(request.headers.get("origin", ""))
    return origin if origin in allowed else ""
