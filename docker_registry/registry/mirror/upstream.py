"""
Upstreams: the registries that are mirrored, and the repositories that mirror them.

``docker.io/library/alpine`` here is ``library/alpine`` of the upstream ``docker.io``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from docker_registry.errors import ConfigError
from docker_registry.registry.names import is_repository_name

#: Schemes of upstreams, and their default ports.
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """
    A mirrored registry.

    Attributes:
        name: the first component of the names of its repositories here.
        url: scheme and host, and optionally a path below which API V2 is served; without a slash at the end.
        ttl_seconds: how long the target of a tag is served before the upstream is asked again.
        timeout_seconds: how long the upstream may send nothing.
        max_connections: transfers of blobs at the same time, for each worker.
    """

    name: str
    url: str
    ttl_seconds: float = 300
    timeout_seconds: float = 30
    max_connections: int = 32

    @property
    def address(self) -> str:
        """Host and port of the upstream, without the port if it is the default of its scheme."""
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port
        return host if port in (None, _PORTS[parts.scheme]) else f"{host}:{port}"


class Upstreams:
    """All mirrored registries."""

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        """
        Raises:
            ConfigError: two upstreams have the same name.
        """
        self._by_name: dict[str, Upstream] = {}
        for upstream in upstreams:
            if self._by_name.setdefault(upstream.name, upstream) is not upstream:
                raise ConfigError(f"mirroring.upstreams: two upstreams are named {upstream.name}")

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._by_name.values())

    def find(self, name: str) -> tuple[Upstream, str] | None:
        """
        Return the upstream that a repository mirrors, and the name of the repository there.

        Args:
            name: the repository's name here.

        Returns:
            None for a repository that mirrors nothing.
        """
        host, _, rest = name.partition("/")
        upstream = self._by_name.get(host) if rest else None
        return None if upstream is None else (upstream, rest)

    def is_mirrored(self, name: str) -> bool:
        """Return whether a repository mirrors another one, so that clients cannot change it."""
        return self.find(name) is not None


def parse_upstream(name: str, url: str, **options: Any) -> Upstream:
    """
    Check the name and the URL of an upstream.

    Args:
        options: the other fields of :class:`Upstream`.

    Raises:
        ConfigError: the name cannot be the first component of a repository's name, or the URL is invalid.
    """
    place = f"mirroring.upstreams: {name[:255]}:"
    if "/" in name or not is_repository_name(name):
        raise ConfigError(f"{place} the name must be the first part of repository names, such as docker.io")
    try:
        parts = urlsplit(url)
        is_valid = _is_valid(parts)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ConfigError(
            f"{place} the url must be http://HOST or https://HOST, without credentials, query or fragment"
        )
    return Upstream(name=name, url=url.rstrip("/"), **options)


def _is_valid(parts: SplitResult) -> bool:
    """Raises ValueError for a port that is no number."""
    has_host = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    return has_host and "@" not in parts.netloc and not parts.query and not parts.fragment
