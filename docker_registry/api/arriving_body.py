"""Bodies of responses whose bytes are still being received: each part is sent by the kernel once it is in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

from docker_registry.errors import StorageError
from docker_registry.registry.stored_file import FilePart, Segment


class ArrivingBody:
    """
    An open file for gunicorn; see :meth:`ClientSocket.sendfile`.

    Attributes:
        is_arriving: True: the next segment may take a while.
    """

    is_arriving = True

    def __init__(self, segments: Iterator[Segment]) -> None:
        """
        Args:
            segments: of the body; the first one is awaited, so that an error can still become the response.
        """
        self._segments = segments
        self._first: Segment = next(segments, b"")
        self._context: AbstractContextManager[None] = nullcontext()
        self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def report(self, context: AbstractContextManager[None]) -> None:
        """Enter a context while the body is being sent."""
        self._context = context

    def fileno(self) -> int:
        """Return a descriptor, whose position gunicorn sets; the segments have descriptors of their own."""
        return self._descriptor

    def segments(self) -> Iterator[Segment]:
        """Yield the segments to send; the file of each is open until the next one is requested."""
        with self._context:
            yield self._first
            yield from self._segments

    def read(self, size: int = -1) -> bytes:
        """Return the next block of the body, for a server that is configured not to use sendfile; empty at its end."""
        segment, self._first = self._first or next(self._segments, b""), b""
        if isinstance(segment, bytes):
            return segment
        block = os.pread(segment.descriptor, segment.length if size < 0 else min(size, segment.length), segment.offset)
        if not block:
            raise StorageError("A stored file became shorter while it was read.")
        if len(block) < segment.length:
            self._first = FilePart(segment.descriptor, segment.offset + len(block), segment.length - len(block))
        return block

    def close(self) -> None:
        """Close the segments."""
        close = getattr(self._segments, "close", None)
        if close is not None:
            close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
