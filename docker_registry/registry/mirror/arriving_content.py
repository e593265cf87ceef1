"""
Content that is being received from an upstream, by this process or another one, and is served meanwhile.

The last bytes are withheld from clients until it is verified, so no client receives unverified content completely.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import BinaryIO, Final

from gevent.event import Event

from docker_registry.errors import PathNotFound, RegistryError, UpstreamError
from docker_registry.registry.mirror.pieces import StoredPieces
from docker_registry.registry.mirror.upstream_content import WITHHELD_BYTES, UpstreamContent, first_bytes
from docker_registry.registry.stored_file import FilePart, Segment, ServedFile

#: A part that begins at most this far behind the received bytes is waited for.
NEAR_BYTES: Final = 4 * 1024 * 1024

#: Clients are woken when a piece has arrived, and look for other bytes at this interval.
_LOOK_SECONDS: Final = 0.1


class ArrivingContent(ABC):
    """
    Content that is being received.

    Attributes:
        content: what is received.
        size: its bytes, as announced; if none were announced, None until all bytes have arrived.
        error: why the transfer failed; None while it has not.
        is_published: whether the verified content is in the store.
        is_abandoned: whether the process that received it has ended, is stopping, or has lost its lease, so that
            another one continues.
        readers: number of clients that receive it.
    """

    def __init__(self, content: UpstreamContent, size: int | None, pieces: StoredPieces) -> None:
        """
        Args:
            pieces: the received bytes.
        """
        self.content = content
        self.size = size
        self.error: RegistryError | None = None
        self.is_published = False
        self.is_abandoned = False
        self.readers = 0
        self._pieces = pieces
        self._changed = Event()

    @abstractmethod
    def stop(self) -> None:
        """Stop to receive or follow it."""

    @property
    def is_over(self) -> bool:
        """True when no more bytes will arrive."""
        return self.is_published or self.is_abandoned or self.error is not None

    def is_far_from(self, offset: int) -> bool:
        """Return whether the byte at an offset will take a while to arrive, and may be requested by itself."""
        # Without a digest the client could not verify the bytes, which are not those that will be stored.
        return self.content.has_digest and not self.is_over and offset > self._pieces.end + NEAR_BYTES

    def wait(self) -> None:
        """
        Wait until the content is published, or abandoned.

        Raises:
            RegistryError: the transfer failed.
        """
        while not (self.is_published or self._is_continued):
            self._wait_for_change()

    def segments(self, offset: int, end: int, *, as_files: bool) -> Iterator[Segment]:
        """
        Yield the bytes as they arrive, the last ones when they are verified; end early if the transfer is abandoned.

        Args:
            offset: first byte, from 0.
            end: offset after the last byte.
            as_files: whether parts of files may be yielded, each open until the next segment is requested.

        Raises:
            RegistryError: the transfer failed.
        """
        self.readers += 1
        try:
            while offset < end and not self.is_published:
                limit = min(end, self._released_end)
                if offset < limit:
                    try:
                        with self._pieces.segment(offset, limit, as_file=as_files) as segment:
                            offset += len(segment) if isinstance(segment, bytes) else segment.length
                            yield segment
                        continue
                    except PathNotFound:  # the transfer has just ended
                        pass
                if self._is_continued:
                    return
                if not self.is_published:
                    self._wait_for_change()
            if offset < end:
                yield from self._published_segments(offset, end, as_files=as_files)
        finally:
            self.readers -= 1

    # ------------------------------------------------------------------------------------------------- steps

    @property
    def _is_continued(self) -> bool:
        """Whether this process continues to serve an abandoned transfer; False while the process is stopping."""
        return self.is_abandoned and self.error is None

    @property
    def _released_end(self) -> int:
        """Where the bytes end that clients may receive before the blob is verified."""
        received = self._pieces.end
        return min(received, (received if self.size is None else self.size) - WITHHELD_BYTES)

    def _published_segments(self, offset: int, end: int, *, as_files: bool) -> Iterator[Segment]:
        file = self.content.get()
        if file.size != self.size:
            raise changed(self.content)
        opened = file.open() if as_files else None
        if opened is None:
            yield from file.read(offset, end - offset)
            return
        with opened:
            yield FilePart(opened.fileno(), offset, end - offset)

    def _wait_for_change(self) -> None:
        if self.error is not None:
            raise self.error
        self._changed.wait(_LOOK_SECONDS)

    def _announce(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()


class ArrivingFile:
    """Arriving content as a :class:`~docker_registry.registry.stored_file.ServedFile`."""

    path = ""

    def __init__(
        self,
        arriving: ArrivingContent,
        size: int,
        continued: Callable[[], ServedFile],
        receive_part: Callable[[int, int], AbstractContextManager[Iterable[bytes]]],
    ) -> None:
        """
        Args:
            size: bytes of the content.
            continued: returns the file to read instead when the transfer was abandoned.
            receive_part: requests a part from the upstream by itself, from an offset to another; its context is left
                when the part is not read any more. May yield fewer bytes, or none.
        """
        self.size = size
        self._arriving = arriving
        self._continued = continued
        self._receive_part = receive_part

    def open(self) -> BinaryIO | None:
        """Return None: there is no file yet."""
        return None

    def redirect_url(self) -> str | None:
        """Return None: the store cannot serve it yet."""
        return None

    def wait(self) -> None:
        """
        Wait until the content is in the store, or the transfer was abandoned.

        Raises:
            RegistryError: the transfer failed.
        """
        self._arriving.wait()

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Yield bytes of the content as they arrive; the last ones when it is verified.

        A part that will arrive much later is requested from the upstream by itself.

        Raises:
            RegistryError: the transfer failed.
        """
        end = self.size if length is None else min(offset + length, self.size)
        return (each for each in self._segments(offset, end, as_files=False) if isinstance(each, bytes))

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield what :meth:`read` does, and parts of local files, each open until the next segment is requested."""
        return self._segments(offset, min(offset + length, self.size), as_files=True)

    def _segments(self, offset: int, end: int, *, as_files: bool) -> Iterator[Segment]:
        released_end = min(end, self.size - WITHHELD_BYTES)
        if self._arriving.is_far_from(offset) and offset < released_end:
            # What the upstream does not send now is waited for, as all bytes are being received anyway.
            with suppress(UpstreamError), self._receive_part(offset, released_end) as blocks:
                for part in first_bytes(blocks, released_end - offset):
                    offset += len(part)
                    yield part
        for segment in self._arriving.segments(offset, end, as_files=as_files):
            offset += len(segment) if isinstance(segment, bytes) else segment.length
            yield segment
        if offset < end:
            file = self._continued()
            if file.size != self.size:
                raise changed(self._arriving.content)
            segments = file.segments(offset, end - offset) if as_files else None
            yield from file.read(offset, end - offset) if segments is None else segments


def changed(content: UpstreamContent) -> UpstreamError:
    """Return the error for content that an upstream has changed or removed while it was received."""
    return UpstreamError("The upstream registry has changed the content.", **content.detail)
