"""Tells browsers which pages of other origins may read responses (CORS; Fetch standard, "CORS protocol")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from flask import Flask, Response, request

#: Endpoints that pages of any origin may read when CORS is not configured, as in docker-registry 0.7.
_OPEN_ENDPOINTS: Final = frozenset({"v1_repositories.list_images", "v1_search.search"})

_ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class CorsRules:
    """
    The CORS settings of an operator.

    Attributes:
        origins: origins whose pages may read every response; ``*`` for all; CORS is off when empty.
        methods: methods that they may use.
        headers: request headers that they may send.
        expose_headers: response headers that they may read.
        supports_credentials: whether they may send credentials.
        max_age: seconds for which a browser may cache the response to a preflight request.
    """

    origins: Sequence[str] = ()
    methods: Sequence[str] = ()
    headers: Sequence[str] = ()
    expose_headers: Sequence[str] = ()
    supports_credentials: bool = False
    max_age: int | None = None


def add_headers(app: Flask, rules: CorsRules) -> None:
    """Add the CORS headers to responses."""
    if rules.origins:
        app.after_request(partial(_allow_origin, rules))
        return
    for blueprint in {endpoint.partition(".")[0] for endpoint in _OPEN_ENDPOINTS}:
        app.after_request_funcs[blueprint].append(_open)


def _open(response: Response) -> Response:
    if request.endpoint in _OPEN_ENDPOINTS and request.method in ("GET", "HEAD"):
        response.headers["Access-Control-Allow-Origin"] = _ANY
        response.headers["Access-Control-Allow-Methods"] = "GET"
    return response


def _allow_origin(rules: CorsRules, response: Response) -> Response:
    origin = request.headers.get("Origin")
    # With credentials, browsers require their own origin and reject `*`.
    allows_any_origin = _ANY in rules.origins and not rules.supports_credentials
    if not allows_any_origin:
        response.vary.add("Origin")
    if origin is None or not (_ANY in rules.origins or origin in rules.origins):
        return response
    response.headers["Access-Control-Allow-Origin"] = _ANY if allows_any_origin else origin
    if rules.supports_credentials:
        response.headers["Access-Control-Allow-Credentials"] = "true"
    if rules.expose_headers:
        response.headers["Access-Control-Expose-Headers"] = ", ".join(rules.expose_headers)
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        response.headers["Access-Control-Allow-Methods"] = ", ".join(rules.methods)
        response.headers["Access-Control-Allow-Headers"] = ", ".join(rules.headers)
        if rules.max_age is not None:
            response.headers["Access-Control-Max-Age"] = str(rules.max_age)
    return response
