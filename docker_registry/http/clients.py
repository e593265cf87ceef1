"""The client of a request: its address behind trusted proxies, and whether it is a Docker with an incomplete API V2."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from docker_registry.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: The entry for connections by a Unix socket.
UNIX: Final = "unix"

#: Of a longer header, only the end is read: a chain has a few addresses.
_MAX_CHARACTERS: Final = 1024

#: The node of ``for=`` in an element of the header Forwarded (RFC 7239, section 4).
_FORWARDED_FOR: Final = re.compile(
    r'(?:^|[;,\s])for=(?:"\[?([0-9a-f:.]+)\]?(?::\d+)?"|([0-9.]+)(?::\d+)?)', re.IGNORECASE
)

#: Matches the User-Agent of clients that must not see the version header of API V2: Docker up to 1.11 uses API V2 if it
#: sees the header. Without the header each version chooses the protocol that it supports best.
OLD_CLIENTS: Final = re.compile(r"Go-http-client/|Go |docker/1\.(?:[0-9]|10|11)\.")


def _parse(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(
            f"trusted_proxies: {text} must be an address or a network, such as 10.0.0.0/8, or {UNIX}"
        ) from None


class TrustedProxies:
    """
    Finds the address of a client in X-Forwarded-For or Forwarded, which any client can send.

    Each proxy appends the address that it sees. Read from the right, the first address that is no trusted proxy is the
    client; everything to the left of it was written by that client.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """
        Args:
            texts: addresses and networks of proxies; :data:`UNIX` for all that connect by a Unix socket.

        Raises:
            ConfigError: a text is none of these.
        """
        entries = tuple(texts)
        self._trusts_unix = UNIX in entries
        self._networks = tuple(_parse(text) for text in entries if text != UNIX)
        self.is_trusted = lru_cache(maxsize=1024)(self._is_trusted)

    def client_in(self, environ: Mapping[str, Any]) -> str:
        """Return the address of the client of a request, given its WSGI environment."""
        forwarded = environ.get("HTTP_X_FORWARDED_FOR") or environ.get("HTTP_FORWARDED", "")
        return self.client_of(environ.get("REMOTE_ADDR") or "", forwarded)

    def client_of(self, peer: str, forwarded: str) -> str:
        """
        Return the address of a client.

        Args:
            peer: address of the other end of the connection; empty for a Unix socket.
            forwarded: value of X-Forwarded-For or Forwarded.
        """
        if not forwarded or not self.is_trusted(peer):
            return peer
        client = peer
        for address in _addresses(forwarded):
            parsed = parse_address(address)
            if parsed is None:
                return client
            client = str(parsed)  # without the zone of an IPv6 address, which may be any text
            if not self.is_trusted(client):
                return client
        return client

    def _is_trusted(self, address: str) -> bool:
        """Return whether the other end of a connection is a trusted proxy; *address* is empty for a Unix socket."""
        if not address:
            return self._trusts_unix
        parsed = parse_address(address)
        return parsed is not None and any(parsed in network for network in self._networks)


def _addresses(forwarded: str) -> Iterator[str]:
    """Yield the addresses in a header from the right, without ports; other texts for elements without an address."""
    elements = forwarded[-_MAX_CHARACTERS:].split(",")
    if len(forwarded) > _MAX_CHARACTERS:
        del elements[0]  # only a part of it was read
    for element in reversed(elements):
        # Each element by itself: a client may send an X-Forwarded-For that looks like Forwarded.
        yield _address_in(element.strip())


def _address_in(element: str) -> str:
    if "=" in element:
        found = _FORWARDED_FOR.search(element)
        return "" if found is None else found[1] or found[2]
    if element.startswith("["):
        return element[1:].partition("]")[0]
    return element.partition(":")[0] if element.count(":") == 1 else element


def parse_address(text: str | None) -> Address | None:
    """
    Return a network address, IPv4 also if it is mapped into IPv6 and IPv6 without its zone; None if the text is no
    address.
    """
    try:
        address = ipaddress.ip_address((text or "").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
