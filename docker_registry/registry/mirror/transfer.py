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
from collections.abc import Callable, Iterator
from itertools import count
from typing import BinaryIO, Final, Protocol

import gevent
from gevent.event import Event

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    DigestInvalid,
    PathNotFound,
    RegistryError,
    SizeInvalid,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from docker_registry.registry import layout
from docker_registry.registry.buffer_pool import POOL
from docker_registry.registry.ingest import BlockBody, Body
from docker_registry.registry.mirror.pieces import Pieces
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


#: A part that begins at most this far behind the received bytes is waited for.
NEAR_BYTES: Final = 4 * 1024 * 1024

#: Attempts to receive the rest of a blob after a broken connection.
MAX_RESUMES: Final = 3

#: Opens the stream again at an offset; None if the upstream does not have the blob any more.
Reopen = Callable[[int], ByteStream | None]


class Transfer:
    """
    One blob that is being received.

    Attributes:
        size: bytes of the blob, as announced; if none were announced, None until all bytes have arrived.
        error: why the transfer failed; None while it has not.
        is_published: whether the verified blob is in the store.
    """

    def __init__(
        self,
        driver: StorageDriver,
        digest: Digest,
        stream: ByteStream,
        reopen: Reopen,
        pieces: Pieces,
        publish: Callable[[Body], object],
    ) -> None:
        """
        Args:
            stream: begins after the bytes of *pieces*.
            reopen: continues after a broken connection.
            pieces: bytes that an earlier transfer has received, and where further ones are kept.
            publish: verifies a body and publishes it as the blob; raises DigestInvalid or SizeInvalid otherwise.
        """
        self.digest = digest
        self.size = stream.size
        self.error: RegistryError | None = None
        self.is_published = False
        self._driver = driver
        self._stream = stream
        self._reopen = reopen
        self._publish = publish
        self._pieces = pieces
        self._received = pieces.end
        self._is_complete = False
        self._changed = Event()
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def start(self, on_end: Callable[[], object]) -> None:
        """
        Start to receive, and return at once.

        Args:
            on_end: called when the transfer has ended, whether or not it failed.
        """
        receiver = gevent.spawn(self._receive)
        self._greenlets = [receiver, gevent.spawn(self._store, receiver, on_end)]

    def stop(self) -> None:
        """Stop a transfer that has been started, and close its connection."""
        self.error = self.error or UpstreamUnavailable("The registry is stopping.")
        gevent.killall(self._greenlets)
        self._stream.close()
        self._announce()

    def is_far_from(self, offset: int) -> bool:
        """Return whether it will take a while until the byte at an offset has arrived."""
        return not self.is_published and offset > self._received + NEAR_BYTES

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
                for resumes in count():
                    try:
                        self._receive_stream()
                        break
                    except (UpstreamUnavailable, UpstreamTimeout) as error:
                        if resumes == MAX_RESUMES:
                            raise
                        logger.info("blob %s: resumed at byte %d after: %s", self.digest, self._received, error)
                        self._resume()
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

    def _receive_stream(self) -> None:
        for block in self._stream.blocks():
            self._pieces.append(block)
            self._received += len(block)
            self._announce()

    def _resume(self) -> None:
        self._stream.close()
        stream = self._reopen(self._received)
        if stream is not None and self.size is not None and stream.size not in (None, self.size):
            stream.close()
            stream = None
        if stream is None:
            raise UpstreamError("The upstream registry has changed the blob.", digest=str(self.digest))
        self._stream = stream

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
            receiver.kill()
            self._pieces.discard()
            on_end()
            self._announce()


class TransferBody(BlockBody):
    """The bytes of a transfer as the body of a push."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__(transfer.size)
        self._transfer = transfer

    def next_block(self) -> bytes:
        """See :class:`~docker_registry.registry.ingest.BlockBody`."""
        return self._transfer.available(self.received)


class TransferFile:
    """The blob of a transfer as a :class:`~docker_registry.registry.stored_file.ServedFile`."""

    def __init__(self, transfer: Transfer, size: int, fetch_part: Callable[[int, int], ByteStream | None]) -> None:
        """
        Args:
            size: bytes of the blob.
            fetch_part: requests a part of the blob, from an offset to another.
        """
        self.path = layout.blob_data(transfer.digest)
        self.size = size
        self._transfer = transfer
        self._fetch_part = fetch_part

    def open(self) -> BinaryIO | None:
        """Return None: there is no file yet."""
        return None

    def redirect_url(self) -> str | None:
        """Return None: the store cannot serve it yet."""
        return None

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Yield bytes of the blob as they arrive; the last ones when it is verified.

        A part that the transfer will reach much later is requested from the upstream by itself.

        Raises:
            RegistryError: the transfer failed.
        """
        end = self.size if length is None else min(offset + length, self.size)
        released_end = min(end, self.size - WITHHELD_BYTES)
        if self._transfer.is_far_from(offset) and offset < released_end:
            stream = self._fetch_part(offset, released_end)
            if stream is None:
                raise UpstreamError("The upstream registry has changed the blob.", digest=str(self._transfer.digest))
            try:
                for block in stream.blocks():
                    part = block[: released_end - offset]
                    offset += len(part)
                    yield part
                    if offset == released_end:
                        break
            finally:
                stream.close()
        yield from self._transfer.read(offset, end - offset)
