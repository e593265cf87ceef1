"""
Transfers that another process runs: their pieces are read from the store, so that each byte leaves the upstream once.

The process that receives content holds a lease and extends it. If it dies, the first follower that notices takes the
transfer over, with the pieces that are in the store. One greenlet looks into the store, for all clients of a process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import gevent

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, RegistryError, UpstreamError, UpstreamUnavailable
from docker_registry.registry.leases import Leases
from docker_registry.registry.mirror.arriving_content import ArrivingContent
from docker_registry.registry.mirror.pieces import StoredPieces
from docker_registry.registry.mirror.upstream_content import WITHHELD_BYTES, UpstreamContent

logger = logging.getLogger(__name__)

#: How often a follower looks for the next piece: at first, at the end, and where pieces arrive quickly.
POLL_SECONDS: Final = 0.02

#: At most this long after the next piece is in the store it is found, where pieces arrive slowly.
_MAX_POLL_SECONDS: Final = 0.1

#: How often it checks that the other process is alive.
_CHECK_SECONDS: Final = 0.5

#: A transfer without clients is no longer followed after this time.
_IDLE_SECONDS: Final = 5.0


class FollowedTransfer(ArrivingContent):
    """Content that another process receives."""

    def __init__(self, driver: StorageDriver, leases: Leases, content: UpstreamContent, size: int) -> None:
        """
        Args:
            size: bytes of the content.
        """
        super().__init__(content, size, StoredPieces(driver, content.work))
        self._leases = leases
        self._last_piece_end = size - WITHHELD_BYTES
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self, on_end: Callable[[], object]) -> None:
        """
        Find the pieces that are in the store, and begin to look for further ones.

        Args:
            on_end: called when the transfer is not followed any more.
        """
        self._pieces.find_all()
        self._greenlet = gevent.spawn(self._watch, on_end)

    def stop(self) -> None:
        """See :class:`ArrivingContent`."""
        self.error = self.error or UpstreamUnavailable("The registry is stopping.")
        if self._greenlet is not None:
            self._greenlet.kill()
        self._announce()

    def _watch(self, on_end: Callable[[], object]) -> None:
        try:
            self._follow()
        except RegistryError as error:
            self.error = error
        except Exception:
            logger.exception("the transfer of %s by another process could not be followed", self.content)
            self.error = UpstreamError()
        finally:
            on_end()
            self._announce()

    def _follow(self) -> None:
        """Look for pieces until the content is published or abandoned."""
        found_at = checked_at = used_at = time.monotonic()
        pause = POLL_SECONDS
        while True:
            now = time.monotonic()
            if self._pieces.end < self._last_piece_end and self._find_next():
                pause = min(max((now - found_at) / 4, POLL_SECONDS), _MAX_POLL_SECONDS)
                found_at = checked_at = now
                self._announce()
                continue
            if self.content.is_stored():
                self.is_published = True
                return
            if now > checked_at + _CHECK_SECONDS:
                checked_at = now
                self._check_other_process()
            used_at = now if self.readers else used_at
            self.is_abandoned = self.is_abandoned or now > used_at + _IDLE_SECONDS
            if self.is_abandoned:
                return
            gevent.sleep(pause)

    def _find_next(self) -> bool:
        try:
            return self._pieces.find_next()
        except PathNotFound:  # the transfer has just ended
            return False

    def _check_other_process(self) -> None:
        """
        Check that the other process is alive, and find pieces that do not begin where the known ones end.

        Raises:
            UpstreamUnavailable: the transfer failed.
        """
        if self._leases.has_expired(self.content.work):
            self.is_abandoned = True
        elif not self._leases.is_taken(self.content.work) and not self.content.is_stored():
            raise UpstreamUnavailable("The transfer from the upstream registry failed.")
        elif self._pieces.find_all():
            self._announce()
