"""The parts of a running registry, built once from its configuration and closed in reverse order."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, final

from docker_registry import drivers
from docker_registry.config.schema import Config, secret_values
from docker_registry.drivers.base import StorageDriver
from docker_registry.drivers.measured import StorageTimes
from docker_registry.error_reports.redaction import Redactor
from docker_registry.error_reports.reporting import ErrorReporting
from docker_registry.errors import ConfigError
from docker_registry.http.clients import TrustedProxies
from docker_registry.http.exchange import Observer
from docker_registry.http.external_url import ExternalUrl
from docker_registry.http.health import Health
from docker_registry.logs.audit import AuditLog
from docker_registry.metrics.server_metrics import ServerMetrics
from docker_registry.registry.access import OpenPolicy
from docker_registry.registry.actor import ANONYMOUS
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.read_only import ReadOnly
from docker_registry.registry.search import backends
from docker_registry.registry.search.entries import SearchEntries
from docker_registry.registry.search.index import NullIndex, SearchIndex
from docker_registry.registry.search.missed_updates import MissedUpdates
from docker_registry.registry.search.updates import SearchUpdates
from docker_registry.resources.memory_budget import MemoryBudget
from docker_registry.server.brief_calls import BriefCalls
from docker_registry.services.access import restrict
from docker_registry.services.metrics_collector import MetricsCollector
from docker_registry.services.mirrors import (
    load_mirrors,
    open_mirror,
    open_v1_mirror,
    pull_observers,
    record_mirror,
)
from docker_registry.services.reporting import error_reporters, open_metrics, shared_folder
from docker_registry.services.store import open_diff_queue, open_driver, search_database, search_identity
from docker_registry.tracing import open_tracing

if TYPE_CHECKING:
    from docker_registry.auth.access_control import AccessControl
    from docker_registry.metrics.recorder import MirrorRecorder
    from docker_registry.registry.bridge.bridge import Bridge
    from docker_registry.registry.mirror.mirror import Mirror
    from docker_registry.registry.v1.diff_queue import RedisDiffQueue
    from docker_registry.registry.v1.legacy_registry import LegacyRegistry
    from docker_registry.registry.v1_mirror.v1_mirror import V1Mirror

logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, kw_only=True)
class Services:
    """
    The parts of a registry; a context manager that closes them.

    Attributes:
        access_control: checks every request; None in a registry without users.
        legacy: the registry of API V1; None where it is not served.
        observers: receive each exchange that a worker reports.
        body_memory: memory budget for request bodies that are held in memory.
        search_updates: keeps *search_index* up to date while the registry changes.
        diff_queue: the queue of diffs to compute; None without Redis or API V1.
        error_reporting: passes logged errors to the configured reporters, once it watches the log.
        trusted_proxies: proxies whose headers tell the client's address.
        external_url: the URL under which clients reach the registry.
        brief_calls: runs the brief disk waits of the store.
        mirror: the mirror of upstream registries; None if none is configured.
        v1_mirror: the mirror of a registry for API V1; None if none is configured.
        mirror_recorder: counts requests for mirrored content; None if nothing is mirrored.
        audit: the audit log; None if it is off.
        metrics: of all workers; None if they are off.
        metrics_collector: to which the worker adds its own limits; None if metrics are off.
        read_only: whether writes are refused.
        health: whether the store can be read and the worker is stopping.
    """

    config: Config
    registry: OciRegistry
    legacy: LegacyRegistry | None
    access_control: AccessControl | None
    body_memory: MemoryBudget
    search_entries: SearchEntries
    search_index: SearchIndex
    search_updates: SearchUpdates
    diff_queue: RedisDiffQueue | None
    error_reporting: ErrorReporting
    health: Health
    brief_calls: BriefCalls
    trusted_proxies: TrustedProxies
    external_url: ExternalUrl
    read_only: ReadOnly
    mirror: Mirror | None = None
    v1_mirror: V1Mirror | None = None
    mirror_recorder: MirrorRecorder | None = None
    audit: AuditLog | None = None
    metrics: ServerMetrics | None = None
    metrics_collector: MetricsCollector | None = None
    observers: tuple[Observer, ...] = ()
    _opened: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> Services:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def require_legacy(self) -> LegacyRegistry:
        """
        Return the registry of API V1.

        Raises:
            ConfigError: it is not open.
        """
        if self.legacy is None:
            raise ConfigError("This needs API V1, which is not served (v1).")
        return self.legacy

    def check_start(self) -> None:
        """
        Check that what the store contains fits the configuration, before requests are served.

        Raises:
            ConfigError: repositories were pushed under the name of a mirrored registry.
        """
        if self.mirror is None:
            return
        self.mirror.check_names()
        policy = self.registry.access.policy if self.access_control is not None else OpenPolicy()
        prefixes = policy.pull_prefixes(ANONYMOUS)
        for name in self.mirror.accounts:
            mirrored = f"{name}/"
            if prefixes is None or any(each.startswith(mirrored) or mirrored.startswith(each) for each in prefixes):
                logger.warning("everyone who reaches this registry may pull what the account at %s may", name)

    def probe_store(self) -> None:
        """
        Check that the store works: by writing, or by reading while the registry is read-only.

        Raises:
            StorageError: it does not.
        """
        if not self.read_only.is_on:
            self.registry.probe()
        else:
            self.registry.probe_reading()

    def close(self) -> None:
        """Close every part, the last one opened first."""
        self._opened.close()


def import_modules(config: Config) -> None:
    """
    Import the modules that a configuration needs, without opening anything.

    Raises:
        ConfigError: the configuration names a driver or a search index that does not exist.
    """
    drivers.load(config.storage)
    backends.load(config.search_backend)
    if config.v1:
        import docker_registry.registry.bridge.bridge
        import docker_registry.registry.v1.diff_queue
        import docker_registry.registry.v1.legacy_registry  # noqa: F401
    load_mirrors(config)


def build(config: Config, driver: StorageDriver | None = None, *, v1: bool | None = None) -> Services:
    """
    Open all parts that a configuration names.

    Args:
        driver: the store; by default the configured one, with its cache.
        v1: whether to open the registry of API V1; by default if it is served.

    Raises:
        ConfigError: the configuration names a part that does not exist or lacks a library, or a part rejects its
            settings.
        StorageError: the store cannot be used.
    """
    with ExitStack() as opened:
        if config.metrics_by_repository and not config.metrics_address:
            raise ConfigError(
                "metrics_by_repository needs metrics_address, because names of repositories may be private."
            )
        times = StorageTimes() if config.metrics or config.metrics_address else None
        brief_calls = BriefCalls()
        registry = _open_registry(config, driver or open_driver(config, times, brief_calls))
        if (folder := shared_folder()) is not None:
            registry.tags.locks.share(folder / "tag-locks")
        legacy, bridge, diff_queue = None, None, None
        if config.v1 if v1 is None else v1:
            diff_queue = open_diff_queue(config)
            if diff_queue is not None:
                opened.callback(diff_queue.close)
            legacy, bridge = _add_legacy(config, registry, diff_queue)
        search_entries = SearchEntries(
            registry.repositories,
            registry.private_repositories,
            registry.slices,
            legacy.image_repositories if legacy is not None else None,
        )
        search_index = backends.open_index(config.search_backend, search_database(config), search_entries.look_up)
        opened.callback(search_index.close)
        missed = MissedUpdates(registry.driver, search_identity(config))
        search_updates = SearchUpdates(search_index, search_entries.look_up, missed)
        if not isinstance(search_index, NullIndex):
            search_updates.connect(registry.driver)
            opened.callback(search_updates.finish)
        error_reporting = ErrorReporting(error_reporters(config, registry.leases), Redactor(secret_values(config)))
        opened.callback(error_reporting.close)
        observers: list[Observer] = []
        body_memory = MemoryBudget(config.max_body_memory_bytes)
        read_only = ReadOnly(registry.driver)
        mirror = open_mirror(config, registry, body_memory, read_only)
        if mirror is not None:
            opened.callback(mirror.close)
        v1_mirror = open_v1_mirror(config, registry, legacy, bridge, body_memory, read_only, mirror)
        if v1_mirror is not None:
            opened.callback(v1_mirror.close)
        observers += pull_observers(mirror)
        metrics, metrics_collector = None, None
        if times is not None:
            metrics_collector = MetricsCollector(registry, search_updates, times, config.storage)
            metrics_collector.add_budget("body_memory", body_memory)
            metrics = open_metrics(config, metrics_collector)
        mirror_recorder = record_mirror(mirror, metrics_collector)
        audit = AuditLog(config.audit_log) if config.audit_log else None
        optional = (metrics, mirror_recorder, open_tracing(os.environ), audit)
        observers.extend(each for each in optional if each is not None)
        return Services(
            config=config,
            registry=registry,
            access_control=restrict(
                config, registry, legacy, (lambda _: None) if audit is None else audit.record_reload
            ),
            legacy=legacy,
            body_memory=body_memory,
            audit=audit,
            metrics=metrics,
            metrics_collector=metrics_collector,
            search_entries=search_entries,
            search_index=search_index,
            search_updates=search_updates,
            diff_queue=diff_queue,
            error_reporting=error_reporting,
            health=Health(registry.probe_reading, config.drain_delay),
            brief_calls=brief_calls,
            observers=tuple(observers),
            read_only=read_only,
            mirror=mirror,
            v1_mirror=v1_mirror,
            mirror_recorder=mirror_recorder,
            trusted_proxies=TrustedProxies(config.trusted_proxies),
            external_url=ExternalUrl.parse(config.external_url),
            _opened=opened.pop_all(),
        )


def _open_registry(config: Config, driver: StorageDriver) -> OciRegistry:
    return OciRegistry(
        driver,
        max_manifest_bytes=config.max_manifest_bytes,
        check_index_children=config.check_index_children,
        immutable_tags=config.immutable_tags,
        # With an index, its tokens decide who sees private repositories.
        serve_private=config.serve_private or not config.standalone,
    )


def _add_legacy(
    config: Config, registry: OciRegistry, diff_queue: RedisDiffQueue | None
) -> tuple[LegacyRegistry, Bridge]:
    """
    Open the registry of API V1 on the same store, and the bridge through which each sees what the other stored.

    Returns:
        The registry, and the bridge.

    Raises:
        ConfigError: ``v1_platform`` is not a platform.
    """
    from docker_registry.registry.bridge.bridge import Bridge
    from docker_registry.registry.mirror.platforms import parse_platforms
    from docker_registry.registry.v1.layer_reader import LayerReader
    from docker_registry.registry.v1.legacy_registry import LegacyRegistry

    limits = LayerLimits(
        max_bytes=config.max_unpacked_layer_bytes,
        max_ratio=config.max_layer_ratio,
        max_seconds=config.max_layer_seconds,
    )
    reader = LayerReader(limits)
    (platform,) = parse_platforms("v1_platform:", [config.v1_platform])
    bridge = Bridge(registry, reader, platform=platform.text)
    legacy = LegacyRegistry(
        registry, reader, bridge.images, upload_ttl_seconds=config.upload_ttl, diff_queue=diff_queue
    )
    bridge.connect(legacy)
    return legacy, bridge
