"""The address of a client, and the URL under which it reached the registry, also behind trusted proxies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from flask import request

from docker_registry.auth.client import Address, parse_address

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


class ClientOrigin:
    """Reads the headers that trusted proxies add (X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host)."""

    def __init__(self, trusted_proxies: Iterable[str] = (), external_url: str | None = None) -> None:
        """
        Args:
            trusted_proxies: addresses and networks of proxies.
            external_url: the URL of the registry, such as ``https://registry.example.com``; None to derive it from
                each request.

        Raises:
            ValueError: an entry is neither an address nor a network.
        """
        self._trusted: list[IPv4Network | IPv6Network] = [ip_network(text, strict=False) for text in trusted_proxies]
        self._external_url = external_url.rstrip("/") if external_url else None

    def address(self) -> Address | None:
        """Return the address of the client: the last one in X-Forwarded-For that is not a trusted proxy."""
        address = parse_address(request.remote_addr)
        if self._is_trusted(address):
            for text in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
                told = parse_address(text.strip())
                if told is None:
                    break
                address = told
                if not self._is_trusted(told):
                    break
        return address

    def base_url(self) -> str:
        """Return scheme, host and port as the client used them."""
        if self._external_url is not None:
            return self._external_url
        scheme, host = request.scheme, request.headers.get("Host", "")
        if self._is_trusted(parse_address(request.remote_addr)):
            told = _last(request.headers.get("X-Forwarded-Proto", "")).lower()
            scheme = told if told in ("http", "https") else scheme
            host = _last(request.headers.get("X-Forwarded-Host", "")) or host
        return f"{scheme}://{host if _HOST.fullmatch(host) else request.host}"

    def _is_trusted(self, address: Address | None) -> bool:
        # Without an address the client is connected by a Unix socket.
        return address is None or any(address in network for network in self._trusted)


def _last(text: str) -> str:
    return text.rpartition(",")[2].strip()
