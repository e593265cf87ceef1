"""
Several parts of a file in one response: ``multipart/byteranges`` (RFC 9110, section 14.6).

::

    --<boundary>
    Content-Type: application/octet-stream
    Content-Range: bytes 0-1/100

    <2 bytes>
    --<boundary>
    …
    --<boundary>--
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from docker_registry.errors import StorageError
from docker_registry.registry.stored_file import FilePart, Segment

#: Parts with at most this gap between them are read with one request to the store: a second request takes as long as
#: reading the gap.
MAX_GAP_BYTES: Final = 256 * 1024

Read = Callable[[int, int], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class ByteRange:
    """
    A range of bytes of some content.

    Attributes:
        start: offset of the first byte.
        length: number of bytes, at least 1.
    """

    start: int
    length: int

    @property
    def end(self) -> int:
        """Offset of the first byte after the range."""
        return self.start + self.length

    def content_range(self, size: int) -> str:
        """Return the value of Content-Range for this range of content with *size* bytes."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


class Multipart:
    """
    The body of a 206 response with several parts.

    Attributes:
        content_type: Content-Type of the response.
        length: bytes of the body.
    """

    def __init__(self, parts: Sequence[ByteRange], size: int, content_type: str) -> None:
        """
        Args:
            size: bytes of the whole content.
            content_type: Content-Type of the whole content, repeated in each part.
        """
        self._boundary = secrets.token_hex(16)
        self._parts = parts
        self._size = size
        self._part_type = content_type
        self.content_type = f"multipart/byteranges; boundary={self._boundary}"
        self.length = sum(len(each) if isinstance(each, bytes) else each.length for each in self.segments())

    def segments(self) -> Iterator[bytes | ByteRange]:
        """Yield the segments of the body: bytes to send as they are, and ranges of the file."""
        for part in self._parts:
            yield self._head(part)
            yield part
        yield f"\r\n--{self._boundary}--\r\n".encode()

    def blocks(self, read: Read, max_gap_bytes: int = MAX_GAP_BYTES) -> Iterator[bytes]:
        """
        Yield the body in blocks.

        The store is read before the first block, so that an error of the store can still become the response.

        Args:
            read: returns blocks of the file, given an offset and a length.
            max_gap_bytes: parts with at most this gap between them are read together, and the gap is discarded.
        """
        for run in _runs(self._parts, max_gap_bytes):
            content = _Content(read(run[0].start, run[-1].end - run[0].start), run[0].start)
            try:
                content.fill()
                for part in run:
                    yield self._head(part)
                    content.skip_to(part.start)
                    yield from content.pieces(part.length)
            finally:
                content.close()
        yield f"\r\n--{self._boundary}--\r\n".encode()

    def _head(self, part: ByteRange) -> bytes:
        first = "" if part is self._parts[0] else "\r\n"
        return (
            f"{first}--{self._boundary}\r\nContent-Type: {self._part_type}\r\n"
            f"Content-Range: {part.content_range(self._size)}\r\n\r\n"
        ).encode("latin-1")


class MultipartFile:
    """A local file whose parts the kernel sends; see :meth:`ClientSocket.sendfile`."""

    def __init__(self, file: BinaryIO, multipart: Multipart, blocks: Iterator[bytes]) -> None:
        """
        Args:
            file: the local file; closed with this one.
            blocks: the body, for a server that is configured not to use sendfile.
        """
        self._file = file
        self._multipart = multipart
        self._blocks = blocks

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._file.fileno()

    def segments(self) -> Iterator[Segment]:
        """Yield the segments to send: bytes, or parts of the file."""
        descriptor = self.fileno()
        for segment in self._multipart.segments():
            yield segment if isinstance(segment, bytes) else FilePart(descriptor, segment.start, segment.length)

    def read(self, _size: int = -1) -> bytes:
        """Return the next block of the body; empty at its end."""
        return next(self._blocks, b"")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Content:
    """A contiguous run of a file that is received in blocks and divided into parts."""

    def __init__(self, blocks: Iterable[bytes], start: int) -> None:
        self._blocks = iter(blocks)
        self._position = start
        self._block = b""
        self._used = 0

    def fill(self) -> None:
        """Read until at least one byte is available."""
        while self._used == len(self._block):
            block = next(self._blocks, None)
            if block is None:
                raise StorageError("A stored file became shorter while it was read.")
            self._block, self._used = block, 0

    def pieces(self, length: int) -> Iterator[bytes]:
        """Yield the next *length* bytes."""
        end = self._position + length
        while self._position < end:
            self.fill()
            piece = self._block[self._used : self._used + end - self._position]
            self._used += len(piece)
            self._position += len(piece)
            yield piece

    def skip_to(self, position: int) -> None:
        """Discard the bytes before an offset of the file."""
        for _ in self.pieces(position - self._position):
            pass

    def close(self) -> None:
        """Stop reading."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()


def _runs(parts: Iterable[ByteRange], max_gap_bytes: int) -> Iterator[list[ByteRange]]:
    """Group consecutive parts that are ascending and at most *max_gap_bytes* apart."""
    run: list[ByteRange] = []
    for part in parts:
        if run and not 0 <= part.start - run[-1].end <= max_gap_bytes:
            yield run
            run = []
        run.append(part)
    yield run
