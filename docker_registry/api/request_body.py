"""
Request bodies, for any WSGI server.

The registry's worker sets ``wsgi.input`` to an object that receives directly into the caller's buffer and knows whether
the body is complete. Other servers only offer ``read`` and do not always report a truncated body; :class:`PlainBody`
detects truncation as far as possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gunicorn.http.errors import ParseException

from docker_registry.errors import Invalid, SizeInvalid
from docker_registry.registry.ingest import Body

#: Transfer codings that the server has decoded. gunicorn also accepts `gzip, chunked` but does not decode gzip.
_TRANSFER_CODINGS: Final = {"", "chunked", "identity"}


def open_body(environ: Mapping[str, Any]) -> Body:
    """
    Return the body of a request; it can be read once.

    Raises:
        Invalid: Transfer-Encoding names an unsupported coding.
        SizeInvalid: Content-Length is not a number.
    """
    codings = environ.get("HTTP_TRANSFER_ENCODING") or ""
    if not _TRANSFER_CODINGS.issuperset(coding.strip(" \t").lower() for coding in codings.split(",")):
        raise Invalid("The only supported transfer coding is chunked.")
    stream = environ["wsgi.input"]
    if hasattr(stream, "readinto") and hasattr(stream, "complete"):
        body: Body = stream
        return body
    if codings:
        return PlainBody(stream, None)
    text = environ.get("CONTENT_LENGTH") or "0"
    if not (text.isascii() and text.isdigit()):
        raise SizeInvalid("Content-Length is not a number.")
    return PlainBody(stream, int(text))


class PlainBody:
    """A body that the server provides as a plain WSGI input stream."""

    def __init__(self, stream: Any, length: int | None) -> None:
        """
        Args:
            length: bytes announced by Content-Length; None for a chunked body.
        """
        self.length = length
        self.complete = False
        self._stream = stream
        self._size = 0
        self._is_cut_off = False

    def readinto(self, buffer: memoryview, /) -> int:
        """See :class:`Body`."""
        size = len(buffer) if self.length is None else min(len(buffer), self.length - self._size)
        block = self._read(size) if size else b""
        self._size += len(block)
        if not block:
            # A truncated chunked body raises, so this is its regular end; any other must have reached its length.
            self.complete = not self._is_cut_off and self.length in (None, self._size)
        buffer[: len(block)] = block
        return len(block)

    def _read(self, size: int) -> bytes:
        try:
            block: bytes = self._stream.read(size)
        except (OSError, ParseException):  # the client disconnected, or its chunks are malformed
            if self._is_cut_off:
                return b""
            self._is_cut_off = True
            return self._read(size)  # the bytes of this block that gunicorn had received before the error
        return block
