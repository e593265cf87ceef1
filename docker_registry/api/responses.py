"""Responses that both APIs share: JSON in the format of 0.7.1, and the headers that every response carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from flask import Response, json, request

NOT_CACHED: Final = {"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "-1"}

JSON: Final = "application/json"


def json_response(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response in the format of 0.7.1: sorted keys, spaces after commas and colons, ASCII, no newline."""
    return Response(json.dumps(document, sort_keys=True), status, headers, content_type=JSON)


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
