"""
Pieces: the bytes of a transfer, the last ones in memory, all before them in the store.

Each piece is a file named by the offset of its first byte, so that other processes can follow the transfer::

    docker/registry/v2/_transfers/<id>/size      bytes of the content
    docker/registry/v2/_transfers/<id>/etag      its ETag at the upstream, if no digest identifies the content
    docker/registry/v2/_transfers/<id>/0
    docker/registry/v2/_transfers/<id>/65536
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry import layout
from docker_registry.registry.ingest import BufferPool
from docker_registry.registry.stored_file import FilePart, Segment

#: The first piece is short, so that clients of other processes get their first byte soon; each next one is longer.
FIRST_PIECE_BYTES: Final = 64 * 1024

#: Bytes that arrive slowly become a piece after this time, although it is short.
PIECE_SECONDS: Final = 1.0


class StoredPieces:
    """
    The pieces of a transfer that are in the store.

    After a transfer was taken over, pieces of both processes may overlap.
    """

    def __init__(self, driver: StorageDriver, transfer_id: str) -> None:
        self._scratch = driver.scratch
        self._folder = layout.transfer(transfer_id)
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._recent = b""  # the last piece, for clients that keep up; empty if it was not read or written here
        self._is_local: bool | None = None

    @property
    def end(self) -> int:
        """The number of bytes received."""
        return self._stored_end

    def find_all(self) -> bool:
        """Add all pieces with further bytes, even if they overlap known ones; return whether there are any such."""
        found = {}
        for piece in self._scratch.walk(self._folder):
            name = piece.path.rpartition("/")[2]
            if name.isdigit() and int(name) + piece.size > self._stored_end:
                found[int(name)] = piece.size
        for start, size in sorted(found.items()):
            if start <= self._stored_end < start + size:
                self._add(start, size)
        return bool(found)

    def find_next(self) -> bool:
        """
        Look for the piece that begins where the known ones end; return whether it exists.

        If the files of the store are not local, the piece is read at once and kept, for all clients that keep up.

        Raises:
            PathNotFound: the pieces were discarded just now.
        """
        start = self._stored_end
        path = self._path(start)
        size = self._scratch.find_size(path)
        if not size:
            return False
        if self._is_local is None:
            opened = self._scratch.open_file(path)
            self._is_local = opened is not None
            if opened is not None:
                opened.close()
        recent = b"" if self._is_local else b"".join(self._scratch.stream_read(path))
        self._add(start, len(recent) or size, recent)
        return True

    @contextmanager
    def segment(self, offset: int, limit: int, *, as_file: bool) -> Iterator[Segment]:
        """
        Provide bytes from an offset up to a limit, not necessarily all; the bytes exist.

        Args:
            as_file: whether a part of a file may be provided, which is open during the context.

        Raises:
            PathNotFound: the pieces were discarded, or another process has replaced this one by a shorter one.
        """
        number = bisect_right(self._ends, offset)
        start = self._starts[number]
        limit = min(limit, self._ends[number])
        path = self._path(start)
        opened = self._scratch.open_file(path) if as_file else None
        if opened is not None:
            with opened:
                if os.fstat(opened.fileno()).st_size < limit - start:
                    raise PathNotFound(path=path)
                yield FilePart(opened.fileno(), offset - start, limit - offset)
        elif number == len(self._ends) - 1 and self._recent:
            yield self._recent[offset - start : limit - start]
        else:
            content = b"".join(self._scratch.stream_read(path, offset - start, limit - offset))
            if len(content) < limit - offset:
                raise PathNotFound(path=path)
            yield content

    @property
    def _stored_end(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _add(self, start: int, size: int, recent: bytes = b"") -> None:
        self._starts.append(start)
        self._ends.append(start + size)
        self._recent = recent

    def _path(self, start: int) -> str:
        return f"{self._folder}/{start}"


class Pieces(StoredPieces):
    """
    The received bytes of the transfer that this process runs.

    Attributes:
        end: offset after the last byte.
    """

    def __init__(
        self,
        driver: StorageDriver,
        transfer_id: str,
        buffers: BufferPool,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            buffers: limits the bytes in memory to its current block size.
            now: the clock, seconds.
        """
        super().__init__(driver, transfer_id)
        self._tail = bytearray()
        self._buffers = buffers
        self._now = now
        self._written_at = now()

    @property
    def end(self) -> int:
        """The number of bytes received."""
        return self._stored_end + len(self._tail)

    def append(self, block: bytes) -> None:
        """Add received bytes, which stay in memory until :meth:`store`."""
        self._tail += block

    def store(self) -> bool:
        """Store the bytes in memory as a piece if they are many or old enough; return whether they were stored."""
        is_piece = len(self._tail) >= min(max(FIRST_PIECE_BYTES, self._stored_end), self._buffers.block_bytes)
        if not is_piece and self._now() < self._written_at + PIECE_SECONDS:
            return False
        piece, start = bytes(self._tail), self._stored_end
        self._scratch.put_content(self._path(start), piece)
        self._add(start, len(piece), piece)
        self._tail.clear()
        self._written_at = self._now()
        return True

    @contextmanager
    def segment(self, offset: int, limit: int, *, as_file: bool) -> Iterator[Segment]:
        """See :class:`StoredPieces`."""
        start = self._stored_end
        if offset >= start:
            yield bytes(memoryview(self._tail)[offset - start : limit - start])
        else:
            with super().segment(offset, limit, as_file=as_file) as segment:
                yield segment

    def read(self, offset: int, limit: int) -> bytes:
        """Return bytes from an offset up to a limit, not necessarily all; the bytes exist."""
        with self.segment(offset, limit, as_file=False) as segment:
            return segment if isinstance(segment, bytes) else b""

    def announce_size(self, size: int) -> None:
        """Tell other processes the size of the blob, bytes."""
        self._scratch.put_content(f"{self._folder}/size", str(size).encode())

    def put_validator(self, validator: str) -> None:
        """Store the ETag of the content, for a process that continues the transfer."""
        self._scratch.put_content(f"{self._folder}/etag", validator.encode("latin-1", "replace"))

    def find_validator(self) -> str:
        """Return the ETag that an earlier transfer has stored; empty if there is none."""
        return (self._scratch.find(f"{self._folder}/etag") or b"").decode("latin-1")

    def discard(self) -> None:
        """Remove the pieces from the store."""
        self._scratch.discard(self._folder)


def announced_size(driver: StorageDriver, transfer_id: str) -> int | None:
    """Return the size of the blob that another process receives; None if it has not been announced."""
    content = driver.find(f"{layout.transfer(transfer_id)}/size") or b""
    return int(content) if content.isdigit() and len(content) < 19 else None
