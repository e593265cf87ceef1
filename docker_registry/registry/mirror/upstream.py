"""
Upstreams: the registries that are mirrored, and the repositories that mirror them.

``docker.io/library/alpine`` here is ``library/alpine`` of the upstream ``docker.io``.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from docker_registry.errors import ConfigError
from docker_registry.registry.mirror.credentials import (
    Credentials,
    FileCredentials,
    FixedCredentials,
    HelperCredentials,
)
from docker_registry.registry.mirror.platforms import Platform
from docker_registry.registry.names import is_repository_name

#: Schemes of upstreams, and their default ports.
_PORTS: Final = {"https": 443, "http": 80}

#: The name of Docker Hub in images, and the hosts on which it has served the APIs.
_DOCKER_HUB: Final = "docker.io"
_DOCKER_HUB_HOSTS: Final = frozenset(
    {"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}
)


def all_names(name: str) -> bool:  # noqa: ARG001
    """Return True: every repository may be mirrored."""
    return True


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
        token_hosts: further hosts whose token servers may receive the password, in lower case without ports.
        is_insecure: whether passwords may be sent by plain HTTP, and certificates are not verified.
        ca: PEM file of the certificate authorities that sign its certificate; None for those of the system.
        client_cert: PEM file with the certificate and the key of this registry.
        allows: whether a repository may be mirrored, by its name at the upstream.
        platforms: those for which images of indexes are fetched; all when empty.
    """

    name: str
    url: str
    ttl_seconds: float = 300
    timeout_seconds: float = 30
    max_connections: int = 32
    token_hosts: tuple[str, ...] = ()
    is_insecure: bool = False
    ca: Path | None = None
    client_cert: Path | None = None
    allows: Callable[[str], bool] = all_names
    platforms: tuple[Platform, ...] = ()

    @property
    def address(self) -> str:
        """Host and port of the upstream, as in a Host header; without the port if it is the default of its scheme."""
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port
        host = f"[{host}]" if ":" in host else host
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
        ConfigError: the name cannot be the first component of a repository's name, the URL is invalid, or a file of
            certificates cannot be used.
    """
    prefix = f"mirroring.upstreams: {name[:255]}:"
    if "/" in name or not is_repository_name(name):
        raise ConfigError(f"{prefix} the name must be the first part of repository names, such as docker.io")
    try:
        parts = urlsplit(url)
        is_valid = _is_valid(parts)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ConfigError(
            f"{prefix} the url must be http://HOST or https://HOST, without credentials, query or fragment"
        )
    options["token_hosts"] = tuple(map(_host, options.get("token_hosts", ())))
    upstream = Upstream(name=name, url=url.rstrip("/"), **options)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _check_file(f"{prefix} ca", upstream.ca, tls.load_verify_locations)
    # Without a password, OpenSSL would ask for that of an encrypted key on the terminal.
    _check_file(f"{prefix} client_cert", upstream.client_cert, lambda path: tls.load_cert_chain(path, password=""))
    return upstream


def _host(text: str) -> str:
    """Return the host of a configured HOST, HOST:PORT or URL, as it is in parsed URLs; other text as it is."""
    authority = text.rpartition("://")[2].partition("/")[0]
    if authority.count(":") > 1 and not authority.startswith("["):  # an address of IPv6
        authority = f"[{authority}]"
    try:
        return urlsplit(f"//{authority}").hostname or text
    except ValueError:
        return text


def _check_file(place: str, path: Path | None, load: Callable[[Path], object]) -> None:
    """
    Raises:
        ConfigError: the file cannot be loaded.
    """
    try:
        if path is not None:
            load(path)
    except ssl.SSLError as error:
        raise ConfigError(f"{place} {path} cannot be used: {error.reason}") from None
    except OSError as error:
        raise ConfigError(f"{place} {path} cannot be read: {error.strerror}") from None


def parse_source(setting: str, url: str, ttl_seconds: float = 300) -> Upstream:
    """
    Return the upstream that a setting names by its URL alone; its name is derived from the host.

    Args:
        setting: name of the setting.
        ttl_seconds: see :class:`Upstream`.

    Raises:
        ConfigError: the URL is invalid.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        address = host if port in (None, _PORTS.get(parts.scheme)) else f"{host}-{port}"
        name = _DOCKER_HUB if host in _DOCKER_HUB_HOSTS else re.sub("[^a-z0-9.-]+", "-", address).strip("-.")
        return parse_upstream(name, url, ttl_seconds=ttl_seconds)
    except (ValueError, ConfigError):
        raise ConfigError(
            f"{setting} must be http://HOST or https://HOST, without credentials, query or fragment"
        ) from None


def open_credentials(
    upstream: Upstream,
    username: str | None,
    password: str | None,
    password_file: Path | None,
    command: str | None,
) -> Credentials | None:
    """
    Return the configured credentials of an upstream; None for anonymous access.

    Raises:
        ConfigError: they are incomplete, contradict each other, cannot be read, or would be sent by plain HTTP.
    """
    prefix = f"mirroring.upstreams: {upstream.name}:"
    given = [each for each in (password, password_file, command) if each is not None]
    if len(given) > 1:
        raise ConfigError(f"{prefix} password, password_file and command exclude each other")
    if not given and username is None:
        return None
    if command is not None and username is not None:
        raise ConfigError(f"{prefix} username and command exclude each other: the command returns the user name too")
    if not given or (username is None and command is None):
        raise ConfigError(f"{prefix} a username needs a password or password_file, and these need a username")
    if urlsplit(upstream.url).scheme == "http" and not upstream.is_insecure:
        raise ConfigError(f"{prefix} a password is sent by https only, or with insecure: true")
    if command is not None:
        return HelperCredentials(command, upstream.url)
    if password_file is not None:
        return FileCredentials(username or "", password_file)
    return FixedCredentials(username or "", password or "")


def _is_valid(parts: SplitResult) -> bool:
    """Raises ValueError for a port that is no number."""
    has_host = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    return has_host and "@" not in parts.netloc and not parts.query and not parts.fragment
