"""
The transfers of a mirror: each content is received once for all clients, processes and hosts.

The process that receives it holds a lease and extends it; the others follow the transfer in the store. On a store
without leases each process receives for itself.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import gevent
from gevent.lock import BoundedSemaphore

from docker_registry.concurrency import KeyedLocks, check_client
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, StorageError, UpstreamError, UpstreamUnavailable
from docker_registry.registry import layout
from docker_registry.registry.deferred_failures import DeferredFailures
from docker_registry.registry.ingest import BufferPool
from docker_registry.registry.leases import Leases
from docker_registry.registry.mirror.arriving_content import ArrivingContent, ArrivingFile, changed
from docker_registry.registry.mirror.followed_transfer import POLL_SECONDS, FollowedTransfer
from docker_registry.registry.mirror.pieces import Pieces, announced_size
from docker_registry.registry.mirror.transfer import Transfer
from docker_registry.registry.mirror.upstream import Upstream
from docker_registry.registry.mirror.upstream_content import ByteStream, UpstreamContent
from docker_registry.registry.stored_file import ServedFile

logger = logging.getLogger(__name__)

#: Life of the lease of a transfer, and how often it is extended while the process lives.
LEASE_SECONDS: Final = 4.0
_EXTEND_SECONDS: Final = 1.0

#: At most this long after its end, or after its size is known, a transfer of another process is noticed.
_MAX_POLL_SECONDS: Final = 0.5

#: Status of a response to a request with a Range that begins behind the content.
_RANGE_NOT_SATISFIABLE: Final = 416


@dataclass(frozen=True, slots=True)
class Opened:
    """
    Content that can be read.

    Attributes:
        is_new: whether it is fetched for this request.
    """

    file: ServedFile
    is_new: bool = False


class Transfers:
    """All transfers that this process runs or follows."""

    def __init__(self, driver: StorageDriver, leases: Leases, buffers: BufferPool) -> None:
        """
        Args:
            leases: let one process at a time receive a content.
            buffers: whose memory budget the transfers share with pushes.
        """
        self._driver = driver
        self._leases = leases
        self._buffers = buffers
        self._locks = KeyedLocks()
        self._arriving: dict[str, ArrivingContent] = {}
        self._slots: dict[str, BoundedSemaphore] = {}
        self._part_slots: dict[str, BoundedSemaphore] = {}

    def open(self, content: UpstreamContent) -> Opened | None:
        """
        Return a content to read: from the store, or while it is received; None if the upstream does not have it.

        Raises:
            UpstreamError: the upstream cannot be asked, or denies access.
        """
        with self._locks.hold(content.work):
            arriving, is_new = self._arriving.get(content.work), False
            if arriving is not None and arriving.is_published:
                return Opened(content.get())
            if arriving is None or arriving.is_abandoned:
                found = self._find(content)
                if found is not None and not isinstance(found, ArrivingContent):
                    return Opened(found)
                arriving, is_new = found or self._start(content), found is None
            if arriving is None:
                return None
        # A response needs the length. A blob without bytes could not be withheld until it is verified.
        if not arriving.size:
            arriving.wait()
            return Opened(content.get(), is_new) if arriving.is_published else self.open(content)
        file = ArrivingFile(
            arriving, arriving.size, partial(self._continued, content), partial(self._receive_extra_part, content)
        )
        return Opened(file, is_new)

    def wait(self, content: UpstreamContent) -> bool:
        """
        Wait until a content is in the store; return False if the upstream does not have it.

        Raises:
            UpstreamError: the upstream cannot be asked, or sends something else.
        """
        opened = self.open(content)
        while opened is not None and isinstance(opened.file, ArrivingFile):
            opened.file.wait()
            opened = self.open(content)
        return opened is not None

    @contextmanager
    def receive_part(self, content: UpstreamContent, start: int, end: int | None) -> Iterator[Iterable[bytes]]:
        """
        Receive bytes of a content for one client, without storing them.

        Raises:
            UpstreamError: the upstream cannot be asked, or does not have the content any more.
        """
        with self._slot(content.upstream):
            stream = content.open_part(start, end)
            if stream is None:
                raise UpstreamUnavailable("The upstream registry does not have the content any more.", **content.detail)
            try:
                yield stream.blocks()
            finally:
                stream.close()

    def find_size(self, work: str) -> int | None:
        """Return the size of a content that is being received, bytes; None if it is not, or has not been announced."""
        arriving = self._arriving.get(work)
        return None if arriving is None else arriving.size

    def close(self) -> None:
        """Stop all transfers."""
        for arriving in list(self._arriving.values()):
            arriving.stop()

    def purge(self, ttl_seconds: float, is_stopped: Callable[[], bool] = lambda: False) -> int:
        """
        Remove the pieces of transfers that no process continues.

        Args:
            ttl_seconds: minimum time since the last change of a transfer.
            is_stopped: nothing more is removed when this returns True.

        Returns:
            The number of removed transfers.

        Raises:
            StorageError: a transfer could not be read or removed; the others were, if the store can be reached.
        """
        folders: list[str] = []
        with suppress(PathNotFound):
            folders += self._driver.list_directory(layout.TRANSFERS)
        oldest, purged, failures = time.time() - ttl_seconds, 0, DeferredFailures()
        for folder in folders:
            if is_stopped():
                break
            with failures.deferred():
                newest = max((piece.modified for piece in self._driver.walk(folder)), default=oldest)
                purged += newest < oldest and self._driver.scratch.discard(folder)
        failures.raise_last()
        return purged

    # ------------------------------------------------------------------------------------------------- steps

    @property
    def _has_leases(self) -> bool:
        return self._driver.capabilities.if_match

    def _find(self, content: UpstreamContent) -> ServedFile | FollowedTransfer | None:
        """
        Return a content that is in the store, or the transfer of another process.

        Returns:
            None if this process is to receive it; it then holds the lease.

        Raises:
            ClientLeft: the client disconnected before the size was known.
        """
        while True:
            stored = content.find()
            if stored is not None:
                return stored
            if self._extend(content.work):
                return None
            size = self._wait_for_size(content.work)
            if size is not None:
                return self._follow(content, size)

    def _wait_for_size(self, work: str) -> int | None:
        """
        Wait for a moment until another process announces the size of what it receives; return None if it does not.

        Clients get no byte before that, so the store is asked for it more often than for anything else.

        Raises:
            ClientLeft: the client disconnected meanwhile.
        """
        until = time.monotonic() + _MAX_POLL_SECONDS
        while (size := announced_size(self._driver, work)) is None and time.monotonic() < until:
            gevent.sleep(POLL_SECONDS)
            check_client()
        return size

    def _follow(self, content: UpstreamContent, size: int) -> FollowedTransfer:
        followed = FollowedTransfer(self._driver, self._leases, content, size)
        followed.start(lambda: self._arriving.pop(content.work, None))
        self._arriving[content.work] = followed  # only now: if the store fails, nothing would remove it
        return followed

    def _start(self, content: UpstreamContent) -> Transfer | None:
        """
        Start to receive a content; this process holds the lease, which is released when the transfer has ended.

        Returns:
            None if the upstream does not have it.
        """
        upstream, work = content.upstream, content.work
        transfer: Transfer | None = None
        with ExitStack() as held:
            held.callback(lambda: self._end(work, transfer))
            held.callback(gevent.spawn(self._keep_lease, work).kill)
            held.enter_context(self._slot(upstream))
            pieces, stream = self._open_stream(content)
            if stream is None:
                return None
            self._arriving[work] = transfer = Transfer(
                content, stream, pieces, self._buffers, partial(self._extend, work), is_shared=self._has_leases
            )
            transfer.start(held.pop_all().close)
        return transfer

    def _end(self, work: str, transfer: Transfer | None) -> None:
        """Give up the lease of a transfer that has ended, unless another process has taken it over."""
        try:
            if transfer is None or not transfer.is_abandoned:
                self._leases.release(work)
        except Exception as error:  # noqa: BLE001 - the transfer must end; the lease expires soon
            logger.warning("the lease of a transfer could not be released: %s", error)
        if self._arriving.get(work) is transfer:  # after the release, which would free the lease of a new transfer
            self._arriving.pop(work, None)

    def _open_stream(self, content: UpstreamContent) -> tuple[Pieces, ByteStream | None]:
        """
        Begin to receive a content after the pieces that an earlier transfer has left, or else from its beginning.

        Returns:
            The pieces, and the stream of the bytes after them; None if the upstream does not have the content.
        """
        # Without leases several processes may receive the same content, each with pieces of its own.
        transfer_id = content.work if self._has_leases else secrets.token_hex(16)
        pieces = Pieces(self._driver, transfer_id, self._buffers)
        if not pieces.find_all():
            return pieces, content.open(0)
        size, validator = announced_size(self._driver, transfer_id), pieces.find_validator()
        if content.may_continue(validator) and (size is None or pieces.end < size):
            try:
                stream = content.open(pieces.end, validator)
            except UpstreamError as error:
                if error.detail.get("status") != _RANGE_NOT_SATISFIABLE:
                    raise
            else:
                has_size = stream is None or size is None or stream.size in (None, size)
                if stream is None or (has_size and content.is_continued_by(stream, validator)):
                    return pieces, stream
                stream.close()
        # No byte is left that could be requested after the pieces, or they may be those of other content.
        pieces.discard()
        return Pieces(self._driver, transfer_id, self._buffers), content.open(0)

    @contextmanager
    def _receive_extra_part(self, content: UpstreamContent, start: int, end: int) -> Iterator[Iterable[bytes]]:
        """
        Receive bytes of a content that is being received anyway, for a client that would have to wait for them.

        Yields no bytes if as many parts are being received as transfers are allowed: clients that read slowly must not
        use up the connections. Also yields none if the upstream sends the whole content instead.

        Raises:
            UpstreamError: as for :meth:`receive_part`.
        """
        upstream = content.upstream
        slots = self._part_slots.setdefault(upstream.name, BoundedSemaphore(upstream.max_connections))
        if not slots.acquire(blocking=False):
            yield ()
            return
        try:
            stream = content.open_part(start, end)
            if stream is None:
                raise changed(content)
            with closing(stream):
                yield stream.blocks() if stream.is_part else ()
        finally:
            slots.release()

    @contextmanager
    def _slot(self, upstream: Upstream) -> Iterator[None]:
        """
        Hold one of the connections to an upstream.

        Raises:
            UpstreamUnavailable: none became free in time.
        """
        slots = self._slots.setdefault(upstream.name, BoundedSemaphore(upstream.max_connections))
        if not slots.acquire(timeout=upstream.timeout_seconds):
            raise UpstreamUnavailable("Too many transfers from the upstream registry.", upstream=upstream.name)
        try:
            yield
        finally:
            slots.release()

    def _continued(self, content: UpstreamContent) -> ServedFile:
        """Return the file to read instead of one that was abandoned."""
        opened = self.open(content)
        if opened is None:
            raise UpstreamUnavailable("The upstream registry does not have the content any more.", **content.detail)
        return opened.file

    def _keep_lease(self, work: str) -> None:
        """Extend the lease of a transfer until another process takes the transfer over; the body of a greenlet."""
        while True:
            gevent.sleep(_EXTEND_SECONDS)
            try:
                is_ours = self._extend(work)
            except StorageError:  # tried again; the lease lasts for several attempts
                continue
            arriving = self._arriving.get(work)
            if not is_ours and isinstance(arriving, Transfer):
                arriving.abandon()
                return

    def _extend(self, work: str) -> bool:
        """Take or extend the lease of a transfer; return False if another process holds it."""
        return self._leases.take(work, LEASE_SECONDS, ends_with_process=True)
