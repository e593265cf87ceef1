"""Opens the mirror of the configured upstream registries."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from docker_registry import __version__
from docker_registry.config.schema import Config
from docker_registry.drivers.store_identity import StoreIdentity
from docker_registry.errors import ConfigError
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.read_only import ReadOnly
from docker_registry.resources.memory_budget import MemoryBudget

if TYPE_CHECKING:
    from docker_registry.registry.mirror.mirror import Mirror


def open_mirror(config: Config, registry: OciRegistry, body_memory: MemoryBudget, read_only: ReadOnly) -> Mirror | None:
    """
    Open the mirror of the configured upstreams, as the last source of a registry.

    Raises:
        ConfigError: an upstream is invalid, or the library for HTTP is not installed.
    """
    if not config.mirroring.upstreams:
        return None
    import_mirror()
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


def import_mirror() -> None:
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
