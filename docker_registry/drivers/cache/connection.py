"""
Create Redis clients: by host and port, by URL, over TLS, over a Unix socket, or through Sentinel.

Connections are opened on first use. No message of this module contains a password or a URL.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from docker_registry.errors import ConfigError

if TYPE_CHECKING:
    from redis import Redis

_SENTINEL_PORT: Final = 26379

#: redis-py 8 refuses to open a 101st connection unless a limit is given. Concurrent requests of one process may need
#: more, and each failure would disable the cache for seconds.
_MAX_CONNECTIONS: Final = 2**31


@dataclass(frozen=True, kw_only=True, repr=False)  # a repr would show the passwords
class RedisAddress:
    """
    The address and credentials of Redis.

    Attributes:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, instead of *host*; see redis-py, ``Redis.from_url``.
        sentinels: ``host`` or ``host:port`` of each Sentinel, instead of *host*; they name the master of
            *sentinel_service*.
        tls_ca: PEM file of the CA certificates to trust; None trusts those of the system.
    """

    host: str | None = None
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = None
    url: str | None = None
    sentinels: Sequence[str] = ()
    sentinel_service: str = "mymaster"
    sentinel_password: str | None = None
    tls: bool = False
    tls_ca: Path | None = None

    @property
    def is_set(self) -> bool:
        """Whether Redis is configured."""
        return bool(self.host or self.url or self.sentinels)

    def __str__(self) -> str:
        """Return the address for log messages, without credentials."""
        if self.sentinels:
            return f"{self.sentinel_service} of {', '.join(self.sentinels)}"
        if self.url:
            parts = urlsplit(self.url)
            return parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2]
        return f"{self.host}:{self.port}"


def connect(
    address: RedisAddress, section: str, *, timeout_seconds: float, response_seconds: float | None = None
) -> Redis:
    """
    Create a client that connects on first use and never retries a command.

    Args:
        section: section of the configuration, for error messages.
        timeout_seconds: timeout of connecting and of every response.
        response_seconds: timeout of every response, if it differs.

    Raises:
        ConfigError: the address is contradictory or malformed, or redis-py is not installed.
    """
    addresses = [name for name in ("host", "url", "sentinels") if getattr(address, name)]
    if len(addresses) > 1:
        raise ConfigError(f"{section}.{addresses[0]} and {section}.{addresses[1]} are both set; set only one of them")
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ModuleNotFoundError:
        raise ConfigError(
            f"{section}.{addresses[0]}: the Redis library is missing: pip install 'docker-registry[redis]'"
        ) from None
    options: dict[str, Any] = {
        "socket_connect_timeout": timeout_seconds,
        "socket_timeout": response_seconds or timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": _MAX_CONNECTIONS,
    }
    credentials = {"username": address.username, "password": address.password}
    credentials = {name: value for name, value in credentials.items() if value}
    options |= {**credentials, "db": address.db}
    if address.url:
        return _from_url(address, address.url, section, options)
    options |= _tls(address)
    if address.sentinels:
        return _master(address, section, options)
    if not _can_be_looked_up(address.host or ""):
        raise ConfigError(f"{section}.host must be the name or address of a host")
    return Redis(address.host or "", address.port, **options)


def _tls(address: RedisAddress) -> dict[str, Any]:
    if not address.tls:
        return {}
    return {"ssl": True, "ssl_ca_certs": str(address.tls_ca) if address.tls_ca else None}


def _from_url(address: RedisAddress, url: str, section: str, options: dict[str, Any]) -> Redis:
    from redis import Redis
    from redis.exceptions import RedisError

    if address.tls and not url.startswith("rediss:"):
        raise ConfigError(f"{section}.tls is true, so {section}.url must begin with rediss://")
    if address.tls_ca and url.startswith("rediss:"):
        options["ssl_ca_certs"] = str(address.tls_ca)
    try:
        (urlsplit(url).hostname or "").encode("idna")  # as a name lookup does
        client = Redis.from_url(url, **options)
        pool = client.connection_pool
        is_decoded = pool.connection_class(**pool.connection_kwargs).encoder.decode_responses
    except (ValueError, TypeError, RedisError):  # do not include its text, which may show the URL
        raise ConfigError(
            f"{section}.url must be redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH?db=DB, "
            "and may have no other options than redis-py knows"
        ) from None
    if is_decoded:
        raise ConfigError(f"{section}.url must not set decode_responses")
    return client


def _master(address: RedisAddress, section: str, options: dict[str, Any]) -> Redis:
    from redis.sentinel import Sentinel

    sentinel_options = {name: value for name, value in options.items() if name not in ("db", "username", "password")}
    sentinel = Sentinel(  # type: ignore[no-untyped-call] # redis-py lacks these annotations
        [_address(text, section) for text in address.sentinels],
        sentinel_kwargs={**sentinel_options, "password": address.sentinel_password},
    )
    master: Redis = sentinel.master_for(address.sentinel_service, **options)  # type: ignore[no-untyped-call]
    return master


def _address(text: str, section: str) -> tuple[str, int]:
    address, _, last = text.rpartition(":")
    with suppress(ValueError):  # an IPv6 address may lack its brackets if it is followed by a port
        text = f"[{IPv6Address(address)}]:{last}"
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port or _SENTINEL_PORT
    except ValueError:
        host, port = "", 0
    if not host or parts.netloc != text or "@" in text or not _can_be_looked_up(host):
        raise ConfigError(f"{section}.sentinels must be a list of HOST or HOST:PORT")
    return host, port


def _can_be_looked_up(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True
