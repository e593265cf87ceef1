"""
Content that this process receives from an upstream, and serves meanwhile.

A greenlet receives the bytes, independently of clients: one that leaves stops nothing. It keeps the last bytes in
memory and writes the rest to the store in pieces, from which clients read. A second greenlet passes all bytes to the
part that verifies and publishes them as for a push.

Memory: at most two blocks of :data:`~docker_registry.registry.buffer_pool.POOL` for each transfer, which shares its
budget among all transfers of the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Final

import gevent

from docker_registry.errors import (
    DigestInvalid,
    RegistryError,
    SizeInvalid,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from docker_registry.registry.buffer_pool import POOL
from docker_registry.registry.ingest import BlockBody
from docker_registry.registry.mirror.arriving_content import ArrivingContent, changed
from docker_registry.registry.mirror.pieces import Pieces
from docker_registry.registry.mirror.upstream_content import ByteStream, UpstreamContent

logger = logging.getLogger(__name__)

#: Attempts to receive the rest of a blob after a broken connection.
MAX_RESUMES: Final = 3


class Transfer(ArrivingContent):
    """Content that this process receives."""

    _pieces: Pieces

    def __init__(
        self, content: UpstreamContent, stream: ByteStream, pieces: Pieces, is_owner: Callable[[], bool]
    ) -> None:
        """
        Args:
            stream: begins after the bytes of *pieces*.
            pieces: bytes that an earlier transfer has received, and where further ones are kept.
            is_owner: returns False if another process has taken the transfer over, because this one was delayed.
        """
        super().__init__(content, stream.size, pieces)
        self._stream = stream
        self._validator = stream.validator
        self._is_owner = is_owner
        self._is_complete = False
        self._failure: RegistryError | None = None  # why not all bytes could be received
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

    def abandon(self) -> None:
        """Leave the transfer and its pieces to the process that has taken it over."""
        logger.info("%s: another process continues the transfer", self.content)
        self.is_abandoned = True
        gevent.killall(self._greenlets, block=False)
        self._announce()

    def available(self, offset: int) -> bytes:
        """
        Return received bytes from an offset on, verified or not, waiting for them; empty at the end.

        Raises:
            RegistryError: the rest cannot be received.
        """
        while True:
            if offset < self._pieces.end:
                return self._pieces.read(offset, self._pieces.end)
            if self._failure is not None:
                raise self._failure
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
                        logger.info("%s: resumed at byte %d after: %s", self.content, self._pieces.end, error)
                        self._resume()
            if self.size is None:
                self.size = self._pieces.end
            self._is_complete = True
        except RegistryError as error:
            self._failure = error
        except Exception:
            logger.exception("the transfer of %s failed", self.content)
            self._failure = UpstreamError()
        finally:
            self._stream.close()
            self._announce()

    def _receive_stream(self) -> None:
        is_first = True
        for block in self._stream.blocks():
            if self.size is not None and self._pieces.end + len(block) > self.size:
                raise UpstreamError("The upstream registry sent more than it announced.", **self.content.detail)
            if self._pieces.append(block) or is_first:
                self._announce()
            is_first = False

    def _resume(self) -> None:
        self._stream.close()
        stream = self.content.open_part(self._pieces.end, validator=self._validator)
        if stream is not None and self.size is not None and stream.size not in (None, self.size):
            stream.close()
            stream = None
        if stream is None:
            raise changed(self.content)
        self._stream = stream

    def _store(self, receiver: gevent.Greenlet[..., None], on_end: Callable[[], object]) -> None:
        failure: RegistryError | None = None
        try:
            self.content.publish(TransferBody(self))
            self.is_published = True
        except (DigestInvalid, SizeInvalid) as error:
            failure = UpstreamError(
                "The upstream registry sent other content than that of the digest.", **self.content.detail
            )
            logger.warning("%s of an upstream is invalid: %s", self.content, error)
        except UpstreamError as error:
            failure = error
        except RegistryError as error:
            self.is_published = self._is_stored()  # perhaps by a process that has taken over the transfer
            failure = None if self.is_published else error
        except Exception:
            logger.exception("%s could not be stored", self.content)
            failure = UpstreamError()
        finally:
            receiver.kill()
            if failure is not None and not self._is_still_owner():
                self.is_abandoned, failure = True, None
            if not self.is_abandoned:
                self._pieces.discard()
            on_end()
            self.error = self.error or failure  # clients learn it when they may try again
            self._announce()

    def _is_stored(self) -> bool:
        try:
            return self.content.is_stored()
        except RegistryError:
            return False

    def _is_still_owner(self) -> bool:
        try:
            return self._is_owner()
        except RegistryError:
            return True


class TransferBody(BlockBody):
    """The bytes of a transfer as the body of a push."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__(transfer.size)
        self._transfer = transfer

    def next_block(self) -> bytes:
        """See :class:`~docker_registry.registry.ingest.BlockBody`."""
        return self._transfer.available(self.received)
