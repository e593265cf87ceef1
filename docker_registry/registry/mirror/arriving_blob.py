"""
Blobs that are being received from an upstream, by this process or another one, and are served meanwhile.

The last bytes are withheld from clients until the digest is verified, so no client receives an unverified blob
completely.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import BinaryIO, Final, Protocol

from gevent.event import Event

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, RegistryError, UpstreamError
from docker_registry.registry import layout
from docker_registry.registry.mirror.pieces import StoredPieces
from docker_registry.registry.names import Digest
from docker_registry.registry.stored_file import FilePart, Segment, ServedFile

#: Bytes at the end of a blob that clients receive only after its digest is verified.
WITHHELD_BYTES: Final = 64 * 1024

#: A part that begins at most this far behind the received bytes is waited for.
NEAR_BYTES: Final = 4 * 1024 * 1024

#: Clients are woken when a piece has arrived, and look for other bytes at this interval.
_LOOK_SECONDS: Final = 0.1


class ByteStream(Protocol):
    """Bytes that are received from an upstream."""

    @property
    def size(self) -> int | None:
        """Bytes that the upstream announces; None if it announces none."""

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes as they arrive."""

    def close(self) -> None:
        """Close the connection."""


class ArrivingBlob(ABC):
    """
    A blob that is being received.

    Attributes:
        size: bytes of the blob, as announced; if none were announced, None until all bytes have arrived.
        error: why the transfer failed; None while it has not.
        is_published: whether the verified blob is in the store.
        is_abandoned: whether the process that received it has died, so that another one must continue.
        readers: number of clients that receive it.
    """

    def __init__(self, driver: StorageDriver, digest: Digest, size: int | None, pieces: StoredPieces) -> None:
        """
        Args:
            pieces: the received bytes.
        """
        self.digest = digest
        self.size = size
        self.error: RegistryError | None = None
        self.is_published = False
        self.is_abandoned = False
        self.readers = 0
        self._driver = driver
        self._pieces = pieces
        self._changed = Event()

    @abstractmethod
    def stop(self) -> None:
        """Stop to receive or follow the blob."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will arrive."""
        return self.is_published or self.is_abandoned or self.error is not None

    def is_far_from(self, offset: int) -> bool:
        """Return whether it will take a while until the byte at an offset has arrived."""
        return not self.is_over and offset > self._pieces.end + NEAR_BYTES

    def wait(self) -> None:
        """
        Wait until the blob is published, or abandoned.

        Raises:
            RegistryError: the transfer failed.
        """
        while not (self.is_published or self.is_abandoned):
            self._wait_for_change()

    def segments(self, offset: int, end: int, *, as_files: bool) -> Iterator[Segment]:
        """
        Yield the bytes of the blob as they arrive, the last ones when it is verified; end early if it is abandoned.

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
                if self.is_abandoned:
                    return
                if not self.is_published:
                    self._wait_for_change()
            if offset < end:
                yield from self._published_segments(offset, end, as_files=as_files)
        finally:
            self.readers -= 1

    # ------------------------------------------------------------------------------------------------- steps

    @property
    def _released_end(self) -> int:
        """Where the bytes end that clients may receive before the blob is verified."""
        received = self._pieces.end
        return min(received, (received if self.size is None else self.size) - WITHHELD_BYTES)

    def _published_segments(self, offset: int, end: int, *, as_files: bool) -> Iterator[Segment]:
        path = layout.blob_data(self.digest)
        opened = self._driver.open_file(path) if as_files else None
        if opened is None:
            yield from self._driver.stream_read(path, offset, end - offset)
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
    """An arriving blob as a :class:`~docker_registry.registry.stored_file.ServedFile`."""

    def __init__(
        self,
        blob: ArrivingBlob,
        size: int,
        fetch_part: Callable[[int, int], ByteStream | None],
        continued: Callable[[], ServedFile],
    ) -> None:
        """
        Args:
            size: bytes of the blob.
            fetch_part: requests a part of the blob from the upstream, from an offset to another.
            continued: returns the file to read instead when the blob was abandoned.
        """
        self.path = layout.blob_data(blob.digest)
        self.size = size
        self._blob = blob
        self._fetch_part = fetch_part
        self._continued = continued

    def open(self) -> BinaryIO | None:
        """Return None: there is no file yet."""
        return None

    def redirect_url(self) -> str | None:
        """Return None: the store cannot serve it yet."""
        return None

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Yield bytes of the blob as they arrive; the last ones when it is verified.

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
        if self._blob.is_far_from(offset) and offset < released_end:
            for part in self._part(offset, released_end):
                offset += len(part)
                yield part
        for segment in self._blob.segments(offset, end, as_files=as_files):
            offset += len(segment) if isinstance(segment, bytes) else segment.length
            yield segment
        if offset < end:
            file = self._continued()
            segments = file.segments(offset, end - offset) if as_files else None
            yield from file.read(offset, end - offset) if segments is None else segments

    def _part(self, offset: int, end: int) -> Iterator[bytes]:
        """Yield a part of the blob that is requested from the upstream by itself."""
        stream = self._fetch_part(offset, end)
        if stream is None:
            raise UpstreamError("The upstream registry has changed the blob.", digest=str(self._blob.digest))
        with closing(stream):
            for block in stream.blocks():
                part = block[: end - offset]
                offset += len(part)
                yield part
                if offset == end:
                    return
