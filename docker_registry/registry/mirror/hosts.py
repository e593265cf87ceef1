"""Decides which other hosts an upstream may send this registry to."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final
from urllib.parse import urljoin, urlsplit

from requests.utils import get_environ_proxies, select_proxy

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_ADDRESSES: Final = 32


def host_of(url: str) -> str:
    """Return the host of a valid URL."""
    return urlsplit(url).hostname or ""


def is_same_origin(url: str, other: str) -> bool:
    """Return whether two URLs have the same scheme, host and port."""
    return _origin(url) == _origin(other)


def is_related(host: str, upstream_host: str) -> bool:
    """
    Return whether two hosts are the same or belong to one registrable domain, such as ``docker.io``.

    Without the library ``publicsuffixlist``, and for addresses, only equal hosts are related.
    """
    host, upstream_host = host.lower().rstrip("."), upstream_host.lower().rstrip(".")
    if host == upstream_host:
        return True
    if _literal(host) is not None or _literal(upstream_host) is not None:
        return False
    domain = _registrable(host)
    return domain is not None and domain == _registrable(upstream_host)


def is_safe_token_server(host: str, upstream_host: str) -> bool:
    """
    Return whether all addresses of a token server are public, or the upstream has them too.

    Raises:
        OSError: the host cannot be resolved.
    """
    if host == upstream_host:
        return True
    addresses = _addresses(host)
    if not addresses:
        return False
    inside = {address for address in addresses if not _is_public(address)}
    return not inside or inside <= set(_known_addresses(upstream_host))


def is_safe_redirect(host: str, upstream_host: str) -> bool:
    """
    Return whether an upstream may redirect to a host.

    A public upstream may not redirect to a private address, and none to the link-local address of another host, where
    clouds serve credentials of their machines.

    Raises:
        OSError: the host cannot be resolved.
    """
    if host == upstream_host:
        return True
    addresses = _addresses(host)
    if not addresses or any(address.is_link_local or address.is_multicast for address in addresses):
        return False
    return all(map(_is_public, addresses)) or not all(map(_is_public, _known_addresses(upstream_host)))


def redirect_target(url: str, location: str, upstream_url: str) -> str | None:
    """
    Return the target of a redirect.

    Args:
        url: of the request.
        location: the Location header of the response.

    Returns:
        None if the target is no URL of HTTP, is less safe than the URL, or is an address inside a network that the
        upstream is outside of.

    Raises:
        OSError: the host of the target cannot be resolved.
    """
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        scheme, host, _ = parts.scheme, parts.hostname or "", parts.port
    except ValueError:  # invalid, also if only the port is
        return None
    is_safe = bool(host) and (scheme == "https" or (scheme == "http" and urlsplit(url).scheme == "http"))
    if is_safe and not is_proxied(target):
        is_safe = is_safe_redirect(host, urlsplit(upstream_url).hostname or "")
    return target if is_safe else None


def is_proxied(url: str) -> bool:
    """Return whether the environment names a proxy for a URL, which then looks up the host."""
    return bool(select_proxy(url, get_environ_proxies(url)))


def _is_public(address: _Address) -> bool:
    """Return whether hosts outside of the own site may have an address."""
    return address.is_global and not address.is_multicast


def _registrable(host: str) -> str | None:
    try:
        from publicsuffixlist import PublicSuffixList
    except ImportError:
        return None
    # Parsing its list takes a tenth of a second, so callers remember the result.
    domain: str | None = PublicSuffixList().privatesuffix(host)
    return domain


def _addresses(host: str) -> list[_Address]:
    """Return the addresses of a host; none if it is no valid name. Raises OSError if it cannot be resolved."""
    literal = _literal(host)
    if literal is not None:
        return [literal]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[:_MAX_ADDRESSES]
    except UnicodeError:
        return []
    return [address for each in found if (address := _literal(str(each[4][0]))) is not None]


def _known_addresses(host: str) -> list[_Address]:
    """Return the addresses of a host; none if it cannot be resolved here, such as one that a proxy looks up."""
    try:
        return _addresses(host)
    except OSError:
        return []


def _literal(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
