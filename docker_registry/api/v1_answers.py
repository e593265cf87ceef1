"""How API V1 answers: JSON as its clients know it, and headers that caches understand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from flask import Response, json, request
from werkzeug.http import http_date

from docker_registry.api import requests
from docker_registry.registry.v1.kept_answers import Answer

#: Images never change, so they are as old as time; If-Range may say it.
LAST_MODIFIED: Final = "Thu, 01 Jan 1970 00:00:00 GMT"

_YEAR: Final = timedelta(days=365)

NOT_CACHED: Final = {"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "-1"}

JSON: Final = "application/json"


def answer(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON as 0.7.1 writes it: keys sorted, blanks after commas and colons, ASCII, no newline."""
    return Response(json.dumps(document, sort_keys=True), status, headers, content_type=JSON)


def nothing(headers: dict[str, str] | None = None) -> Response:
    """Answer that it was done; there is nothing to say."""
    return Response(status=204, headers=headers, content_type=JSON)


def stored(content: bytes, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON exactly as it lies in the store."""
    return Response(content, 200, headers, content_type=JSON)


def streamed(kept: Answer, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON that may be too long to be held in memory."""
    blocks = () if request.method == "HEAD" else kept.read()
    headers = {**(headers or {}), "Content-Length": str(kept.size), "Content-Type": JSON}
    return requests.stream(blocks, 200, headers)


def lasting(*, is_private: bool) -> dict[str, str]:
    """Return the headers of what never changes; caches may not keep what not everybody may see."""
    if is_private:
        return dict(NOT_CACHED)
    return {
        "Cache-Control": f"public, max-age={int(_YEAR.total_seconds())}",
        "Expires": http_date(datetime.now(timezone.utc) + _YEAR),
        "Last-Modified": LAST_MODIFIED,
    }


def is_unmodified() -> bool:
    """Tell whether the client asks only for what has changed since some time: an image that is there never has."""
    return "If-Modified-Since" in request.headers and "If-None-Match" not in request.headers


def finish(flavor: str, version: str) -> Any:
    """Return a hook that adds what every answer carries."""

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
    A WSGI application whose paths under ``/v1/`` may end in a slash or not.

    Rules cannot say that: a repository's name has slashes, so that ``foo/images/`` would be one.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        path = environ.get("PATH_INFO", "")
        if path.endswith("/") and path.startswith("/v1/"):
            environ = {**environ, "PATH_INFO": path.rstrip("/")}
        return self._application(environ, start_response)
