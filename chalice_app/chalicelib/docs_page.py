"""``GET /docs``: the OpenAPI document for people, on a page that loads nothing from elsewhere."""

from functools import cache
from pathlib import Path

from chalice.app import Response

FILE = Path(__file__).parent / "docs.html"
# The page's own style and script are in it; it asks for nothing but openapi.json beside it.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page() -> Response:
    """The page."""
    headers: dict[str, str | list[str]] = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Response(body=_text(), headers=headers)


@cache
def _text() -> str:
    return FILE.read_text(encoding="utf-8")
