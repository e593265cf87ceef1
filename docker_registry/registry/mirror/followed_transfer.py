"""
Transfers that another process runs: their pieces are read from the store, so that each byte leaves the upstream once.

The process that receives a blob holds a lease and extends it. If it dies, the first follower that notices takes the
transfer over, with the pieces that are in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

import gevent

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, UpstreamUnavailable
from docker_registry.registry import layout
from docker_registry.registry.leases import Leases
from docker_registry.registry.mirror.pieces import piece_path
from docker_registry.registry.mirror.transfer import WITHHELD_BYTES
from docker_registry.registry.names import Digest
from docker_registry.registry.stored_file import ServedFile

#: How often a follower looks for the next piece.
POLL_SECONDS: Final = 0.02

#: How often it checks that the other process is alive, in polls.
_POLLS_OF_LEASE: Final = 25


class FollowedTransfer:
    """The blob of another process's transfer as a :class:`~docker_registry.registry.stored_file.ServedFile`."""

    def __init__(
        self,
        driver: StorageDriver,
        leases: Leases,
        transfer_id: str,
        digest: Digest,
        size: int,
        is_published: Callable[[], bool],
        take_over: Callable[[], ServedFile],
    ) -> None:
        """
        Args:
            transfer_id: also the name of the lease.
            size: bytes of the blob.
            is_published: whether the verified blob is in the store.
            take_over: called when the other process has died; returns the file to read instead.
        """
        self.path = layout.blob_data(digest)
        self.size = size
        self._driver = driver
        self._leases = leases
        self._id = transfer_id
        self._is_published = is_published
        self._take_over = take_over

    def open(self) -> BinaryIO | None:
        """Return None: there is no file yet."""
        return None

    def redirect_url(self) -> str | None:
        """Return None: the store cannot serve it yet."""
        return None

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Yield the bytes as the other process stores them; the last ones when the blob is verified.

        Raises:
            UpstreamUnavailable: the transfer failed.
        """
        end = self.size if length is None else min(offset + length, self.size)
        released_end = min(end, self.size - WITHHELD_BYTES)
        position = polls = 0
        while offset < end:
            size = self._find_piece(position) if offset < released_end else None
            if size is not None:
                if offset < position + size:
                    block = self._read_piece(position, offset, min(position + size, released_end))
                    offset += len(block)
                    yield from filter(None, [block])
                if offset >= position + size:
                    position += size
                    continue
            if self._is_published():
                yield from self._driver.stream_read(self.path, offset, end - offset)
                return
            polls += 1
            if polls % _POLLS_OF_LEASE == 0 and (taken := self._take_over_if_dead()) is not None:
                yield from taken.read(offset, end - offset)
                return
            gevent.sleep(POLL_SECONDS)

    def _find_piece(self, position: int) -> int | None:
        """Return the size of the piece that begins at a position; None if there is none yet."""
        return self._driver.find_size(piece_path(self._id, position)) or None

    def _read_piece(self, position: int, start: int, end: int) -> bytes:
        try:
            path = piece_path(self._id, position)
            return b"".join(self._driver.stream_read(path, start - position, end - start))
        except PathNotFound:  # the transfer has just ended
            return b""

    def _take_over_if_dead(self) -> ServedFile | None:
        if self._leases.has_expired(self._id):
            return self._take_over()
        if not self._leases.is_taken(self._id) and not self._is_published():
            raise UpstreamUnavailable("The transfer from the upstream registry failed.")
        return None
