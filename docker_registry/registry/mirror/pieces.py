"""
Pieces: the bytes of a transfer, the last ones in memory, all before them in the store.

Each piece is a file named by the offset of its first byte, so that other processes can follow the transfer::

    docker/registry/v2/_transfers/<id>/size      bytes of the blob
    docker/registry/v2/_transfers/<id>/0
    docker/registry/v2/_transfers/<id>/65536
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry import layout
from docker_registry.registry.buffer_pool import POOL

#: The first piece is short, so that clients of other processes get their first byte soon; each next one is longer.
FIRST_PIECE_BYTES: Final = 64 * 1024


class Pieces:
    """
    The received bytes of one transfer.

    Attributes:
        end: offset after the last byte.
    """

    def __init__(self, driver: StorageDriver, transfer_id: str) -> None:
        self._scratch = driver.scratch
        self._folder = layout.transfer(transfer_id)
        self._ends: list[int] = []  # of the pieces in the store
        self._recent = b""  # the last piece that was written, for clients that keep up
        self._tail = bytearray()

    @property
    def end(self) -> int:
        """The number of bytes received."""
        return self._start_of_tail + len(self._tail)

    def adopt(self) -> None:
        """Continue with the pieces that another process left when it died, except the last, which may be incomplete."""
        while size := self._scratch.find_size(self._path(self._start_of_tail)):
            self._ends.append(self._start_of_tail + size)
        del self._ends[-1:]

    def append(self, block: bytes) -> None:
        """Add received bytes."""
        self._tail += block
        if len(self._tail) >= min(max(FIRST_PIECE_BYTES, self._start_of_tail), POOL.block_bytes):
            piece, start = bytes(self._tail), self._start_of_tail
            self._scratch.stream_write(self._path(start), [piece])
            self._recent = piece
            self._ends.append(start + len(piece))
            del self._tail[: len(piece)]

    def read(self, offset: int, limit: int) -> bytes:
        """
        Return bytes from an offset up to a limit, not necessarily all; the bytes exist.

        Raises:
            PathNotFound: the pieces were discarded.
        """
        start = self._start_of_tail
        if offset >= start:
            return bytes(memoryview(self._tail)[offset - start : limit - start])
        if offset >= start - len(self._recent):
            start -= len(self._recent)
            return self._recent[offset - start : limit - start]
        number = bisect_right(self._ends, offset)
        start = self._ends[number - 1] if number else 0
        length = min(limit, self._ends[number]) - offset
        return b"".join(self._scratch.stream_read(self._path(start), offset - start, length))

    def announce_size(self, size: int) -> None:
        """Tell other processes the size of the blob, bytes."""
        self._scratch.put_content(f"{self._folder}/size", str(size).encode())

    def discard(self) -> None:
        """Remove the pieces from the store."""
        self._scratch.discard(self._folder)

    @property
    def _start_of_tail(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _path(self, start: int) -> str:
        return f"{self._folder}/{start}"


def announced_size(driver: StorageDriver, transfer_id: str) -> int | None:
    """Return the size of the blob that another process receives; None if it has not been announced."""
    content = driver.find(f"{layout.transfer(transfer_id)}/size") or b""
    return int(content) if content.isdigit() and len(content) < 19 else None


def piece_path(transfer_id: str, start: int) -> str:
    """Return the storage path of the piece that begins at an offset."""
    return f"{layout.transfer(transfer_id)}/{start}"
