"""The mirror of all configured upstreams: a source of tags, manifests and blobs for a registry."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ConfigError, PathNotFound
from docker_registry.registry import layout
from docker_registry.registry.mirror.blob_sizes import BlobSizes
from docker_registry.registry.mirror.client import UpstreamClient
from docker_registry.registry.mirror.credentials import Credentials
from docker_registry.registry.mirror.eviction import Eviction
from docker_registry.registry.mirror.mirrored_blobs import MirroredBlobs
from docker_registry.registry.mirror.mirrored_manifests import MirroredManifests
from docker_registry.registry.mirror.mirrored_referrers import MirroredReferrers
from docker_registry.registry.mirror.mirrored_tags import MirroredTags
from docker_registry.registry.mirror.namespaces import Namespaces
from docker_registry.registry.mirror.platforms import PlatformRecords
from docker_registry.registry.mirror.pulls import Pulls
from docker_registry.registry.mirror.remotes import Remotes
from docker_registry.registry.mirror.status import StatusRecords, UpstreamStatus
from docker_registry.registry.mirror.tag_lists import TagLists
from docker_registry.registry.mirror.tag_records import TagRecords
from docker_registry.registry.mirror.transfers import Transfers
from docker_registry.registry.mirror.upstream import Upstream, Upstreams
from docker_registry.registry.mirror.upstream_connection import UpstreamConnection
from docker_registry.registry.names import RepositoryName
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.read_only import ReadOnly
from docker_registry.resources.memory_budget import MemoryBudget

#: Maximum number of repositories in an error.
_MAX_NAMED: Final = 100


class Mirror:
    """
    The mirror of a registry.

    Attributes:
        upstreams: the mirrored registries.
        namespaces: decides which of them a request means.
        via: returns the name of this registry in Via headers.
        transfers: the transfers that are in progress.
        pulls: when content was last pulled; None if nothing is ever evicted.
        eviction: evicts the least recently pulled content; None if nothing is ever evicted.
    """

    pulls: Pulls | None = None
    eviction: Eviction | None = None

    def __init__(
        self,
        registry: OciRegistry,
        upstreams: Mapping[Upstream, Credentials | None],
        *,
        user_agent: str,
        via: Callable[[], str],
        memory: MemoryBudget,
        read_only: ReadOnly,
        is_offline: bool = False,
        hosts: Mapping[str, str] | None = None,
        own_names: Sequence[str] = (),
        external_url: str | None = None,
        default: str | None = None,
        max_bytes: int | None = None,
        max_age_seconds: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Append the mirror to the sources of a registry.

        Args:
            upstreams: the mirrored registries, each with the credentials for it.
            user_agent: what upstreams are told about this server.
            via: returns the name of this registry in Via headers; the same on all its hosts.
            memory: budget for manifests that are being received.
            read_only: while writes are refused, what is fetched is passed on without being stored.
            is_offline: never ask an upstream.
            hosts, own_names, external_url, default: see :class:`Namespaces`.
            max_bytes, max_age_seconds: see :class:`Eviction`; nothing is evicted while *is_offline*.
            now: the clock, seconds since the Unix epoch.

        Raises:
            ConfigError: two upstreams have the same name, or a host is invalid.
        """
        self.upstreams = Upstreams(upstreams)
        self.namespaces = Namespaces(self.upstreams, hosts or {}, own_names, external_url, default)
        self.via = via
        self._registry = registry
        self._read_only = read_only
        self._status = StatusRecords(registry.driver)
        self._published: dict[str, tuple[Counter[str], float]] = {}
        self._clients = [
            UpstreamClient(
                UpstreamConnection(
                    upstream, upstreams[upstream], memory, user_agent=user_agent, via=via, is_offline=is_offline
                )
            )
            for upstream in self.upstreams
        ]
        remotes = Remotes(registry.driver, self._clients, read_only)
        sizes = BlobSizes(registry.json_budget)
        manifests = MirroredManifests(
            remotes,
            registry.manifests,
            registry.manifest_pushes,
            PlatformRecords(registry.driver, registry.json_budget),
            sizes,
        )
        records = TagRecords(registry.driver, registry.listings)
        registry.sources.tags.append(
            MirroredTags(remotes, records, manifests, registry.leases, TagLists(registry.json_budget), now)
        )
        registry.sources.manifests.append(manifests)
        self.transfers = Transfers(registry.driver, registry.leases, registry.buffers)
        registry.sources.blobs.append(
            MirroredBlobs(registry.driver, remotes, registry.blobs, registry.uploads, self.transfers, sizes)
        )
        registry.sources.referrers.append(MirroredReferrers(registry.driver, remotes, registry.json_budget, now))
        if not is_offline and (max_bytes is not None or max_age_seconds is not None):
            self.pulls = Pulls(
                registry.driver, self.upstreams.is_mirrored, read_only, max_age_seconds=max_age_seconds, now=now
            )
            self.eviction = Eviction(
                registry,
                self.names,
                records,
                self.pulls,
                read_only,
                max_bytes=max_bytes,
                max_age_seconds=max_age_seconds,
                now=now,
            )

    def close(self) -> None:
        """Stop all transfers, and close the connections to upstreams."""
        self.transfers.close()
        for client in self._clients:
            client.connection.close()

    @property
    def accounts(self) -> Sequence[str]:
        """The names of the upstreams at which this registry has an account."""
        return [client.upstream.name for client in self._clients if client.connection.has_credentials]

    def pulled_bytes(self) -> dict[tuple[str, str], int]:
        """Return the bytes that this worker has received: by ``blob`` or ``manifest``, and name of the upstream."""
        return {
            (kind, client.upstream.name): size
            for client in self._clients
            for kind, size in client.connection.pulled_bytes.items()
        }

    def publish_status(self, counts: Mapping[tuple[str, str, str], int]) -> None:
        """
        Publish the state of the upstreams for ``docker-registry mirror status``; not while the registry is read-only.

        Args:
            counts: requests for content of upstreams that this worker has answered, by what is counted, type, and name
                of the upstream.
        """
        if self._read_only.is_on:
            return
        for client in self._clients:
            name, reachability = client.upstream.name, client.connection.reachability
            total = Counter(pulled_bytes=sum(client.connection.pulled_bytes.values()))
            for (what, _, upstream), count in counts.items():
                total[what] += count if upstream == name else 0
            published, published_asked = self._published.get(name, (Counter(), 0.0))
            asked = reachability.asked
            if total != published or asked > published_asked:
                new = {what: count - published[what] for what, count in total.items()}
                self._status.add(name, reachability, new)
                self._published[name] = (total, asked)  # only now: if the store fails, the next call adds it

    def status(self) -> dict[str, UpstreamStatus]:
        """Return the state of each upstream, as the workers of all hosts have last published it."""
        return {client.upstream.name: self._status.find(client.upstream.name) for client in self._clients}

    def client(self, upstream: str) -> UpstreamClient:
        """Return the client of an upstream."""
        return next(client for client in self._clients if client.upstream.name == upstream)

    def check(self, upstream: str) -> None:
        """
        Ask an upstream whether it accepts requests of this registry.

        Raises:
            UpstreamError: it does not.
        """
        self.client(upstream).check()

    def names(self) -> set[str]:
        """Return the names of all repositories that mirror one of the upstreams."""
        return {name for name in _marked(self._registry.driver) if self.upstreams.is_mirrored(name)}

    def check_names(self) -> None:
        """
        Check that no repository was pushed under the name of an upstream.

        Raises:
            ConfigError: there are such repositories; the message lists them.
        """
        registry = self._registry
        registry.repositories.page(1, with_hidden=True)  # completes the catalog of a tree of another server
        mirrored = _marked(registry.driver)
        pushed = [
            name
            for name in registry.catalog.pace(registry.catalog.names())
            if self.upstreams.is_mirrored(name)
            and name not in mirrored
            and registry.repositories.exists(RepositoryName(name))
        ]
        if pushed:
            more = f" and {len(pushed) - _MAX_NAMED} more" if len(pushed) > _MAX_NAMED else ""
            raise ConfigError(
                "mirroring.upstreams: repositories were pushed under the name of an upstream; rename the upstream, or "
                f"delete them while it is not configured: {', '.join(pushed[:_MAX_NAMED])}{more}"
            )


def _marked(driver: StorageDriver) -> set[str]:
    """Return the names of all repositories that were mirrored."""
    try:
        paths = list(driver.list_directory(layout.MIRROR))
    except PathNotFound:
        return set()
    return {name for path in paths if (name := layout.read_catalog_entry(path.rpartition("/")[2])) is not None}
