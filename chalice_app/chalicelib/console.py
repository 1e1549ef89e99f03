"""The console: the web page at ``GET /`` and its files.

The files lie in ``chalicelib/console/``; they are text, so that they pass API Gateway as they are. The page names the
others by a folder that is the hash of them all, and which a browser may therefore keep for ever; a page that was
opened before an update still gets the files of today, but keeps none of them.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from chalice.app import Response

from chalicelib import storage
from chalicelib.errors import NotFound

FOLDER = Path(__file__).parent / "console"
PAGE = "index.html"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Stands in the page for the folder of its other files.
VERSION_MARK = "{{version}}"
KEEP = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"


def page(path: str, headers: Mapping[str, str]) -> Response:
    """The page itself.

    Args:
        path: the path that the browser asked for, with the stage of API Gateway.
        headers: the request's headers.
    """
    if not path.endswith("/"):
        # The page's links are relative: without the slash they would leave the stage.
        return Response(body="", status_code=302, headers={"Location": f"{path.rpartition('/')[2]}/"})
    text = _files()[PAGE].replace(VERSION_MARK, version())
    return _answer(PAGE, text, ASK_AGAIN, headers, {"Content-Security-Policy": _content_security_policy()})


def asset(wanted_version: str, name: str, headers: Mapping[str, str]) -> Response:
    """One of the page's other files. Raises NotFound."""
    text = _files().get(name)
    if text is None or name == PAGE:
        raise NotFound(f"The console has no file '{name}'.", "Load the page again: GET / names its files.")
    return _answer(name, text, KEEP if wanted_version == version() else ASK_AGAIN, headers, {})


def link_answer(url: str, headers: Mapping[str, str]) -> Response:
    """The way to a signed link: a redirect, or ``{"url"}`` for who asks for JSON.

    A browser cannot send a key when it follows a plain link, and must not send it on to the bucket: the page asks for
    the link, and then opens it.
    """
    if "application/json" in headers.get("accept", ""):
        return Response(body={"url": url}, headers={"Cache-Control": "no-store"})
    return Response(body="", status_code=302, headers={"Location": url})


@cache
def version() -> str:
    """The hash of all files, the name of the folder that the page finds them in."""
    digest = hashlib.sha256()
    for name, text in sorted(_files().items()):
        digest.update(f"{name}\0{hashlib.sha256(text.encode()).hexdigest()}\0".encode())
    return digest.hexdigest()[:16]


@cache
def _files() -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES}


def _answer(name: str, text: str, caching: str, request: Mapping[str, str], more: dict[str, str]) -> Response:
    # Not of the text alone: the policy, and what a client may keep, change with the place.
    parts = [text, caching, *more.values()]
    tag = f'"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}"'
    headers: dict[str, str | list[str]] = {
        "Content-Type": MEDIA_TYPES[Path(name).suffix],
        "Cache-Control": caching,
        "ETag": tag,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        **more,
    }
    if tag in [given.strip().removeprefix("W/") for given in request.get("if-none-match", "").split(",")]:
        return Response(body="", status_code=304, headers=headers)
    return Response(body=text, status_code=200, headers=headers)


def _content_security_policy() -> str:
    """What the page may load: its own files, images that it made itself, and uploads to the bucket."""
    return "; ".join(
        (
            "default-src 'self'",
            f"connect-src 'self' {_bucket_origin()}",
            "img-src 'self' blob: data:",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


@cache
def _bucket_origin() -> str:
    # As the SDK addresses the bucket here, whichever place this is; a link is signed without a call.
    parts = urlsplit(storage.link("datasets/"))
    return f"{parts.scheme}://{parts.netloc}"
