"""Opens the mirrors of the configured registries."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from docker_registry import __version__
from docker_registry.config.schema import Config
from docker_registry.drivers.store_identity import StoreIdentity
from docker_registry.errors import ConfigError
from docker_registry.http.exchange import Exchange, Observer, Repetitions
from docker_registry.metrics.recorder import MirrorRecorder
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.read_only import ReadOnly
from docker_registry.resources.memory_budget import MemoryBudget
from docker_registry.services.metrics_collector import MetricsCollector

if TYPE_CHECKING:
    from docker_registry.registry.bridge.bridge import Bridge
    from docker_registry.registry.mirror.mirror import Mirror
    from docker_registry.registry.mirror.pulls import Pulls
    from docker_registry.registry.mirror.upstream import Upstream
    from docker_registry.registry.v1.legacy_registry import LegacyRegistry
    from docker_registry.registry.v1_mirror.v1_mirror import V1Mirror

_USER_AGENT: Final = f"docker-registry/{__version__}"

#: The routes by which clients pull, and the status codes of pulls.
_MANIFEST: Final = "v2_manifests.get_manifest"
_PULLS: Final = frozenset({_MANIFEST, "v2_blobs.get_blob"})
_IMAGE_PULLS: Final = frozenset(
    {f"{blueprint}.{view}" for blueprint in ("v1_images", "v1_private_images") for view in ("get_json", "get_layer")}
)
_PULLED: Final = frozenset({200, 206, 302, 304, 307})


def open_mirror(config: Config, registry: OciRegistry, body_memory: MemoryBudget, read_only: ReadOnly) -> Mirror | None:
    """
    Open the mirror of the configured upstreams and of ``mirroring.source``, as the last source of a registry.

    Raises:
        ConfigError: an upstream is invalid, or the library for HTTP is not installed.
    """
    source = config.mirroring.source
    if source is not None and not config.v1:
        raise ConfigError("mirroring.source mirrors for API V1, which is not served (v1); see mirroring.upstreams")
    if config.mirroring.default is not None and config.v1:
        raise ConfigError("mirroring.default makes the registry a mirror for API V2 alone; set v1: false")
    if not _has_mirror(config):
        return None
    load_mirrors(config)
    from docker_registry.registry.mirror.mirror import Mirror
    from docker_registry.registry.mirror.platforms import parse_platforms
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
            platforms=parse_platforms(f"mirroring.upstreams: {each.name}:", each.platforms),
        )
        upstreams[upstream] = open_credentials(upstream, each.username, each.password, each.password_file, each.command)
    if source is not None:
        upstreams.setdefault(_source(config, source, upstreams), None)
    return Mirror(
        registry,
        upstreams,
        user_agent=_USER_AGENT,
        via=_identity(registry),
        memory=body_memory,
        read_only=read_only,
        is_offline=config.mirroring.offline,
        hosts=config.mirroring.hosts,
        own_names=config.mirroring.own_names,
        external_url=config.external_url,
        default=config.mirroring.default,
        max_bytes=config.mirroring.max_bytes,
        max_age_seconds=config.mirroring.max_age,
    )


def open_v1_mirror(
    config: Config,
    registry: OciRegistry,
    legacy: LegacyRegistry | None,
    bridge: Bridge | None,
    body_memory: MemoryBudget,
    read_only: ReadOnly,
    mirror: Mirror | None,
) -> V1Mirror | None:
    """
    Open the mirror of the registry that ``mirroring.source`` names, as a source of API V1.

    Also has the copies of layers that API V1 sends evicted with mirrored content, and pulls by API V1 recorded.

    Args:
        legacy: None where API V1 is not open.
        bridge: None where API V1 is not open.
        mirror: the mirror of upstreams, of which the registry is one.

    Raises:
        ConfigError: the URL of the index is invalid.
    """
    if mirror is None or legacy is None or bridge is None:
        return None
    if mirror.eviction is not None:
        mirror.eviction.copies = bridge.copies
    if mirror.pulls is not None:
        mirror.pulls.image_links = partial(bridge.images.links, is_wanted=mirror.upstreams.is_mirrored)
    if config.mirroring.source is None:
        return None
    from docker_registry.registry.mirror.upstream import parse_source
    from docker_registry.registry.v1_mirror.v1_mirror import V1Mirror

    index = config.mirroring.source_index
    v1_mirror = V1Mirror(
        registry,
        legacy,
        bridge.images,
        mirror.client(_source(config, config.mirroring.source, mirror.upstreams).name).connection,
        None if index is None else parse_source("mirroring.source_index", index),
        mirror.transfers,
        user_agent=_USER_AGENT,
        via=mirror.via,
        memory=body_memory,
        read_only=read_only,
        tags_ttl_seconds=config.mirroring.tags_cache_ttl,
        is_offline=config.mirroring.offline,
        is_mirrored=mirror.upstreams.is_mirrored,
    )
    if mirror.pulls is not None and mirror.eviction is not None:
        mirror.pulls.image_links = v1_mirror.pull_links
        mirror.eviction.images = v1_mirror.stored_images
    return v1_mirror


def record_mirror(mirror: Mirror | None, collector: MetricsCollector | None) -> MirrorRecorder | None:
    """
    Return the recorder of the requests for mirrored content; None if nothing is mirrored.

    Args:
        collector: to which the numbers are added; None if metrics are off.
    """
    if mirror is None:
        return None
    recorder = MirrorRecorder(each.name for each in mirror.upstreams)
    if collector is not None:
        collector.watch_mirror(recorder, mirror.pulled_bytes)
    return recorder


def _source(config: Config, url: str, upstreams: Iterable[Upstream]) -> Upstream:
    """
    Return the upstream that ``mirroring.source`` names: one of the configured ones with the same name or address.

    Raises:
        ConfigError: the URL is invalid.
    """
    from docker_registry.registry.mirror.upstream import parse_source

    source = parse_source("mirroring.source", url, config.mirroring.tags_cache_ttl)
    same = [each for each in upstreams if each.name == source.name or each.address == source.address]
    return same[0] if same else source


def _identity(registry: OciRegistry) -> Callable[[], str]:
    """Return a function that returns the name of the registry in Via headers, the same on all hosts of its store."""
    store, fallback = StoreIdentity(registry.driver), secrets.token_hex(8)
    return lambda: f"docker-registry-{hashlib.sha256((store() or fallback).encode()).hexdigest()[:16]}"


def pull_observers(mirror: Mirror | None) -> list[Observer]:
    """Return the observer of requests that records pulls of mirrored content, if some of it is ever evicted."""
    pulls = mirror.pulls if mirror is not None else None
    return [] if pulls is None else [PullObserver(pulls)]


class PullObserver:
    """Records pulls of mirrored content; an observer of exchanges."""

    def __init__(self, pulls: Pulls) -> None:
        self._pulls = pulls

    def __call__(self, exchange: Exchange) -> None:
        """Record an exchange if it is a pull."""
        if exchange.status not in _PULLED:
            return
        if exchange.route in _PULLS:
            self._pulls.add(exchange.repository, exchange.digest, is_manifest=exchange.route == _MANIFEST)
        elif exchange.route in _IMAGE_PULLS:
            self._pulls.add_image(exchange.reference)

    def prepare(self, exchange: Exchange) -> Exchange:
        """See :class:`~docker_registry.http.exchange.BatchObserver`."""
        return exchange

    def observe_repeated(self, prepared: Sequence[Exchange], repeated: Repetitions) -> None:  # noqa: ARG002
        """Record exchanges that were answered from the response cache; repetitions of one are one pull."""
        for exchange in {id(each): each for each in prepared}.values():
            self(exchange)


def _name_filter(upstream: str, allow: Sequence[str], deny: Sequence[str]) -> Callable[[str], bool]:
    """
    Return a predicate for names that match one of the patterns in *allow*, or any if it is empty, and none in *deny*.

    Raises:
        ConfigError: a pattern is invalid.
    """
    from docker_registry.auth.rules.patterns import Pattern

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


def load_mirrors(config: Config) -> None:
    """
    Import the mirrors that a configuration needs.

    Raises:
        ConfigError: the library for HTTP is not installed.
    """
    if not _has_mirror(config):
        return
    try:
        import requests  # noqa: F401
    except ImportError:
        raise ConfigError("mirroring needs a library: pip install 'docker-registry[mirror]'.") from None
    import docker_registry.registry.mirror.mirror

    if config.mirroring.source is not None and config.v1:
        import docker_registry.registry.v1_mirror.v1_mirror  # noqa: F401


def _has_mirror(config: Config) -> bool:
    mirroring = config.mirroring
    return bool(mirroring.upstreams) or mirroring.source is not None or mirroring.default is not None
