"""
Request bodies, for any WSGI server: as streams, or whole in memory.

The registry's worker sets ``wsgi.input`` to an object that receives directly into the caller's buffer and knows whether
the body is complete. Other servers only offer ``read`` and do not always report a truncated body; :class:`PlainBody`
detects truncation as far as possible.

Bodies that are read into memory share a budget, which all requests of a worker use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from flask import current_app, g
from gunicorn.http.errors import ParseException

from docker_registry.api.flask_app import Application
from docker_registry.errors import Invalid, Overloaded, SizeInvalid, TooLarge
from docker_registry.registry.ingest import Body
from docker_registry.resources.memory_budget import Reservation

#: Transfer codings that the server has decoded. gunicorn also accepts `gzip, chunked` but does not decode gzip.
_TRANSFER_CODINGS: Final = {"", "chunked", "identity"}

#: Size of the first block of a body in memory; each further block doubles the total, up to a maximum block size.
_FIRST_BLOCK_BYTES: Final = 8 * 1024
_LARGEST_BLOCK_BYTES: Final = 1024 * 1024

#: Where the reservations of a request are kept, in ``flask.g``; :func:`~.hooks.share_body_memory` releases them.
RESERVATIONS: Final = "docker_registry.body_memory"


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


def read_whole(body: Body, max_bytes: int) -> bytes:
    """
    Return a whole body. Memory is reserved as the body arrives and released when the request ends.

    Raises:
        TooLarge: the body is longer than *max_bytes*; at most one byte more is read.
        SizeInvalid: the body ended early.
        Overloaded: the budget is exhausted, and this body arrived slowly or waited too long.
    """
    if (body.length or 0) > max_bytes:
        raise TooLarge(max_bytes=max_bytes)
    buffer_bytes = (max_bytes if body.length is None else body.length) + 1  # 1 more, to detect the end or an excess
    reservation = _reservation(body)
    blocks: list[memoryview] = []
    size = 0
    has_ended = False
    while not has_ended and size < buffer_bytes:
        block_bytes = min(max(size, _FIRST_BLOCK_BYTES), _LARGEST_BLOCK_BYTES, buffer_bytes - size)
        reservation.grow(2 * block_bytes)  # for the block and its copy in the joined result
        block = memoryview(bytearray(block_bytes))
        filled = _fill(body, block)
        has_ended = filled < block_bytes
        size += filled
        blocks.append(block[:filled])
    if size > max_bytes:
        raise TooLarge(max_bytes=max_bytes)
    if reservation.is_revoked:
        raise Overloaded
    if not body.complete:
        raise SizeInvalid("The body ended early.")
    return bytes(blocks[0]) if len(blocks) == 1 else b"".join(blocks)


def _fill(body: Body, block: memoryview) -> int:
    filled = 0
    while filled < len(block) and (arrived := body.readinto(block[filled:])):
        filled += arrived
    return filled


def _reservation(body: Body) -> Reservation:
    budget = cast(Application, current_app).body_memory
    # Only the registry's own worker can cut off a body; under other workers, their timeouts end slow bodies.
    reservation = budget.open(revoke=getattr(body, "cut_off", None))
    g.setdefault(RESERVATIONS, []).append(reservation)
    return reservation
