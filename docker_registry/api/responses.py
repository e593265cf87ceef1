"""Responses: JSON in the format of 0.7.1, and headers about their origin and the next page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from flask import Response, json, request

from docker_registry import dependencies
from docker_registry.http.exchange import CONTEXT
from docker_registry.registry.sources import Origin

JSON: Final = "application/json"


def json_response(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response in the format of 0.7.1: sorted keys, spaces after commas and colons, ASCII, no newline."""
    return Response(json.dumps(document, sort_keys=True), status, headers, content_type=JSON)


def origin_headers(origin: Origin) -> dict[str, str]:
    """
    Return the headers about content that a source had, and record in the context of the request where it was fetched.

    A cached response expires with it.
    """
    if origin.expires is not None:
        dependencies.expire(origin.expires)
    if origin.fetched_from:
        request.environ[CONTEXT].upstream = origin.fetched_from
    return {"Warning": f'299 - "{origin.warning}"'} if origin.warning else {}


def link_next(response: Response, **query: str | int | Sequence[str]) -> Response:
    """Add a Link header to the next page (RFC 8288)."""
    response.headers["Link"] = f'<{request.path}?{urlencode(query, doseq=True)}>; rel="next"'
    return response
