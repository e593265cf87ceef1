"""
A request's body, whichever server received it.

Our own worker puts an object into ``wsgi.input`` that receives straight into the caller's buffer and knows how the
body ended. Other servers offer ``read`` alone, and of a body that was cut off they do not always tell; what can be
known is worked out here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gunicorn.http.errors import ParseException

from docker_registry.errors import Invalid, SizeInvalid
from docker_registry.registry.intake import Body

#: What is undone before a body is read. Nobody decodes `gzip, chunked`, which gunicorn lets pass.
_TRANSFER_CODINGS: Final = {"", "chunked", "identity"}


def open_body(environ: Mapping[str, Any]) -> Body:
    """
    Return the body of a request, to be read once.

    Raises:
        Invalid: it is transferred in a coding that is not understood.
        SizeInvalid: Content-Length is not a number.
    """
    codings = environ.get("HTTP_TRANSFER_ENCODING") or ""
    if not _TRANSFER_CODINGS.issuperset(coding.strip(" \t").lower() for coding in codings.split(",")):
        raise Invalid("Of all transfer codings only chunked is understood.")
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
    """The body that a server gives as a plain WSGI input stream."""

    def __init__(self, stream: Any, length: int | None) -> None:
        """
        Args:
            length: bytes that Content-Length announces; None for a chunked body.
        """
        self.length = length
        self.complete = False
        self._stream = stream
        self._size = 0
        self._is_cut_off = False

    def readinto(self, buffer: memoryview, /) -> int:
        """See :class:`Body`."""
        wanted = len(buffer) if self.length is None else min(len(buffer), self.length - self._size)
        block = self._read(wanted) if wanted else b""
        self._size += len(block)
        if not block:
            # A chunked body ends here, since a cut-off one raises; one with a length must have reached it.
            self.complete = not self._is_cut_off and self.length in (None, self._size)
        buffer[: len(block)] = block
        return len(block)

    def _read(self, wanted: int) -> bytes:
        try:
            block: bytes = self._stream.read(wanted)
        except (OSError, ParseException):  # the client is gone, or its chunks are malformed
            if self._is_cut_off:
                return b""
            self._is_cut_off = True
            return self._read(wanted)  # what gunicorn had received of this block before it noticed
        return block
