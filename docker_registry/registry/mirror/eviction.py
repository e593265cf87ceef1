"""
Eviction: removes the mirrored content that was pulled least recently, and keeps the mirrored bytes within a limit.

The links of evicted content are removed at once, its bytes by
:class:`~docker_registry.registry.removal.Reclamation`. Content that a repository has to which clients push is never
evicted, and does not count against the limit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, RegistryError
from docker_registry.registry import layout, store_removal
from docker_registry.registry.leases import Leases
from docker_registry.registry.mirror.pulls import Pulls
from docker_registry.registry.mirror.remotes import MIRROR
from docker_registry.registry.mirror.tag_records import TagRecords
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.read_only import ReadOnly

logger = logging.getLogger(__name__)

#: Time between two passes; longer if a pass takes long.
PASS_SECONDS: Final = 60.0

#: Largest share of the time that passes take.
_SHARE: Final = 0.05

#: Content that was pulled less than this ago may be in the process of being sent by any host, and stays.
RECENT_SECONDS: Final = 120.0

_LEASE: Final = "mirror-eviction"
_LEASE_SECONDS: Final = 600.0


@dataclass(slots=True)
class _Content:
    """
    A mirrored blob or manifest.

    Attributes:
        pulled: when it was last pulled, seconds since the Unix epoch.
        links: the mirrored repositories that have it, and their links to it.
    """

    pulled: float = 0.0
    links: list[tuple[RepositoryName, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Evicted:
    """
    The result of a pass.

    Attributes:
        blobs, size: number and bytes of the evicted blobs and manifests.
        left: bytes of mirrored content that are left, without what other repositories have.
        removed: bytes of previously evicted content that were removed from the store.
    """

    blobs: int
    size: int
    left: int
    removed: int


class Eviction:
    """Evicts mirrored content of a store, in one process at a time."""

    def __init__(
        self,
        registry: OciRegistry,
        names: Callable[[], Collection[str]],
        records: TagRecords,
        pulls: Pulls,
        read_only: ReadOnly,
        *,
        max_bytes: int | None,
        max_age_seconds: float | None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            names: returns the names of the mirrored repositories.
            max_bytes: limit for the bytes of mirrored content; None for no limit.
            max_age_seconds: time after its last pull at which content is evicted; None for no limit.
            now: the clock, seconds since the Unix epoch.
        """
        self._driver: StorageDriver = registry.driver
        self._removal = registry.removal
        self._removed = registry.blobs.removed
        self._references = registry.references
        self._reclamation = registry.reclamation
        self._leases: Leases = registry.leases
        self._slices = registry.slices
        self._names = names
        self._records = records
        self._pulls = pulls
        self._read_only = read_only
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        self._now = now
        self._sizes: dict[Digest, int] = {}

    def watch(self, sleep: Callable[[float], object]) -> None:
        """Run a pass from time to time, for ever; the body of a greenlet."""
        while True:
            began = time.monotonic()
            try:
                has_run = self.run() is not None
                pause = max(PASS_SECONDS, (time.monotonic() - began) / _SHARE)
                if has_run:  # no other process needs to run a pass meanwhile
                    self._leases.take(_LEASE, pause)
            except RegistryError as error:
                logger.warning("mirrored content could not be evicted: %s", error)
                pause = PASS_SECONDS
            sleep(pause)

    def run(self) -> Evicted | None:
        """
        Run a pass.

        Returns:
            None if another process does, or the registry is read-only.
        """
        if self._is_stopped() or not self._leases.take(_LEASE, _LEASE_SECONDS):
            return None
        contents = self._contents()
        chosen, left = self._choose(contents)
        evicted = [digest for digest in chosen if not self._is_stopped() and self._evict(digest, contents[digest])]
        size = sum(self._sizes[digest] for digest in evicted)
        result = Evicted(len(evicted), size, left, self._reclamation.run(self._is_stopped))
        if result.blobs or result.removed:
            logger.info(
                "evicted %d mirrored blobs of %d bytes, removed %d bytes of earlier ones, %d bytes are left",
                result.blobs, result.size, result.removed, result.left,
            )  # fmt: skip
        return result

    # ------------------------------------------------------------------------------------------------- steps

    def _is_stopped(self) -> bool:
        return self._read_only.why is not None

    def _contents(self) -> dict[Digest, _Content]:
        """Return all mirrored content, and record its sizes."""
        contents: dict[Digest, _Content] = {}
        for text in self._slices.pace(self._names()):
            name = RepositoryName(text)
            for digest, link in self._references.links_of(name):
                content = contents.setdefault(digest, _Content())
                content.pulled = max(content.pulled, link.modified)
                content.links.append((name, link.path))
        sizes = self._sizes
        self._sizes = {
            digest: sizes.get(digest) or self._driver.find_size(layout.blob_data(digest)) or 0
            for digest in self._slices.pace(contents)
        }
        return contents

    def _choose(self, contents: dict[Digest, _Content]) -> tuple[list[Digest], int]:
        """Return what to evict, and the bytes that are left then."""
        total = self._total(contents)
        oldest = self._now() - self._max_age_seconds if self._max_age_seconds is not None else 0.0
        has_old = any(content.pulled < oldest for content in self._slices.pace(contents.values()))
        if not has_old and (self._max_bytes is None or total <= self._max_bytes):
            return [], total
        mirrored = set(self._names())
        shared = self._references.among(contents, lambda name: name not in mirrored)
        total -= self._total(shared)
        chosen = []
        recent = self._now() - RECENT_SECONDS
        for digest in self._by_pull(contents, shared):
            pulled = contents[digest].pulled
            is_too_much = self._max_bytes is not None and total > self._max_bytes
            if pulled >= recent or not (is_too_much or pulled < oldest):
                break
            chosen.append(digest)
            total -= self._sizes[digest]
        return chosen, total

    def _total(self, digests: Iterable[Digest]) -> int:
        return sum(self._sizes[digest] for digest in self._slices.pace(digests))

    def _by_pull(self, contents: dict[Digest, _Content], shared: set[Digest]) -> Iterable[Digest]:
        """Return the content that may be evicted, least recently pulled first."""
        keys = (f"{content.pulled:020.6f} {digest}" for digest, content in contents.items() if digest not in shared)
        return (Digest.parse(key.partition(" ")[2]) for key in self._slices.sort(keys))

    def _evict(self, digest: Digest, content: _Content) -> bool:
        """Remove the links of some content; return False if it is in use."""
        if self._pulls.is_sending(digest) or any(self._modified(link) > content.pulled for _, link in content.links):
            return False
        self._removed.add(digest)
        for name, link in content.links:
            if link == layout.revision_link(name, digest):
                self._records.discard_target(name, digest)
                store_removal.remove(self._driver, layout.mirrored_referrers(name, digest))
                store_removal.remove(self._driver, layout.mirrored_platform(name, digest))
            self._removal.forget(name, digest, actor=MIRROR)
        return True

    def _modified(self, link: str) -> float:
        try:
            return self._driver.stat(link).modified
        except PathNotFound:
            return 0.0
