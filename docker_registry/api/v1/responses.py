"""Responses of API V1: JSON in the format that its clients expect, and cache headers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

from flask import Response, request
from werkzeug.http import http_date

from docker_registry.api import requests
from docker_registry.api.flask_app import NOT_CACHED
from docker_registry.api.responses import JSON
from docker_registry.registry.v1.stored_results import Answer

#: Constant Last-Modified of images, which never change; clients may send it in If-Range.
LAST_MODIFIED: Final = "Thu, 01 Jan 1970 00:00:00 GMT"

_CACHE_LIFETIME: Final = timedelta(days=365)


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
    return Response(blocks, 200, headers, direct_passthrough=True)


def cache_headers(*, is_private: bool) -> dict[str, str]:
    """
    Return the cache headers of immutable content.

    That of private repositories must not be cached at all. With access control it must not be kept by caches that
    several clients share: ``public`` would let them answer other clients (RFC 9111, section 3.5).
    """
    if is_private:
        return dict(NOT_CACHED)
    scope = "private" if requests.is_restricted() else "public"
    return {
        "Cache-Control": f"{scope}, max-age={int(_CACHE_LIFETIME.total_seconds())}",
        "Expires": http_date(datetime.now(timezone.utc) + _CACHE_LIFETIME),
        "Last-Modified": LAST_MODIFIED,
    }


def is_unmodified() -> bool:
    """Return whether to answer 304: images never change, so any If-Modified-Since without If-None-Match is met."""
    return "If-Modified-Since" in request.headers and "If-None-Match" not in request.headers
