"""Bodies of responses whose bytes are still being received: each part is sent by the kernel once it is in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack

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
        self._context: AbstractContextManager[None] | None = None
        self._entered = ExitStack()
        self._file = open(os.devnull, "rb", buffering=0)  # noqa: SIM115, PTH123 - closed by close()

    def report(self, context: AbstractContextManager[None]) -> None:
        """Enter a context when the body begins to be sent, and leave it at the end or when the body is closed."""
        self._context = context

    def fileno(self) -> int:
        """Return a descriptor, whose position gunicorn sets; the segments have descriptors of their own."""
        return self._file.fileno()

    def segments(self) -> Iterator[Segment]:
        """Yield the segments to send; the file of each is open until the next one is requested."""
        self._begin()
        with self._entered:
            yield self._first
            yield from self._segments

    def read(self, size: int = -1) -> bytes:
        """Return the next block of the body, for a server that is configured not to use sendfile; empty at its end."""
        self._begin()
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
        """Close the segments and leave the context."""
        close = getattr(self._segments, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self._file.close()
            self._entered.close()

    def _begin(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            self._entered.enter_context(context)
