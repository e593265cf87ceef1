"""
Parses the usual request heads, and describes the requests to the application, by gunicorn's rules.

gunicorn parses any head line by line, looks at each header several times and builds the environment of each request
from nothing. A head of the form that clients of a registry send is checked here by one regular expression: a registered
method, a path, HTTP/1.1, and headers whose names and values are valid and unambiguous. It takes a tenth of the calls.

Every other head is left to gunicorn, which accepts or rejects it: one that is incomplete or long, that has an
Expect header or repeats a header that must not be repeated, and any that another parser could read differently. So a
head has one reading, whichever parser it meets, and none is accepted that gunicorn would reject.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

from gunicorn.http.message import MAX_REQUEST_LINE, Request
from gunicorn.http.unreader import IterUnreader
from gunicorn.http.wsgi import WSGIErrorsWrapper, base_environ
from gunicorn.util import unquote_to_wsgi_str

from docker_registry.server.client_socket import ClientSocket
from docker_registry.server.request_body import ChunkedBody, LengthBody, RequestBody

#: A complete head: a target in origin form without a fragment (RFC 9112, section 3.2.1), and fields whose names are
#: tokens without an underscore and whose values have no control characters (RFC 9110, section 5.5). Values have no
#: white space at their end, so that each can be taken as it is, and no name could be that of another header after
#: ``-`` was replaced by ``_``.
_HEAD: Final = re.compile(
    r"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) ((/(?!/)[!\"$->@-~]*)(?:\?([!\"$-~]*))?) HTTP/1\.1\r\n"
    r"((?:[!#$%&'*+.^`|~0-9A-Za-z-]{1,64}:[\t -~\x80-\xff]*(?<![ \t])\r\n){0,100})\r\n"
)

#: One of its fields, in text that matches the expression above.
_FIELD: Final = re.compile(r"([^:]+):[ \t]*([^\r]*)\r\n")

#: Headers that must not be repeated, as keys of the environment.
_SINGLE: Final = frozenset({"CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_CONNECTION", "HTTP_HOST", "HTTP_TRANSFER_ENCODING"})

_LENGTH: Final = re.compile("[0-9]{1,18}")


class ParsedRequest(Request):  # type: ignore[misc]
    """
    A request with the attributes of gunicorn's own, except that its body is a RequestBody and has no unreader.

    Attributes:
        environ: its WSGI environment.
    """

    headers: list[tuple[str, str]]
    environ: dict[str, Any]
    _asks_to_close: bool

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.__dict__ = attributes

    def should_close(self) -> bool:
        """Return whether the client asks to close the connection after the response."""
        return self._asks_to_close


class CommonParts:
    """
    What all requests of a worker have in common.

    Attributes:
        attributes: of the requests.
        environ: a part of the WSGI environment.
        max_bytes: longer heads are left to gunicorn. A shorter one does not exceed its limits for lines.
        max_fields: the same for the number of headers.
        not_parsed: headers that are left to gunicorn, as keys of the environment.
        pause: called regularly while very short chunks of a body are decoded.
    """

    def __init__(self, cfg: Any, pause: Callable[[], object]) -> None:
        """
        Args:
            cfg: gunicorn's final configuration.
        """
        example = Request(cfg, IterUnreader([b"GET / HTTP/1.1\r\n\r\n"]), ("", 0))
        own = {"body", "headers", "method", "path", "peer_addr", "query", "remote_addr", "trailers", "unreader", "uri"}
        self.attributes = {name: value for name, value in vars(example).items() if name not in own}
        self.attributes["proxy_protocol_info"] = {}
        self.environ = {
            **base_environ(cfg),
            "wsgi.errors": _ErrorLog(cfg),
            "wsgi.multithread": True,
            "wsgi.url_scheme": example.scheme,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SCRIPT_NAME": "",
        }
        self.max_bytes = min(example.limit_request_line or MAX_REQUEST_LINE, example.limit_request_field_size)
        self.max_fields = example.limit_request_fields
        self.not_parsed = frozenset({"HTTP_EXPECT", *(_spell(name)[1] for name in cfg.secure_scheme_headers)})
        self.pause = pause


class HeadParser:
    """Parses the request heads of a connection."""

    def __init__(
        self, common: CommonParts, client: ClientSocket, peer: tuple[Any, ...], server: tuple[Any, ...]
    ) -> None:
        """
        Args:
            peer: address of the other end of the connection.
            server: address of the listening socket.
        """
        self._common = common
        self._client = client
        self._attributes = {**common.attributes, "peer_addr": peer, "remote_addr": peer, "unreader": None}
        self._environ = {
            **common.environ,
            "gunicorn.socket": client,
            "REMOTE_ADDR": peer[0],
            "REMOTE_PORT": str(peer[1]),
            "SERVER_NAME": server[0],
            "SERVER_PORT": str(server[1]),
        }

    def parse(self, received: bytes) -> ParsedRequest | None:
        """
        Return the request at the beginning of what was received; the client socket gets back what follows it.

        Returns:
            None if the head must be parsed by gunicorn.
        """
        head = _HEAD.match(received.decode("latin-1"))
        if head is None or head.end() > self._common.max_bytes:
            return None
        method, uri, path, query, fields = head.groups("")
        environ = {
            **self._environ,
            "REQUEST_METHOD": method,
            "RAW_URI": uri,
            "PATH_INFO": unquote_to_wsgi_str(path) if "%" in path else path,
            "QUERY_STRING": query,
        }
        headers = self._take_headers(fields, environ)
        if headers is None:
            return None
        body = self._open_body(environ, received[head.end() :])
        if body is None:
            return None
        environ["wsgi.input"] = body
        return ParsedRequest(
            {
                **self._attributes,
                "method": method,
                "uri": uri,
                "path": path,
                "query": query,
                "headers": headers,
                "trailers": [],
                "body": body,
                "environ": environ,
                "_asks_to_close": "HTTP_CONNECTION" in environ and asks_to_close(headers),
            }
        )

    def _take_headers(self, fields: str, environ: dict[str, Any]) -> list[tuple[str, str]] | None:
        """Return the headers and add them to the environment; None if gunicorn must look at them."""
        headers = []
        for spelled, value in _FIELD.findall(fields):
            name, key = _spell(spelled)
            if key not in environ:
                environ[key] = value
            elif key in _SINGLE:
                return None
            else:
                environ[key] += f",{value}"
            headers.append((name, value))
        is_usual = len(headers) <= self._common.max_fields and self._common.not_parsed.isdisjoint(environ)
        return headers if is_usual else None

    def _open_body(self, environ: dict[str, Any], received: bytes) -> RequestBody | None:
        """Return the body of a request; None if gunicorn must decide where it ends."""
        client = self._client
        length, coding = environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING")
        if coding is None:
            if length is not None and not _LENGTH.fullmatch(length):
                return None
            return LengthBody(client, received, client.give_back, int(length or 0))
        if length is not None or coding.lower() != "chunked":
            return None
        return ChunkedBody(client, received, client.give_back, self._common.pause)


class _ErrorLog(WSGIErrorsWrapper):  # type: ignore[misc]
    """The ``wsgi.errors`` of all requests: writes to the error log that is open then, for it may be opened again."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def write(self, data: Any) -> None:
        WSGIErrorsWrapper(self._cfg).write(data)


@lru_cache(maxsize=256)
def _spell(name: str) -> tuple[str, str]:
    """Return the name of a header in upper case, and its key in the environment."""
    name = name.upper()
    key = name.replace("-", "_")
    return name, key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"


def can_parse(cfg: Any) -> bool:
    """Return whether a worker may parse heads itself: nothing comes before them, and none is an upgrade to HTTP/2."""
    return (
        cfg.protocol == "http"
        and cfg.proxy_protocol in (False, "off")
        and cfg.http2_cleartext == "off"
        and not os.environ.get("SCRIPT_NAME")
    )


def asks_to_close(headers: Iterable[tuple[str, str]]) -> bool:
    """
    Return whether a client requests that the connection be closed after the response (RFC 9112, section 9.6).

    gunicorn compares the Connection header with a single word, but it is a list: ``close, TE``.
    """
    return any(name == "CONNECTION" and "close" in map(str.strip, value.lower().split(",")) for name, value in headers)
