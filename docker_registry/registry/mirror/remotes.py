"""The repositories of upstreams that the repositories here mirror."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import UpstreamUnavailable
from docker_registry.registry import layout
from docker_registry.registry.actor import Actor, Principal
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.mirror.client import UpstreamClient
from docker_registry.registry.mirror.upstream import Upstream, Upstreams
from docker_registry.registry.names import RepositoryName
from docker_registry.registry.read_only import ReadOnly

#: The actor of everything that is stored for an upstream.
MIRROR: Final = Actor("mirror", Principal("docker-registry"))

#: How long the absence of a tag, manifest or blob is remembered, in each worker.
ABSENT_SECONDS: Final = 10.0

#: Memory for what is known to be absent.
_ABSENT_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Remote:
    """
    A repository of an upstream.

    Attributes:
        path: its name there.
    """

    client: UpstreamClient
    path: str

    @property
    def upstream(self) -> Upstream:
        """The upstream that has it."""
        return self.client.upstream


class Remotes:
    """All repositories that can be mirrored, with what is known to be absent in them."""

    def __init__(
        self,
        driver: StorageDriver,
        clients: Iterable[UpstreamClient],
        read_only: ReadOnly,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            read_only: while writes are refused, nothing may be stored.
            now: the clock, seconds.
        """
        self._driver = driver
        self._clients = {client.upstream.name: client for client in clients}
        self._read_only = read_only
        self._now = now
        self._absent: BoundedCache[Hashable, float] = BoundedCache(_ABSENT_BYTES)
        self.upstreams = Upstreams(client.upstream for client in self._clients.values())

    def find(self, name: RepositoryName) -> Remote | None:
        """Return the repository that one here mirrors; None for one that mirrors nothing, is hidden or not allowed."""
        found = None if name.is_hidden else self.upstreams.find(str(name))
        if found is None or not found[0].allows(found[1]):
            return None
        return Remote(self._clients[found[0].name], found[1])

    @property
    def may_store(self) -> bool:
        """True if fetched content may be stored; otherwise it is only passed on to the client."""
        return not self._read_only.is_on

    def check_writable(self) -> None:
        """
        Check that something may be stored.

        Raises:
            UpstreamUnavailable: the registry is read-only.
        """
        if not self.may_store:
            raise UpstreamUnavailable("The registry is read-only.")

    def mark(self, name: RepositoryName, remote: Remote) -> None:
        """Mark a repository as mirrored, before something is stored in it."""
        mark = layout.mirror_upstream(name)
        if not self._driver.exists(mark):
            self._driver.put_content(mark, remote.upstream.url.encode())

    def is_absent(self, name: RepositoryName, content: object) -> bool:
        """Return whether the upstream has said less than :data:`ABSENT_SECONDS` ago that it has no such content."""
        return self._now() < (self._absent.get((str(name), str(content))) or 0)

    def record_absence(self, name: RepositoryName, content: object) -> None:
        """Remember that the upstream has no such tag, manifest or blob."""
        self._absent.put((str(name), str(content)), self._now() + ABSENT_SECONDS)
