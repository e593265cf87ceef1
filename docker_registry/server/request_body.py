"""
Request bodies that are received directly from the socket into the reader's buffer.

gunicorn's own reader copies each block several times; here the kernel writes it into the destination buffer. Chunked
framing (RFC 9112, section 7.1) is removed in place: a block is received with its framing, then the content is
compacted. Go clients send chunks of 32 KiB, so many fit into one block. This makes the push of a large blob 1.1 to 1.2
times faster.

Bytes received beyond the end of the body belong to the next request on the connection and are pushed back.

Bodies are accepted and rejected as by gunicorn, except for three limits: a chunk size has at most 16 digits, a line at
most 8190 bytes (gunicorn limits only lines whose end has not arrived), and the trailer section at most 32 KiB. Trailer
fields must be well formed and are dropped. Any name is accepted: gunicorn rejects some because it passes the fields on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, Protocol

#: Limits for a line and for the trailer section of a chunked body.
MAX_LINE_BYTES: Final = 8190
MAX_TRAILER_BYTES: Final = 32768

#: Decoding pauses every 128 framing lines (about 0.5 ms) if the content averages fewer bytes than this per line.
_PAUSE_WORK: Final = 128
_SHORT_CHUNK_BYTES: Final = 256

#: A line counts once more for each full multiple of this length.
_LONG_LINE_BYTES: Final = 256

#: Chunks of up to 15 bytes are taken out in runs of chunks of the same size, up to this many at a time (about 0.3 ms).
_MAX_CHUNKS_PER_RUN: Final = 4096

#: Decoding this many chunks of a run costs as much as decoding one line.
_CHUNKS_PER_LINE: Final = 64

#: Nearly every line is shorter than this, so the search for its end begins with this many bytes.
_TYPICAL_LINE_BYTES: Final = 32

_HEX_DIGITS: Final = frozenset(b"0123456789abcdefABCDEF")

#: Runs of chunks, by the size of a chunk.
_RUNS: Final = {
    size: re.compile(b"(?:[%x%X]\r\n.{%d}\r\n){2,%d}" % (size, size, size, _MAX_CHUNKS_PER_RUN), re.DOTALL)
    for size in range(1, 16)
}

#: RFC 9110, section 5.6: tokens and quoted strings.
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'

#: RFC 9112, section 7.1.1: chunk extensions, which may follow the chunk size.
_EXTENSIONS: Final = re.compile(
    rb"(?:[ \t]*;[ \t]*%(token)b(?:[ \t]*=[ \t]*(?:%(token)b|%(quoted)b))?)+" % {b"token": _TOKEN, b"quoted": _QUOTED}
)

#: RFC 9112, section 5: one field of the trailer section.
_FIELD: Final = re.compile(_TOKEN + rb":[\t -~\x80-\xff]*")


class Connection(Protocol):
    """The socket operations that a body uses."""

    def receive_body(self, buffer: memoryview, min_remaining: int, /) -> int:
        """
        Receive bytes of a body into *buffer*, waiting for at least one; return the number, 0 at the end of file.

        Args:
            min_remaining: lower bound of the bytes that the client has yet to send; waiting for more never ends.
        """

    def stop_receiving(self) -> None:
        """Make pending and later calls of :meth:`receive_body` return end of file."""


class _BodyFailed(OSError):
    """A body is truncated or its framing is invalid, so the start of the next request is unknown."""


class RequestBody:
    """
    A request body with the WSGI read methods, and ``readinto`` for reading without copies.

    Attributes:
        length: bytes announced by Content-Length; None for a chunked body.
        complete: whether the body was received up to its regular end.
        failed: whether receiving failed, so that the connection cannot be reused.
        received_bytes: bytes that were read, framing included.
        content_bytes: bytes of the content that were read.
        is_cut_off: whether the worker ended the body, to free connections or memory or because the client is too slow.
    """

    def __init__(
        self, connection: Connection, received: bytes, give_back: Callable[[bytes], object], length: int | None = None
    ) -> None:
        """
        Args:
            received: bytes received together with the request's head, of this body and perhaps of the next request.
            give_back: called with bytes that belong to the next request.
        """
        self.length = length
        self.complete = False
        self.failed = False
        self.received_bytes = 0
        self.content_bytes = 0
        self.is_cut_off = False
        self._connection = connection
        self._received = memoryview(received)
        self._give_back = give_back

    @property
    def left_bytes(self) -> float:
        """Bytes that have not been read yet; infinity if unknown."""
        return 0 if self.complete else math.inf

    def cut_off(self) -> None:
        """End the body of a client that is too slow; bytes that have arrived can still be read."""
        self.is_cut_off = True
        self._connection.stop_receiving()

    def readinto(self, buffer: memoryview, /) -> int:
        """Receive at least one byte into *buffer* and return the number; 0 at the end (`complete`) or `failed`."""
        if self.complete or self.failed:
            return 0
        try:
            filled = self._fill(buffer)
        except OSError:  # reset, timed out, truncated or malformed: the rest of the body cannot be read
            self.failed = True
            return 0
        self.content_bytes += filled
        return filled

    def read(self, size: int | None = None) -> bytes:
        """Return *size* bytes, fewer only at the end of the body; without *size*, the rest of the body."""
        blocks = []
        left = size if size is not None and size >= 0 else None
        while left is None or left:
            block = memoryview(bytearray(65536 if left is None else min(left, 65536)))
            filled = self.readinto(block)
            if not filled:
                break
            blocks.append(bytes(block[:filled]))
            left = None if left is None else left - filled
        return b"".join(blocks)

    def readline(self, size: int | None = None) -> bytes:
        """Return the bytes up to and including the next newline (required by PEP 3333; not optimized)."""
        line = bytearray()
        while size is None or size < 0 or len(line) < size:
            byte = self.read(1)
            line += byte
            if byte in (b"", b"\n"):
                break
        return bytes(line)

    def readlines(self, hint: int | None = None) -> list[bytes]:  # noqa: ARG002 - required by PEP 3333
        """Return the remaining lines."""
        return list(self)

    def __iter__(self) -> RequestBody:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def _fill(self, buffer: memoryview) -> int:
        raise NotImplementedError

    def _receive(self, buffer: memoryview, min_remaining: int) -> int:
        """Receive at least one byte: from those received with the head, else from the connection."""
        if self._received:
            block = self._received[: len(buffer)]
            buffer[: len(block)] = block
            self._received = self._received[len(block) :]
            self.received_bytes += len(block)
            return len(block)
        arrived = self._connection.receive_body(buffer, min_remaining)
        self.received_bytes += arrived
        if not arrived:
            raise _BodyFailed("the client closed the connection in the middle of a body")
        return arrived

    def _finish(self, rest: bytes = b"") -> None:
        self.complete = True
        rest += bytes(self._received)
        self._received = memoryview(b"")
        if rest:
            self._give_back(rest)


class LengthBody(RequestBody):
    """A body whose length is announced by Content-Length."""

    def __init__(
        self, connection: Connection, received: bytes, give_back: Callable[[bytes], object], length: int
    ) -> None:
        super().__init__(connection, received, give_back, length)
        self._left = length
        if not length:
            self._finish()

    @property
    def left_bytes(self) -> float:
        """See :class:`RequestBody`."""
        return self._left

    def _fill(self, buffer: memoryview) -> int:
        arrived = self._receive(buffer[: self._left], self._left)
        self._left -= arrived
        if not self._left:
            self._finish()
        return arrived


class ChunkedBody(RequestBody):
    """A chunked body (RFC 9112, section 7.1); extensions and trailers are validated and dropped."""

    def __init__(
        self,
        connection: Connection,
        received: bytes,
        give_back: Callable[[bytes], object],
        pause: Callable[[], object] | None = None,
    ) -> None:
        """
        Args:
            pause: called regularly while very short chunks are decoded, so that other requests can run.
        """
        super().__init__(connection, received, give_back)
        self._pause = pause
        self._unpaused_work = 0  # lines since the last check for a pause, long ones counted several times
        self._unpaused_bytes = 0  # of the content, since the last check
        self._left = 0  # bytes left of the current chunk
        self._size = 0  # of the current chunk, or of the one before
        self._line = bytearray()  # the incomplete framing line
        self._parse_line: Callable[[bytes], None] = self._parse_size
        self._trailer_bytes = 0

    def _fill(self, buffer: memoryview) -> int:
        filled = 0
        while not filled and not self.complete:
            filled = self._take_out_framing(buffer, self._receive(buffer, self._left + 1))
        return filled

    def _take_out_framing(self, buffer: memoryview, end: int) -> int:
        """Remove the framing from ``buffer[:end]`` in place; return the number of content bytes that remain."""
        position = filled = 0
        while position < end:
            if self._left:
                size = min(self._left, end - position)
                if position != filled:
                    buffer[filled : filled + size] = buffer[position : position + size]
                self._left -= size
                filled += size
                position += size
                self._unpaused_bytes += size
                continue
            content, wire_bytes = self._take_run(buffer[position:end]) if self._size in _RUNS else (b"", 0)
            if content:
                buffer[filled : filled + len(content)] = content
                filled += len(content)
                self._unpaused_bytes += len(content)
                self._unpaused_work += 1 + len(content) // self._size // _CHUNKS_PER_LINE
            else:
                wire_bytes = self._take_line(buffer[position:end])
                self._unpaused_work += 1 + wire_bytes // _LONG_LINE_BYTES
            position += wire_bytes
            if self._unpaused_work >= _PAUSE_WORK:
                self._pause_after_short_chunks()
            if self.complete:
                self._finish(bytes(buffer[position:end]))
                break
        return filled

    def _pause_after_short_chunks(self) -> None:
        if self._pause is not None and self._unpaused_bytes < self._unpaused_work * _SHORT_CHUNK_BYTES:
            self._pause()
        self._unpaused_work = self._unpaused_bytes = 0

    def _take_run(self, block: memoryview) -> tuple[bytes, int]:
        """Return the content of the run of short chunks at the beginning of *block*, and its length with framing."""
        size = self._size
        run = None if self._line or self._parse_line != self._parse_size else _RUNS[size].match(block)
        if run is None:
            return b"", 0
        wire, chunk_bytes = run[0], size + len(b"1\r\n\r\n")
        content = bytearray(len(wire) // chunk_bytes * size)
        for position in range(size):
            content[position::size] = wire[len(b"1\r\n") + position :: chunk_bytes]
        return bytes(content), len(wire)

    def _take_line(self, block: memoryview) -> int:
        """Consume the rest of a framing line, or as much as has arrived; return the number of bytes consumed."""
        start = len(self._line)
        self._line += block[:_TYPICAL_LINE_BYTES]
        if b"\n" not in self._line[start:]:
            self._line += block[_TYPICAL_LINE_BYTES : MAX_LINE_BYTES + 2]
        newline = self._line.find(b"\n", start)
        if (len(self._line) if newline < 0 else newline) > MAX_LINE_BYTES + 1:  # the CR is not counted
            raise _BodyFailed("a line of a chunked body is too long")
        if newline < 0:
            if (
                self._parse_line == self._parse_chunk_end and self._line != b"\r"
            ):  # fail now: the end of the line may never come
                raise _BodyFailed("a chunk is longer than its size")
            return len(self._line) - start
        line = bytes(self._line[: newline + 1])
        self._line.clear()
        if not line.endswith(b"\r\n"):
            raise _BodyFailed("a line of a chunked body ends in a bare LF")
        self._parse_line(line[:-2])
        return newline + 1 - start

    def _parse_size(self, line: bytes) -> None:
        digits, semicolon, _ = line.partition(b";")
        if semicolon:
            digits = digits.rstrip(b" \t")
            if not _EXTENSIONS.fullmatch(line, len(digits)):
                raise _BodyFailed("an extension of a chunk is malformed")
        if not digits or len(digits) > 16 or not _HEX_DIGITS.issuperset(digits):
            raise _BodyFailed("a chunk has an invalid size")
        self._left = self._size = int(digits, 16)
        self._parse_line = self._parse_chunk_end if self._left else self._parse_trailer

    def _parse_chunk_end(self, line: bytes) -> None:
        if line:
            raise _BodyFailed("a chunk is longer than its size")
        self._parse_line = self._parse_size

    def _parse_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_TRAILER_BYTES or (line and not _FIELD.fullmatch(line)):
            raise _BodyFailed("the trailer section of a chunked body is malformed")
        if not line:
            self.complete = True


def open_request_body(
    request: Any, connection: Connection, pause: Callable[[], object] | None = None
) -> RequestBody | None:
    """
    Return a direct reader for the body of a gunicorn request; None for a body that gunicorn must read itself.

    Args:
        request: a request from gunicorn's parser whose body has not been read.
        pause: see :class:`ChunkedBody`.
    """
    reader, unreader = request.body.reader, request.unreader
    kind = type(reader).__name__
    if kind == "LengthReader":
        return LengthBody(connection, unreader.take_buffered(), unreader.unread, reader.length)
    if kind == "ChunkedReader":
        return ChunkedBody(connection, unreader.take_buffered(), unreader.unread, pause)
    return None
