"""
Connections to upstreams for the library ``requests``, with limits that it lacks.

http.client skips any number of interim responses (status 100), without ever waiting while they arrive quickly, so that
no timeout applies. ``requests`` reads the whole body of a redirect, however long, even if it does not follow it.
"""

from __future__ import annotations

import http.client
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final

import urllib3
from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import InsecureRequestWarning

#: Interim responses before a response.
MAX_INTERIM_RESPONSES: Final = 16


class _Response(http.client.HTTPResponse):
    """A response after a limited number of interim responses."""

    _heads = 0

    def _read_status(self) -> tuple[str, int, str]:
        self._heads += 1
        if self._heads > 1 + MAX_INTERIM_RESPONSES:
            raise http.client.HTTPException("too many interim responses")
        status: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        return status


class _Connection(HTTPConnection):
    response_class = _Response


class _TlsConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class UpstreamSession(Session):
    """A session with one upstream, which leaves redirects to its user."""

    def __init__(self, user_agent: str, *, verify: bool | str, client_cert: str | None, max_connections: int) -> None:
        """
        Args:
            verify: whether to verify certificates, or the path of the authorities for them.
            client_cert: path of a certificate and its key.
            max_connections: connections that are kept open.
        """
        super().__init__()
        self.headers.clear()
        # With `identity`, a size is that of the content. Without it, urllib3 would ask for compression.
        self.headers.update({"User-Agent": user_agent, "Accept-Encoding": "identity"})
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self.auth = _without_netrc
        self.verify = verify
        if not verify:  # the operator has decided so
            urllib3.disable_warnings(InsecureRequestWarning)
        self.cert = client_cert
        adapter = UpstreamAdapter(pool_maxsize=max_connections)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: Response) -> None:
        """Return None: otherwise the whole body of a redirect would be read, and its Location parsed, unchecked."""


class UpstreamAdapter(HTTPAdapter):
    """Sends the requests of a session to upstreams, directly or through proxies."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See :class:`HTTPAdapter`."""
        super().init_poolmanager(*args, **options)
        _limit(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """See :class:`HTTPAdapter`."""
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):  # these have connections of their own kind
            _limit(manager)
        return manager


def _without_netrc(request: PreparedRequest) -> PreparedRequest:
    """Leave a request as it is; without any authentication, requests would send that of ``~/.netrc``."""
    return request


def _limit(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
