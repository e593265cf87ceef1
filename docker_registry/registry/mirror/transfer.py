"""
Transfers: blobs that this process receives from an upstream, and serves meanwhile.

A greenlet receives the bytes, independently of clients: one that leaves stops nothing. It keeps the last bytes in
memory and writes the rest to the store in pieces, from which clients read. A second greenlet passes all bytes to
:class:`~docker_registry.registry.uploads.Uploads`, which verifies and publishes them as for a push.

Memory: at most two blocks of :data:`~docker_registry.registry.buffer_pool.POOL` for each transfer, which shares its
budget among all transfers of the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Final

import gevent

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    DigestInvalid,
    RegistryError,
    SizeInvalid,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from docker_registry.registry.buffer_pool import POOL
from docker_registry.registry.ingest import BlockBody, Body
from docker_registry.registry.mirror.arriving_blob import ArrivingBlob, ByteStream
from docker_registry.registry.mirror.pieces import Pieces
from docker_registry.registry.names import Digest

logger = logging.getLogger(__name__)

#: Attempts to receive the rest of a blob after a broken connection.
MAX_RESUMES: Final = 3

#: Opens the stream again at an offset; None if the upstream does not have the blob any more.
Reopen = Callable[[int], ByteStream | None]


class Transfer(ArrivingBlob):
    """A blob that this process receives."""

    _pieces: Pieces

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
        super().__init__(driver, digest, stream.size, pieces)
        self._stream = stream
        self._reopen = reopen
        self._publish = publish
        self._is_complete = False
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

    def available(self, offset: int) -> bytes:
        """
        Return received bytes from an offset on, verified or not, waiting for them; empty at the end.

        Raises:
            RegistryError: the transfer failed.
        """
        while True:
            if offset < self._pieces.end:
                return self._pieces.read(offset, self._pieces.end)
            if self._is_complete:
                return b""
            self._wait_for_change()

    # ------------------------------------------------------------------------------------------------- steps

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
                        logger.info("blob %s: resumed at byte %d after: %s", self.digest, self._pieces.end, error)
                        self._resume()
            if self.size is None:
                self.size = self._pieces.end
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
        is_first = True
        for block in self._stream.blocks():
            if self._pieces.append(block) or is_first:
                self._announce()
            is_first = False

    def _resume(self) -> None:
        self._stream.close()
        stream = self._reopen(self._pieces.end)
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
