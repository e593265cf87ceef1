"""The address of a client, and the URL under which it reached the registry, also behind trusted proxies."""

from __future__ import annotations

from flask import request

from docker_registry.http.clients import Address, TrustedProxies, parse_address
from docker_registry.http.external_url import HOST, ExternalUrl


class ClientOrigin:
    """Reads the headers that trusted proxies add."""

    def __init__(self, proxies: TrustedProxies, external_url: ExternalUrl) -> None:
        self._proxies = proxies
        self._origin = external_url.origin

    def address(self) -> Address | None:
        """Return the address of the client; None if it is connected by a Unix socket and no proxy reports one."""
        return parse_address(self._proxies.client_in(request.environ))

    def base_url(self) -> str:
        """Return scheme, host and port as the client used them, and the path below which the registry is."""
        return f"{self._origin or self._origin_of_request()}{request.environ.get('SCRIPT_NAME', '')}"

    def _origin_of_request(self) -> str:
        scheme, host = request.scheme, request.headers.get("Host", "")
        if self._proxies.is_trusted(request.remote_addr or ""):
            forwarded = _last(request.headers.get("X-Forwarded-Proto", "")).lower()
            scheme = forwarded if forwarded in ("http", "https") else scheme
            host = _last(request.headers.get("X-Forwarded-Host", "")) or host
        return f"{scheme}://{host if HOST.fullmatch(host) else request.host}"


def _last(text: str) -> str:
    return text.rpartition(",")[2].strip()
