"""How API V2 answers what has changed something: it says where the outcome is, and has no body."""

from __future__ import annotations

from flask import Response
from werkzeug.datastructures import Headers


class _Bare(Response):
    """An answer whose headers are sent as they are: Werkzeug would search them for what it could correct."""

    default_mimetype = None

    def get_wsgi_headers(self, environ: object) -> Headers:  # noqa: ARG002 - it depends on no request
        """See :class:`Response`."""
        return self.headers


def changed(status: int, location: str, headers: dict[str, str]) -> Response:
    """
    Answer a request that has changed something.

    Args:
        status: 201, or 202 when it goes on.
        location: where the outcome is, in ASCII; without scheme and host, so that no proxy in between can make it
            wrong.
        headers: what else there is to say.
    """
    return _Bare(status=status, headers={"Content-Length": "0", "Location": location, **headers})
