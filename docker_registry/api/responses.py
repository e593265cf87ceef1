"""Responses: JSON in the format of 0.7.1, those that are sent without corrections, and headers about their origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import werkzeug.datastructures
from flask import Response, json, request

from docker_registry import dependencies
from docker_registry.http.exchange import CONTEXT
from docker_registry.registry.sources import Origin

JSON: Final = "application/json"


def json_response(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response in the format of 0.7.1: sorted keys, spaces after commas and colons, ASCII, no newline."""
    return Response(json.dumps(document, sort_keys=True), status, headers, content_type=JSON)


class Headers(werkzeug.datastructures.Headers):
    """
    Headers of a response that the registry makes itself.

    Werkzeug searches each value for newlines, at five calls; these values are known to have none.
    """

    def add_all(self, headers: Iterable[tuple[str, str]]) -> None:
        """Add several headers, none of which is there already."""
        self._list.extend(headers)

    def __contains__(self, key: str) -> bool:
        """Return whether there is a header of this name."""
        key = key.lower()
        for name, _ in self._list:  # noqa: SIM110 - a generator would be called for each name
            if name.lower() == key:
                return True
        return False


class PlainResponse(Response):
    """
    A response that is sent as it is, without the cost of Werkzeug's corrections.

    Not for the statuses 1xx, 204 and 304, which have no content.
    """

    default_mimetype = None

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        content: Iterable[bytes] = (),
        *,
        direct_passthrough: bool = False,
    ) -> None:
        """
        Args:
            headers: all headers, with Content-Length; the values contain no newlines.
            direct_passthrough: whether the server receives the object *content* itself.
        """
        own = Headers()
        super().__init__(content, status, own, direct_passthrough=direct_passthrough)
        own.add_all(headers.items())

    def get_wsgi_headers(self, environ: object) -> werkzeug.datastructures.Headers:  # noqa: ARG002 - always the same
        """See :class:`Response`."""
        return self.headers

    def get_app_iter(self, environ: dict[str, Any]) -> Iterable[bytes]:
        """See :class:`Response`."""
        is_head = environ["REQUEST_METHOD"] == "HEAD"
        if self.direct_passthrough or (is_head and not self.is_sequence):
            return super().get_app_iter(environ)
        if is_head:
            self.response = ()
        return self

    def __iter__(self) -> Iterator[bytes]:
        """Return the blocks of the content; the server calls :meth:`close` after the last one."""
        return self.iter_encoded()


def add_headers(response: Response, headers: Iterable[tuple[str, str]]) -> None:
    """Add headers that a response does not have yet; their values contain no newlines."""
    if isinstance(response.headers, Headers):
        response.headers.add_all(headers)
    else:
        response.headers.extend(headers)


def with_location(status: int, location: str, headers: dict[str, str]) -> Response:
    """
    Return the response to a successful change in API V2.

    Args:
        status: 201, or 202 if the upload continues.
        location: path of the result, in ASCII; without scheme and host, which may differ behind a proxy.
        headers: additional headers.
    """
    return PlainResponse(status, {"Content-Length": "0", "Location": location, **headers})


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
