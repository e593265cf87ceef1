"""
Content that this process receives from an upstream, and serves meanwhile.

A greenlet receives the bytes, independently of clients: one that leaves stops nothing. It keeps the last bytes in
memory and writes the rest to the store in pieces, from which clients read. A second greenlet passes all bytes to the
part that verifies and publishes them as for a push.

Memory: at most two blocks of the :class:`~docker_registry.registry.ingest.BufferPool` for each transfer. Its budget is
shared by all transfers and pushes of the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Final

import gevent
from gevent import monkey

from docker_registry.errors import (
    DigestInvalid,
    RegistryError,
    SizeInvalid,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from docker_registry.registry.ingest import BlockBody, BufferPool
from docker_registry.registry.mirror.arriving_content import ArrivingContent, changed
from docker_registry.registry.mirror.pieces import Pieces
from docker_registry.registry.mirror.responses import cause_of
from docker_registry.registry.mirror.upstream_content import ByteStream, UpstreamContent

logger = logging.getLogger(__name__)

#: Attempts to receive the rest of a blob after a broken connection.
MAX_RESUMES: Final = 3

#: Pause after an attempt that brought nothing: an upstream that restarts needs a moment, and attempts at once would
#: only make it count as failing.
RESUME_PAUSE_SECONDS: Final = 1.0

#: How long the receiver of a command sleeps after each piece.
_SLEEP_SECONDS: Final = 0.001


class Transfer(ArrivingContent):
    """Content that this process receives."""

    _pieces: Pieces

    def __init__(
        self,
        content: UpstreamContent,
        stream: ByteStream,
        pieces: Pieces,
        buffers: BufferPool,
        is_owner: Callable[[], bool],
        *,
        is_shared: bool,
    ) -> None:
        """
        Args:
            stream: begins after the bytes of *pieces*.
            pieces: bytes that an earlier transfer has received, and where further ones are kept.
            buffers: counts the transfer while bytes are received.
            is_owner: returns False if another process has taken the transfer over, because this one was delayed.
            is_shared: whether other processes find the pieces, and continue the transfer if this one stops.
        """
        super().__init__(content, stream.size, pieces)
        self._stream = stream
        self._buffers = buffers
        self._validator = stream.validator
        self._is_owner = is_owner
        self._is_shared = is_shared
        self._is_complete = self._has_announced_size = False
        self._failure: RegistryError | None = None  # why not all bytes could be received
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def start(self, on_end: Callable[[], object]) -> None:
        """
        Start to receive, and return at once.

        Args:
            on_end: called when the transfer has ended, whether or not it failed; raises nothing.
        """
        receiver = gevent.spawn(self._receive)
        self._greenlets = [receiver, gevent.spawn(self._store, receiver, on_end)]

    def stop(self) -> None:
        """Stop a transfer that has been started, and close its connection; another process may continue it."""
        self.error = self.error or UpstreamUnavailable("The registry is stopping.")
        self.is_abandoned = self._is_shared
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
            with self._buffers.transfer():
                for resumes in count():
                    end_before = self._pieces.end
                    try:
                        if resumes:
                            self._resume()
                        self._receive_stream()
                        break
                    except (UpstreamUnavailable, UpstreamTimeout) as error:
                        if resumes == MAX_RESUMES or not self.content.may_continue(self._validator):
                            raise
                        logger.info(
                            "%s of %s: to be resumed at byte %d after: %s",
                            self.content, self.content.upstream.name, self._pieces.end, cause_of(error),
                        )  # fmt: skip
                        if resumes and self._pieces.end == end_before:
                            gevent.sleep(RESUME_PAUSE_SECONDS)
            if self.size is None:
                self.size = self._pieces.end
            self._is_complete = True
        except RegistryError as error:
            self._failure = error
            logger.warning(
                "the transfer of %s from %s failed at byte %d: %s",
                self.content, self.content.upstream.name, self._pieces.end, cause_of(error),
            )  # fmt: skip
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
            self._pieces.append(block)
            if is_first:  # clients of this process receive it while the size and the first piece are stored
                self._announce()
                self._announce_size()
                is_first = False
            if self._pieces.store():
                self._announce()
                if not monkey.is_module_patched("socket"):
                    # In a command reads block all greenlets. Those that are due, such as the one that extends the
                    # lease, only run while this one sleeps; not for 0 seconds, as the loop would skip its timers.
                    gevent.sleep(_SLEEP_SECONDS)

    def _announce_size(self) -> None:
        """Tell other processes the size, and how a transfer of content without a digest can be continued."""
        if self._validator and not self.content.has_digest:
            self._pieces.put_validator(self._validator)
        if self.size is not None and not self._has_announced_size:
            self._pieces.announce_size(self.size)
        self._has_announced_size = True

    def _resume(self) -> None:
        self._stream.close()
        stream = self.content.open_part(self._pieces.end, validator=self._validator)
        if stream is not None and not self._has_rest(stream):
            stream.close()
            stream = None
        if stream is None:
            raise changed(self.content)
        self._stream = stream

    def _has_rest(self, stream: ByteStream) -> bool:
        has_size = self.size is None or stream.size in (None, self.size)
        return has_size and self.content.is_continued_by(stream, self._validator)

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
            if failure is not None and failure is not self._failure:
                logger.warning("%s of an upstream could not be stored: %s", self.content, error)
        except Exception:
            logger.exception("%s could not be stored", self.content)
            failure = UpstreamError()
        finally:
            receiver.kill()
            if failure is not None and not self._is_still_owner():
                self.is_abandoned, failure = True, None
            if not self.is_abandoned:
                self._discard_pieces()
            on_end()
            self.error = self.error or failure  # clients learn it when they may try again
            self._announce()

    def _discard_pieces(self) -> None:
        try:
            self._pieces.discard()
        except Exception as error:  # noqa: BLE001 - the transfer must end; the pieces are purged later
            logger.warning("the pieces of %s could not be removed: %s", self.content, error)

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
