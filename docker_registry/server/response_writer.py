"""
Writes the response of a WSGI application to a client, by gunicorn's rules with a tenth of its calls.

gunicorn checks and formats the headers of a response one by one. Here one regular expression checks all values, the
result of checking the names is cached, because an application uses few combinations of names, and the Date is
formatted once a second. Unusual responses (hop-by-hop headers, an invalid name or value, 1xx and 204) are left to
gunicorn's own methods, so that they have the same result and the same error.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final

from gunicorn import SERVER
from gunicorn.http.message import TOKEN_RE
from gunicorn.http.wsgi import STATUS_RE, FileWrapper, Response, _make_early_hints_callback
from gunicorn.util import is_hoppish

from docker_registry.server.lingering_close import DRAIN_BYTES

#: The values of headers, joined by newlines: visible characters, with spaces and tabs inside but not around them
#: (RFC 9110, section 5.5).
_VALUES: Final = re.compile(r"(?![ \t])[\t -~\x80-\xff]*(?<![ \t])(?:\n(?![ \t])[\t -~\x80-\xff]*(?<![ \t]))*")

Headers = list[tuple[str, str]]


class ResponseWriter(Response):  # type: ignore[misc]
    """The response to a request whose connection is a ClientSocket and whose body is a RequestBody."""

    status: str | None
    response_length: int | None
    headers_sent: bool

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], None]:
        """Prepare the head of the response; see PEP 3333 and gunicorn."""
        is_usual = type(status) is str and self.status is None and not exc_info
        code = _final_status(status) if is_usual else None
        if code is None or not self._take_usual(headers):
            write: Callable[[bytes], None] = super().start_response(status, headers, exc_info)
            return write
        self.status = status
        self.status_code = code
        self._omits_body = code == 304 or self.req.method == "HEAD"
        self.chunked = self.response_length is None and self.is_chunked()
        return self.write

    def _take_usual(self, headers: Headers) -> bool:
        """Check the headers and adopt them; return False if gunicorn must look at each of them."""
        if type(headers) is not list:
            return False
        try:
            names, values = zip(*headers, strict=True)
            position = _position_of_length(names)
            joined = "\n".join(values)
        except (TypeError, ValueError):
            return False
        if position is None or not _VALUES.fullmatch(joined) or joined.count("\n") != len(values) - 1:
            return False
        if position >= 0:
            self.response_length = int(values[position])
        self.headers = [*headers]
        return True

    def should_close(self) -> bool:
        """Return whether the connection cannot be reused: for a reason of the server, the client or the response."""
        if self.must_close or self.sock.is_ended or self.req.body.left_bytes > DRAIN_BYTES:
            return True
        return self.response_length is None and not self.chunked and not self._omits_body

    @property
    def is_short(self) -> bool:
        """Whether less than Content-Length was sent, so that the client would take the next response for the body."""
        if self._omits_body or self.response_length is None:
            return False
        return bool(self.sent + self.sock.file_bytes < self.response_length)

    def send_headers(self) -> None:
        """Send the head of the response, once."""
        if self.headers_sent:
            return
        if self.status is None:
            raise AssertionError("The application did not call start_response.")
        if self.should_close():
            self.must_close = True  # the client was told, so what changes later does not count
        connection = "upgrade" if self.upgrade else "close" if self.must_close else "keep-alive"
        major, minor = self.req.version
        coding = "Transfer-Encoding: chunked\r\n" if self.chunked else ""
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.headers])
        head = (
            f"HTTP/{major}.{minor} {self.status}\r\n{_server_and_date(int(time.time()))}"
            f"Connection: {connection}\r\n{coding}{lines}\r\n"
        )
        self.sock.send_head(head.encode("latin-1"))
        self.headers_sent = True

    def write(self, data: bytes) -> None:
        """Send a part of the body, after the head; at most Content-Length bytes in all."""
        if self._omits_body or self.chunked or type(data) is not bytes:
            super().write(data)
            return
        self.send_headers()
        if self.response_length is not None and self.sent + len(data) > self.response_length:
            data = data[: max(0, self.response_length - self.sent)]
        if data:
            self.sent += len(data)
            self.sock.sendall(data)

    def send_early_hints(self, headers: Iterable[tuple[str, str]]) -> None:
        """Send an interim response 103 with headers; see gunicorn's ``wsgi.early_hints``."""
        _make_early_hints_callback(self.req, self.sock, self)(headers)

    def send(self, body: Iterable[bytes]) -> None:
        """Send the whole response."""
        if isinstance(body, FileWrapper):
            self.write_file(body)
        else:
            for block in body:
                self.write(block)
        self.close()


@lru_cache(maxsize=64)
def _final_status(status: str) -> int | None:
    """Return the status code; None if the status is invalid, interim, or forbids a Content-Length."""
    if not STATUS_RE.fullmatch(status):
        return None
    code = int(status[:3])
    return None if code < 200 or code == 204 else code


@lru_cache(maxsize=256)
def _position_of_length(names: tuple[str, ...]) -> int | None:
    """Return the index of Content-Length, -1 if it is missing; None if a name is invalid, hop-by-hop or repeated it."""
    if not all(isinstance(name, str) and TOKEN_RE.fullmatch(name) and not is_hoppish(name) for name in names):
        return None
    lengths = [index for index, name in enumerate(names) if name.lower() == "content-length"]
    return None if len(lengths) > 1 else next(iter(lengths), -1)


@lru_cache(maxsize=1)
def _server_and_date(second: int) -> str:
    return f"Server: {SERVER}\r\nDate: {formatdate(second, usegmt=True)}\r\n"
