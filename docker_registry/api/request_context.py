"""Records what observers of requests receive: route, repository, reference and digest (see http/exchange.py)."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final

from flask import Flask, Response, request

from docker_registry.http.exchange import context_of

#: The variables of URLs that name a repository, and those that name something in it.
_REPOSITORIES: Final = ("name", "repository")
_REFERENCES: Final = ("reference", "digest", "tag", "image_id", "upload_id")


def install(app: Flask) -> None:
    """Install the hooks that fill the context of every request; before all hooks that may reject it."""

    @app.url_value_preprocessor
    def record_target(endpoint: str | None, values: MutableMapping[str, Any] | None) -> None:
        context = context_of(request.environ)
        context.route = endpoint or ""
        if values:
            context.repository = next((str(values[key]) for key in _REPOSITORIES if key in values), "")
            context.reference = next((str(values[key]) for key in _REFERENCES if key in values), "")
            context.digest = str(values.get("digest", ""))

    @app.after_request
    def record_digest(response: Response) -> Response:
        digest = response.headers.get("Docker-Content-Digest")
        if digest is not None:
            context_of(request.environ).digest = digest
        if response.status_code >= 400:
            _name_request(response)
        return response


def _name_request(response: Response) -> None:
    """Add the request id and the trace to an error, so that its client can tell which request failed."""
    context = context_of(request.environ)
    if context.request_id:
        response.headers["X-Request-Id"] = context.request_id
    if context.trace_id:
        response.headers["Traceparent"] = request.headers["Traceparent"]
