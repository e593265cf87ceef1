"""Responses of API V2: those to successful changes, and headers about content that a source had."""

from __future__ import annotations

from flask import Response
from werkzeug.datastructures import Headers

from docker_registry import dependencies
from docker_registry.registry.sources import Origin


class _PlainResponse(Response):
    """A response whose headers are sent unchanged, without the cost of Werkzeug's corrections."""

    default_mimetype = None

    def get_wsgi_headers(self, environ: object) -> Headers:  # noqa: ARG002 - independent of the request
        """See :class:`Response`."""
        return self.headers


def with_location(status: int, location: str, headers: dict[str, str]) -> Response:
    """
    Return the response to a successful change.

    Args:
        status: 201, or 202 if the upload continues.
        location: path of the result, in ASCII; without scheme and host, which may differ behind a proxy.
        headers: additional headers.
    """
    return _PlainResponse(status=status, headers={"Content-Length": "0", "Location": location, **headers})


def origin_headers(origin: Origin) -> dict[str, str]:
    """Return the headers about content that a source had; a cached response expires with it."""
    if origin.expires is not None:
        dependencies.expire(origin.expires)
    return {"Warning": f'299 - "{origin.warning}"'} if origin.warning else {}
