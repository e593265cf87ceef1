"""Responses of API V1: JSON in the format that its clients expect, and cache headers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from flask import Response, json, request
from werkzeug.http import http_date

from docker_registry.api import requests
from docker_registry.registry.v1.stored_results import Answer

#: Constant Last-Modified of images, which never change; clients may send it in If-Range.
LAST_MODIFIED: Final = "Thu, 01 Jan 1970 00:00:00 GMT"

_CACHE_LIFETIME: Final = timedelta(days=365)

NOT_CACHED: Final = {"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "-1"}

JSON: Final = "application/json"


def json_response(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response in the format of 0.7.1: sorted keys, spaces after commas and colons, ASCII, no newline."""
    return Response(json.dumps(document, sort_keys=True), status, headers, content_type=JSON)


def no_content(headers: dict[str, str] | None = None) -> Response:
    """Return a 204 response."""
    return Response(status=204, headers=headers, content_type=JSON)


def stored_json(content: bytes, headers: dict[str, str] | None = None) -> Response:
    """Return a response with JSON exactly as stored."""
    return Response(content, 200, headers, content_type=JSON)


def streamed_json(content: Answer, headers: dict[str, str] | None = None) -> Response:
    """Return a response that streams JSON, which may be too long for memory."""
    blocks = () if request.method == "HEAD" else content.read()
    headers = {**(headers or {}), "Content-Length": str(content.size), "Content-Type": JSON}
    return requests.stream(blocks, 200, headers)


def cache_headers(*, is_private: bool) -> dict[str, str]:
    """Return the cache headers of immutable content; private content must not be cached."""
    if is_private:
        return dict(NOT_CACHED)
    return {
        "Cache-Control": f"public, max-age={int(_CACHE_LIFETIME.total_seconds())}",
        "Expires": http_date(datetime.now(timezone.utc) + _CACHE_LIFETIME),
        "Last-Modified": LAST_MODIFIED,
    }


def is_unmodified() -> bool:
    """Return whether to answer 304: images never change, so any If-Modified-Since without If-None-Match is met."""
    return "If-Modified-Since" in request.headers and "If-None-Match" not in request.headers


def common_headers(flavor: str, version: str) -> Any:
    """Return a hook that adds the headers that every response carries."""

    def add_headers(response: Response) -> Response:
        response.headers.add("X-Docker-Registry-Version", version)
        response.headers.add("X-Docker-Registry-Config", flavor)
        response.headers.add("X-Content-Type-Options", "nosniff")
        if not request.path.startswith("/v2") and "Cache-Control" not in response.headers:
            response.headers.update(NOT_CACHED)
        return response

    return add_headers


class WithoutTrailingSlash:
    """
    A WSGI middleware that makes a trailing slash optional in paths under ``/v1/``.

    Routing rules cannot express this: repository names contain slashes, so ``foo/images/`` would match as a name.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Pass a request on, without the trailing slashes of its path."""
        path = environ.get("PATH_INFO", "")
        if path.endswith("/") and path.startswith("/v1/"):
            environ = {**environ, "PATH_INFO": path.rstrip("/")}
        return self._application(environ, start_response)
