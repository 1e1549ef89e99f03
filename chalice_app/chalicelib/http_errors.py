"""One error shape for every answer of the HTTP API."""

from typing import Any

from chalice.app import Request, Response

from chalicelib.errors import DroptuneError, NotFound, RequestError

PATHS_HINT = "GET /docs shows the API's paths, and GET /openapi.json has them for programs."
# Chalice's own refusals: its code, ours, and the next step.
CHALICE_ERRORS = {
    "MethodNotAllowedError": ("MethodNotAllowed", "See the header Allow for the methods of this path."),
    "UnsupportedMediaType": (
        "UnsupportedMediaType",
        "GET /docs shows the content types of this path.",
    ),
    "BadRequestError": ("InvalidParameter", "Check the parameters of the request."),
    "BadRequest": ("InvalidParameter", "Check the headers of the request."),
}
# These are words of Chalice's, and no classes with a status.
CHALICE_STATUSES = {"MethodNotAllowed": 405, "InternalError": 500}
INTERNAL_HINT = "Try again. If it stays, look for the request id in the log of the API's function."


def statuses() -> dict[str, int]:
    """The HTTP status of every code that an answer may hold."""
    kinds = list(RequestError.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.__name__: kind.status for kind in kinds} | CHALICE_STATUSES


def require_route(request: Request | None, routes: dict[str, Any]) -> None:
    """Raise NotFound for a path that no route serves: API Gateway passes all paths on."""
    if request is None or request.context["resourcePath"] not in routes:
        raise NotFound("There is nothing at this path.", PATHS_HINT)


def error_response(error: DroptuneError, request_id: str) -> Response:
    """The answer to a request that failed with one of our own errors."""
    if not isinstance(error, RequestError):
        return _response(error.document(), 500, request_id, {})
    return _response(error.document(), error.status, request_id, error.headers)


def unify(response: Response, request_id: str) -> Response:
    """Rewrite an error that Chalice made itself; leave every other answer as it is."""
    body: Any = response.body
    if response.status_code < 400 or not isinstance(body, dict) or "error" in body:
        return response
    code, hint = CHALICE_ERRORS.get(str(body.get("Code")), ("InternalError", INTERNAL_HINT))
    message = str(body.get("Message", "An internal error occurred."))
    document = {"code": code, "message": message, "hint": hint}
    return _response(document, response.status_code, request_id, dict(response.headers))


def _response(document: dict[str, str], status: int, request_id: str, headers: dict[str, Any]) -> Response:
    return Response(
        body={"error": document | {"request_id": request_id}},
        status_code=status,
        headers=headers | {"Content-Type": "application/json"},
    )
