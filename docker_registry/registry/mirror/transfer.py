"""
Transfers: blobs that are being received from an upstream, and are served meanwhile.

A greenlet receives the bytes, independently of clients: one that leaves stops nothing. It keeps the last bytes in
memory and writes the rest to the store in pieces, from which slow and late clients read. A second greenlet passes all
bytes to :class:`~docker_registry.registry.uploads.Uploads`, which verifies and publishes them as for a push. The last
bytes are withheld from clients until then, so no client receives an unverified blob completely.

Memory: at most two blocks of :data:`~docker_registry.registry.buffer_pool.POOL` for each transfer, which shares its
budget among all transfers of the worker.
"""

from __future__ import annotations

import logging
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Protocol

import gevent
from gevent.event import Event

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import DigestInvalid, PathNotFound, RegistryError, SizeInvalid, UpstreamError
from docker_registry.registry import layout
from docker_registry.registry.buffer_pool import POOL
from docker_registry.registry.ingest import Body
from docker_registry.registry.names import Digest

logger = logging.getLogger(__name__)

#: Bytes at the end of a blob that clients receive only after its digest is verified.
WITHHELD_BYTES: Final = 64 * 1024


class ByteStream(Protocol):
    """Bytes that are received from an upstream."""

    @property
    def size(self) -> int | None:
        """Bytes that the upstream announces; None if it announces none."""

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes as they arrive."""

    def close(self) -> None:
        """Close the connection."""


class Transfer:
    """
    One blob that is being received.

    Attributes:
        size: bytes of the blob, as announced; if none were announced, None until all bytes have arrived.
        error: why the transfer failed; None while it has not.
        is_published: whether the verified blob is in the store.
    """

    def __init__(
        self, driver: StorageDriver, digest: Digest, stream: ByteStream, publish: Callable[[Body], object]
    ) -> None:
        """
        Args:
            publish: verifies a body and publishes it as the blob; raises DigestInvalid or SizeInvalid otherwise.
        """
        self.digest = digest
        self.size = stream.size
        self.error: RegistryError | None = None
        self.is_published = False
        self._driver = driver
        self._stream = stream
        self._publish = publish
        self._pieces = _Pieces(driver)
        self._received = 0
        self._is_complete = False
        self._changed = Event()

    def start(self, on_end: Callable[[], object]) -> None:
        """
        Start to receive, and return at once.

        Args:
            on_end: called when the transfer has ended, whether or not it failed.
        """
        receiver = gevent.spawn(self._receive)
        gevent.spawn(self._store, receiver, on_end)

    def wait(self) -> None:
        """
        Wait until the blob is published.

        Raises:
            RegistryError: the transfer failed.
        """
        while not self.is_published:
            self._wait_for_change()

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Yield bytes of the blob as they arrive, the last ones when the blob is verified.

        Args:
            offset: first byte, from 0.
            length: number of bytes; None for all up to the end.

        Raises:
            RegistryError: the transfer failed.
        """
        end = None if length is None else offset + length
        while not self.is_published and (end is None or offset < end):
            block = self._available(offset, self._released_end if end is None else min(self._released_end, end))
            if block:
                offset += len(block)
                yield block
            elif not self.is_published:
                self._wait_for_change()
        if end is None or offset < end:
            rest = None if end is None else end - offset
            yield from self._driver.stream_read(layout.blob_data(self.digest), offset, rest)

    def available(self, offset: int) -> bytes:
        """
        Return received bytes from an offset on, verified or not, waiting for them; empty at the end.

        Raises:
            RegistryError: the transfer failed.
        """
        while True:
            block = self._available(offset, self._received)
            if block or self._is_complete:
                return block
            self._wait_for_change()

    # ------------------------------------------------------------------------------------------------- steps

    @property
    def _released_end(self) -> int:
        """Where the bytes end that clients may receive before the blob is verified."""
        size = self._received if self.size is None else self.size
        return min(self._received, size - WITHHELD_BYTES)

    def _available(self, offset: int, limit: int) -> bytes:
        try:
            return self._pieces.read(offset, limit) if offset < limit else b""
        except PathNotFound:  # the transfer has just ended
            return b""

    def _wait_for_change(self) -> None:
        if self.error is not None:
            raise self.error
        self._changed.wait()

    def _announce(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()

    def _receive(self) -> None:
        try:
            with POOL.transfer():
                for block in self._stream.blocks():
                    self._pieces.append(block)
                    self._received += len(block)
                    self._announce()
            if self.size is None:
                self.size = self._received
            self._is_complete = True
        except RegistryError as error:
            self.error = error
        except Exception:
            logger.exception("the transfer of the blob %s failed", self.digest)
            self.error = UpstreamError()
        finally:
            self._stream.close()
            self._announce()

    def _store(self, receiver: gevent.Greenlet[..., None], on_end: Callable[[], object]) -> None:
        try:
            self._publish(TransferBody(self))
            self.is_published = True
        except (DigestInvalid, SizeInvalid) as error:
            self.error = self.error or UpstreamError(
                "The upstream registry sent other content than that of the digest.", digest=str(self.digest)
            )
            logger.warning("the blob %s of an upstream is invalid: %s", self.digest, error)
        except RegistryError as error:
            self.error = error
        except Exception:
            logger.exception("the blob %s could not be stored", self.digest)
            self.error = UpstreamError()
        finally:
            on_end()
            self._announce()
            receiver.kill()
            self._pieces.discard()


class TransferBody:
    """The bytes of a transfer as the :class:`~docker_registry.registry.ingest.Body` of a push."""

    def __init__(self, transfer: Transfer) -> None:
        self.length = transfer.size
        self._transfer = transfer
        self._offset = 0
        self._rest = memoryview(b"")
        self.complete = False

    def readinto(self, buffer: memoryview, /) -> int:
        """See :class:`~docker_registry.registry.ingest.Body`."""
        if not self._rest:
            self._rest = memoryview(self._transfer.available(self._offset))
            self._offset += len(self._rest)
        block = self._rest[: len(buffer)]
        buffer[: len(block)] = block
        self._rest = self._rest[len(block) :]
        if not block:
            self.complete = self.length in (None, self._offset)
        return len(block)


class TransferFile:
    """The blob of a transfer as a :class:`~docker_registry.registry.stored_file.ServedFile`."""

    def __init__(self, transfer: Transfer, size: int) -> None:
        """
        Args:
            size: bytes of the blob.
        """
        self.path = layout.blob_data(transfer.digest)
        self.size = size
        self._transfer = transfer

    def open(self) -> BinaryIO | None:
        """Return None: there is no file yet."""
        return None

    def redirect_url(self) -> str | None:
        """Return None: the store cannot serve it yet."""
        return None

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the bytes as they arrive; see :meth:`Transfer.read`."""
        return self._transfer.read(offset, length)


class _Pieces:
    """The received bytes: the last ones in memory, all before them in the store."""

    def __init__(self, driver: StorageDriver) -> None:
        self._scratch = driver.scratch
        self._folder = layout.transfer(secrets.token_hex(16))
        self._ends: list[int] = []  # of the pieces in the store
        self._recent = b""  # the last piece that was written, for clients that keep up
        self._tail = bytearray()

    def append(self, block: bytes) -> None:
        """Add received bytes."""
        self._tail += block
        if len(self._tail) >= POOL.block_bytes:
            piece, start = bytes(self._tail), self._start_of_tail
            self._scratch.stream_write(self._path(start), [piece])
            self._recent = piece
            self._ends.append(start + len(piece))
            del self._tail[: len(piece)]

    def read(self, offset: int, limit: int) -> bytes:
        """Return bytes from an offset up to a limit, not necessarily all; the bytes exist."""
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

    def discard(self) -> None:
        """Remove the pieces from the store, and forget those in memory."""
        if self._ends:
            self._scratch.discard(self._folder)

    @property
    def _start_of_tail(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _path(self, start: int) -> str:
        return f"{self._folder}/{start}"
