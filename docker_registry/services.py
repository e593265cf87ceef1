"""The parts of a running registry, built once from its configuration and closed in reverse order."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, final

from docker_registry import __version__, drivers
from docker_registry.concurrency import RunBlocking
from docker_registry.config.schema import Auth, Config, Redis, TokenServer, secret_values
from docker_registry.drivers.base import StorageDriver
from docker_registry.drivers.cache import connection
from docker_registry.drivers.cache.circuit_breaker import MAX_WAIT_SECONDS, CircuitBreaker
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.drivers.cache.leased import LeasedCache
from docker_registry.drivers.measured import MeasuredDriver, StorageTimes
from docker_registry.drivers.store_identity import StoreIdentity
from docker_registry.error_reports.bugsnag import BugsnagReporter
from docker_registry.error_reports.mail import MailReporter, MailServer
from docker_registry.error_reports.report import ErrorReporter
from docker_registry.error_reports.reporting import ErrorReporting
from docker_registry.error_reports.sentry import SentryReporter
from docker_registry.errors import ConfigError
from docker_registry.http.exchange import Observer
from docker_registry.http.health import Health
from docker_registry.http.trusted_proxies import TrustedProxies
from docker_registry.logs.audit import AuditLog
from docker_registry.logs.redaction import Redactor
from docker_registry.metrics import listener
from docker_registry.metrics.server_metrics import ServerMetrics
from docker_registry.metrics.shared import FOLDER_VARIABLE
from docker_registry.part_numbers import PartNumbers
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.leases import Leases
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.read_only import ReadOnly
from docker_registry.registry.search import index as search
from docker_registry.registry.search.entries import SearchEntries
from docker_registry.registry.search.index import NullIndex, SearchIndex
from docker_registry.registry.search.updates import SearchUpdates
from docker_registry.resources.memory_budget import MemoryBudget
from docker_registry.server.inflight import BriefCalls, InflightRequests
from docker_registry.tracing import open_tracing

if TYPE_CHECKING:
    from docker_registry.auth.access_control import AccessControl
    from docker_registry.auth.external_tokens import ExternalTokens
    from docker_registry.auth.privileged_key import PrivilegedKey
    from docker_registry.auth.tokens import Tokens
    from docker_registry.auth.workloads import Workloads
    from docker_registry.registry.mirror.mirror import Mirror
    from docker_registry.registry.v1.diff_queue import RedisDiffQueue
    from docker_registry.registry.v1.legacy_registry import LegacyRegistry

logger = logging.getLogger(__name__)

#: The search database of a host without a local disk for its data.
_TEMPORARY_DATABASE: Final = "sqlite:////tmp/docker-registry.db"


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
        inflight: the requests in progress, as the worker reports them.
        mirror: the mirror of upstream registries; None if none is configured.
        audit: the audit log; None if it is off.
        metrics: of all workers; None if they are off.
        part_numbers: to which the worker adds its own limits; None if metrics are off.
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
    inflight: InflightRequests
    trusted_proxies: TrustedProxies
    read_only: ReadOnly
    mirror: Mirror | None = None
    audit: AuditLog | None = None
    metrics: ServerMetrics | None = None
    part_numbers: PartNumbers | None = None
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
        for name in self.mirror.accounts if self.access_control is None else ():
            logger.warning("everyone who reaches this registry may pull what the account at %s may", name)

    def probe_store(self) -> None:
        """
        Check that the store works: by writing, or by reading while the registry is read-only.

        Raises:
            StorageError: it does not.
        """
        if self.read_only.why is None:
            self.registry.probe()
        else:
            self.registry.probe_reading()

    def close(self) -> None:
        """Close every part, the last one opened first."""
        self._opened.close()


def load(config: Config) -> None:
    """
    Import the modules that a configuration needs, without opening anything.

    Raises:
        ConfigError: the configuration names a driver or a search index that does not exist.
    """
    drivers.load(config.storage)
    search.load(config.search_backend)
    if config.v1:
        import docker_registry.registry.bridge.bridge
        import docker_registry.registry.v1.diff_queue
        import docker_registry.registry.v1.legacy_registry  # noqa: F401
    if config.mirroring.upstreams:
        _import_mirror()


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
        inflight = InflightRequests()
        registry = _open_registry(config, driver or open_driver(config, times, BriefCalls(inflight)))
        legacy, diff_queue = None, None
        if config.v1 if v1 is None else v1:
            diff_queue = open_diff_queue(config)
            if diff_queue is not None:
                opened.callback(diff_queue.close)
            legacy = _add_legacy(config, registry, diff_queue)
        search_entries = SearchEntries(
            registry.repositories,
            registry.private_repositories,
            registry.slices,
            legacy.image_repositories if legacy is not None else None,
        )
        search_index = search.open_index(config.search_backend, search_database(config), search_entries.look_up)
        opened.callback(search_index.close)
        search_updates = SearchUpdates(search_index, search_entries.look_up)
        if not isinstance(search_index, NullIndex):
            search_updates.connect(registry.driver)
        error_reporting = ErrorReporting(error_reporters(config, registry.leases), Redactor(secret_values(config)))
        opened.callback(error_reporting.close)
        observers: list[Observer] = []
        body_memory = MemoryBudget(config.max_body_memory_bytes)
        read_only = ReadOnly(registry.driver)
        mirror = _open_mirror(config, registry, body_memory, read_only)
        if mirror is not None:
            opened.callback(mirror.close)
        metrics, part_numbers = None, None
        if times is not None:
            part_numbers = PartNumbers(registry, search_updates, times, inflight, config.storage)
            part_numbers.add_budget("body_memory", body_memory)
            metrics = _open_metrics(config, part_numbers)
            observers.append(metrics)
        tracing = open_tracing(os.environ)
        if tracing is not None:
            observers.append(tracing)
        audit = AuditLog(config.audit_log) if config.audit_log else None
        if audit is not None:
            observers.append(audit)
        return Services(
            config=config,
            registry=registry,
            access_control=_restrict(config, registry, legacy),
            legacy=legacy,
            body_memory=body_memory,
            audit=audit,
            metrics=metrics,
            part_numbers=part_numbers,
            search_entries=search_entries,
            search_index=search_index,
            search_updates=search_updates,
            diff_queue=diff_queue,
            error_reporting=error_reporting,
            health=Health(registry.probe_reading, config.drain_delay),
            inflight=inflight,
            observers=tuple(observers),
            read_only=read_only,
            mirror=mirror,
            trusted_proxies=TrustedProxies(config.trusted_proxies),
            _opened=opened.pop_all(),
        )


def storage_folder(config: Config) -> Path | None:
    """Return the folder of a store of local files; None for other stores."""
    path = config.driver_options.get("storage_path") if config.storage == "file" else None
    return None if path is None else Path(path).expanduser().absolute()


def search_database(config: Config) -> str:
    """
    Return the URL of the search database.

    By default it is beside the data. Hosts that share a folder over the network must not share an SQLite database
    there, so each then has its own.
    """
    if config.sqlalchemy_index_database:
        return config.sqlalchemy_index_database
    folder = storage_folder(config)
    if folder is not None:
        from docker_registry.drivers.file.sync import Disk
        from docker_registry.drivers.file.tree import RESERVED

        if Disk(str(folder)).syncs_whole:
            return f"sqlite:///{folder / RESERVED}/search.db"
    return _TEMPORARY_DATABASE


def open_driver(
    config: Config, times: StorageTimes | None = None, run_brief: RunBlocking | None = None
) -> StorageDriver:
    """
    Open the configured store with its configured cache.

    Args:
        times: receives the durations of the calls of the store.
        run_brief: how the driver runs brief disk waits; by default in native threads.

    Raises:
        ConfigError: the driver or the library for Redis does not exist, or the driver rejects its settings.
        StorageError: the store cannot be used.
    """
    driver = open_store(config)
    if run_brief is not None:
        driver.run_brief = run_brief
    if times is not None:
        driver = MeasuredDriver(driver, times)
    address = _redis_address(config.cache_lru)
    if not address.is_set:
        return driver
    redis = connection.connect(address, "cache_lru", timeout_seconds=MAX_WAIT_SECONDS)
    cache = LeasedCache(redis, CircuitBreaker(redis, str(address)), StoreIdentity(driver))
    return CachedDriver(driver, cache, max_bytes=config.cache_lru.max_bytes)


def open_store(config: Config) -> StorageDriver:
    """
    Open the configured store without a cache.

    Raises:
        ConfigError, StorageError: as for :func:`open_driver`.
    """
    return drivers.load(config.storage)(**config.driver_options)


def open_diff_queue(config: Config) -> RedisDiffQueue | None:
    """
    Open the queue of diffs to compute; None without Redis.

    Raises:
        ConfigError: the library for Redis is not installed.
    """
    from docker_registry.registry.v1.diff_queue import TIMEOUT_SECONDS, RedisDiffQueue

    address = _redis_address(config.cache)
    if not address.is_set:
        return None
    return RedisDiffQueue(connection.connect(address, "cache", timeout_seconds=TIMEOUT_SECONDS))


def _open_metrics(config: Config, part_numbers: PartNumbers) -> ServerMetrics:
    """
    Raises:
        ConfigError: the address of the metrics cannot be used.
    """
    if config.metrics_address:
        listener.open_socket(config.metrics_address).close()
    folder = os.environ.get(FOLDER_VARIABLE)
    return ServerMetrics(
        Path(folder) if folder else None, part_numbers.collect, by_repository=config.metrics_by_repository
    )


def error_reporters(config: Config, leases: Leases) -> list[ErrorReporter]:
    """
    Return the configured reporters of errors.

    Raises:
        ConfigError: a setting is invalid, or a library is not installed.
    """
    reporters: list[ErrorReporter] = []
    mail = config.email_exceptions
    if mail.smtp_host:
        server = MailServer.parse(
            host=mail.smtp_host,
            port=mail.smtp_port,
            login=mail.smtp_login,
            password=mail.smtp_password,
            secure=mail.smtp_secure,
            ca_file=mail.smtp_ca,
            from_addr=mail.from_addr,
            to_addr=mail.to_addr,
        )
        reporters.append(MailReporter(server, leases, flavor=config.flavor, release=__version__))
    if config.bugsnag:
        reporters.append(
            BugsnagReporter(config.bugsnag, config.bugsnag_endpoint, flavor=config.flavor, release=__version__)
        )
    if config.sentry_dsn:
        reporters.append(SentryReporter(config.sentry_dsn, flavor=config.flavor, release=__version__))
    return reporters


def _open_registry(config: Config, driver: StorageDriver) -> OciRegistry:
    return OciRegistry(
        driver,
        max_manifest_bytes=config.max_manifest_bytes,
        check_index_children=config.check_index_children,
        immutable_tags=config.immutable_tags,
        # With an index, its tokens decide who sees private repositories.
        serve_private=config.serve_private or not config.standalone,
    )


def has_access_control(config: Config) -> bool:
    """Return whether a registry knows users or rules, so that not everyone may do everything."""
    auth = config.auth
    files = auth.htpasswd is not None or auth.rules is not None
    return files or auth.token.realm is not None or bool(auth.oidc)


def open_tokens(config: Config, registry: OciRegistry) -> Tokens:
    """Return the tokens of a registry, and the keys that sign them."""
    from docker_registry.auth.tokens import Tokens

    auth = config.auth
    return Tokens.open(
        registry.driver,
        service=auth.service,
        issuer=auth.issuer,
        seconds=auth.token_seconds,
        algorithm=auth.algorithm,
        rotation_seconds=auth.key_rotation,
        pace=registry.slices.pace,
    )


def _open_external_tokens(section: TokenServer) -> ExternalTokens | None:
    """
    Return what verifies the tokens of another token server; None if none is configured.

    Raises:
        ConfigError: a setting is missing or invalid, or a file of keys cannot be used.
    """
    if section.realm is None:
        return None
    from docker_registry.auth import external_tokens, key_sources

    keys = key_sources.open_keys(
        "auth.token", certificates=section.rootcertbundle, jwks=section.jwks, ca=section.ca, name="the token server"
    )
    server = external_tokens.TokenServer.parse(
        realm=section.realm,
        service=section.service,
        issuer=section.issuer,
        algorithms=section.signingalgorithms,
    )
    return external_tokens.ExternalTokens(server, keys)


def _open_workloads(auth: Auth) -> Workloads | None:
    """
    Return what verifies tokens of workloads; None if no issuer is configured.

    Raises:
        ConfigError: a setting is invalid, or a file of keys cannot be used.
    """
    if not auth.oidc:
        return None
    if auth.token.realm is not None:
        raise ConfigError("auth.oidc needs the registry's own tokens, which auth.token replaces")
    from docker_registry.auth.workloads import Issuer, Workloads

    return Workloads(
        [
            Issuer(
                url=item.issuer,
                audience=item.audience,
                match=item.match,
                name=item.as_,
                groups=item.groups,
                ca=item.ca,
                jwks_file=item.jwks_file,
            )
            for item in auth.oidc
        ]
    )


def open_privileged_key(config: Config) -> PrivilegedKey | None:
    """
    Return what verifies requests that the operator has signed; None without a key.

    Raises:
        ConfigError: the file cannot be used, or a hash is unknown.
    """
    if config.privileged_key is None:
        return None
    from docker_registry.auth.privileged_key import PrivilegedKey

    return PrivilegedKey(config.privileged_key, config.privileged_key_hashes)


def _restrict(config: Config, registry: OciRegistry, legacy: LegacyRegistry | None) -> AccessControl | None:
    """Apply the configured access control to a registry."""
    if not has_access_control(config):
        if config.privileged_key is not None and config.standalone:
            logger.warning("privileged_key has no effect: there is no access control (auth)")
        return None
    # PyJWT and cryptography take time to import.
    from docker_registry.auth.access_control import AccessControl, ImageGrant
    from docker_registry.auth.robots import Robots

    control = AccessControl(
        registry.access.policy,
        htpasswd_file=config.auth.htpasswd,
        rules_file=config.auth.rules,
        tokens=open_tokens(config, registry) if config.auth.token.realm is None else None,
        external_tokens=_open_external_tokens(config.auth.token),
        robots=Robots(registry.driver),
        workloads=_open_workloads(config.auth),
        privileged_key=open_privileged_key(config),
    )
    registry.access.policy = control.policy
    if legacy is not None:
        image_tokens = legacy.tokens

        def read(header: str) -> ImageGrant | None:
            token = image_tokens.read(header)
            return None if token is None else ImageGrant(token.holder, token.name, token.access)

        control.read_image_token = read
    return control


def _add_legacy(config: Config, registry: OciRegistry, diff_queue: RedisDiffQueue | None) -> LegacyRegistry:
    """Open the registry of API V1 on the same store, and the bridge through which each sees what the other stored."""
    from docker_registry.registry.bridge.bridge import Bridge
    from docker_registry.registry.v1.layer_reader import LayerReader
    from docker_registry.registry.v1.legacy_registry import LegacyRegistry

    limits = LayerLimits(
        max_bytes=config.max_unpacked_layer_bytes,
        max_ratio=config.max_layer_ratio,
        max_seconds=config.max_layer_seconds,
    )
    reader = LayerReader(limits)
    bridge = Bridge(registry, reader, platform=config.v1_platform)
    legacy = LegacyRegistry(
        registry, reader, bridge.images, upload_ttl_seconds=config.upload_ttl, diff_queue=diff_queue
    )
    bridge.connect(legacy)
    return legacy


def _open_mirror(
    config: Config, registry: OciRegistry, body_memory: MemoryBudget, read_only: ReadOnly
) -> Mirror | None:
    """
    Open the mirror of the configured upstreams, as the last source of a registry.

    Raises:
        ConfigError: an upstream is invalid, or the library for HTTP is not installed.
    """
    if not config.mirroring.upstreams:
        return None
    _import_mirror()
    from docker_registry.registry.mirror.mirror import Mirror
    from docker_registry.registry.mirror.upstream import open_credentials, parse_upstream

    upstreams = {}
    for each in config.mirroring.upstreams:
        upstream = parse_upstream(
            each.name,
            each.url,
            ttl_seconds=each.ttl,
            timeout_seconds=each.timeout,
            max_connections=each.max_connections,
            token_hosts=each.token_hosts,
            is_insecure=each.insecure,
            ca=each.ca,
            client_cert=each.client_cert,
            allows=_name_filter(each.name, each.allow, each.deny),
        )
        upstreams[upstream] = open_credentials(upstream, each.username, each.password, each.password_file, each.command)
    user_agent, store = f"docker-registry/{__version__}", StoreIdentity(registry.driver)

    fallback = secrets.token_hex(8)

    def identity() -> str:
        return f"docker-registry-{hashlib.sha256((store() or fallback).encode()).hexdigest()[:16]}"

    return Mirror(
        registry,
        upstreams,
        user_agent=user_agent,
        via=identity,
        memory=body_memory,
        read_only=read_only,
        is_offline=config.mirroring.offline,
        hosts=config.mirroring.hosts,
        own_names=config.mirroring.own_names,
        external_url=config.external_url,
    )


def _name_filter(upstream: str, allow: Sequence[str], deny: Sequence[str]) -> Callable[[str], bool]:
    """
    Return a predicate for names that match one of the patterns in *allow*, or any if it is empty, and none in *deny*.

    Raises:
        ConfigError: a pattern is invalid.
    """
    from docker_registry.auth.patterns import Pattern

    parsed: list[list[Pattern]] = []
    for texts in (allow, deny):
        parsed.append([])
        for text in texts:
            try:
                parsed[-1].append(Pattern.parse(text))
            except ValueError as error:
                raise ConfigError(f"mirroring.upstreams: {upstream}: the pattern {text} {error}") from None
    allowed, denied = parsed

    def allows(name: str) -> bool:
        is_allowed = not allowed or any(pattern.matches(name) for pattern in allowed)
        return is_allowed and not any(pattern.matches(name) for pattern in denied)

    return allows


def _import_mirror() -> None:
    """
    Import the mirror, which a registry without upstreams does not need.

    Raises:
        ConfigError: the library for HTTP is not installed.
    """
    try:
        import requests  # noqa: F401
    except ImportError:
        raise ConfigError("mirroring.upstreams needs a library: pip install 'docker-registry[mirror]'.") from None
    import docker_registry.registry.mirror.mirror  # noqa: F401


def _redis_address(section: Redis) -> connection.RedisAddress:
    return connection.RedisAddress(
        **{entry.name: getattr(section, entry.name) for entry in fields(connection.RedisAddress)}
    )
