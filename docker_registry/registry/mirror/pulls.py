"""
When mirrored content was last pulled, for eviction.

The modification time of a link is the time of the last pull, to about ten minutes: pulls are collected in memory, and
written from time to time. A request never waits for that.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import DigestInvalid, NameInvalid, PathNotFound, RegistryError
from docker_registry.registry import layout
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.read_only import ReadOnly

logger = logging.getLogger(__name__)

#: Time between two writes of collected pulls.
FLUSH_SECONDS: Final = 30.0

#: How old the recorded time of the last pull may be before a further pull is recorded.
PRECISION_SECONDS: Final = 600.0

#: The same for a blob that is being sent.
_SENDING_SECONDS: Final = 60.0

#: Links that are remembered until the next flush; further pulls are not recorded.
_MAX_PULLED: Final = 20_000

#: Memory for links whose last record is known.
_RECORDED_BYTES: Final = 4 * 1024 * 1024


class Pulls:
    """The last pulls of mirrored content, as far as this process knows them."""

    def __init__(
        self,
        driver: StorageDriver,
        is_mirrored: Callable[[str], bool],
        read_only: ReadOnly,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            is_mirrored: returns whether a repository of this name mirrors another one.
            read_only: while writes are refused, pulls are not recorded.
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._is_mirrored = is_mirrored
        self._read_only = read_only
        self._now = now
        self._pulled: set[str] = set()
        self._recorded: BoundedCache[str, float] = BoundedCache(_RECORDED_BYTES)
        self._sending: Counter[tuple[str, str]] = Counter()

    def add(self, repository: str, digest: str, *, is_manifest: bool) -> None:
        """
        Record a pull, in memory; called for every request on the event loop.

        Args:
            repository, digest: as in a response that had the content; others are ignored.
        """
        if len(self._pulled) < _MAX_PULLED and self._is_mirrored(repository):
            self._pulled.add(f"{'m' if is_manifest else 'b'}{repository}@{digest}")

    @contextmanager
    def sending(self, repository: str, digest: str) -> Iterator[None]:
        """Count a blob as being sent while the context is entered."""
        self._sending[repository, digest] += 1
        try:
            yield
        finally:
            self._sending[repository, digest] -= 1
            if not self._sending[repository, digest]:
                del self._sending[repository, digest]

    def is_sending(self, digest: Digest) -> bool:
        """Return whether this process is sending a blob."""
        return any(sent == str(digest) for _, sent in self._sending)

    def flush(self) -> None:
        """Write the pulls since the last flush, and those that are in progress."""
        if self._read_only.why is not None:
            return
        pulled, self._pulled = self._pulled, set()
        for key in pulled:
            self._record(key, PRECISION_SECONDS)
        for repository, digest in list(self._sending):
            self._record(f"b{repository}@{digest}", _SENDING_SECONDS)

    def watch(self, sleep: Callable[[float], object]) -> None:
        """Flush for ever; the body of a greenlet."""
        while True:
            sleep(FLUSH_SECONDS)
            try:
                self.flush()
            except RegistryError as error:
                logger.warning("pulls of mirrored repositories could not be recorded: %s", error)

    def _record(self, key: str, precision_seconds: float) -> None:
        recorded = self._recorded.get(key)
        link = _link(key)
        if link is None or (recorded is not None and self._now() < recorded + precision_seconds):
            return
        try:
            if recorded is None:  # perhaps another process has recorded a pull
                recorded = self._driver.stat(link).modified
            if self._now() >= recorded + precision_seconds:
                self._driver.touch(link)
                recorded = self._now()
            self._recorded.put(key, recorded)
        except PathNotFound:  # evicted
            self._recorded.forget(key)


def _link(key: str) -> str | None:
    """Return the path of the link of pulled content; None if the name or the digest is invalid."""
    repository, _, digest = key[1:].partition("@")
    make = layout.revision_link if key[0] == "m" else layout.layer_link
    try:
        return make(RepositoryName.parse(repository), Digest.parse(digest))
    except (NameInvalid, DigestInvalid):
        return None
