"""
Connections to upstreams for the library ``requests``, with limits that it lacks.

http.client skips any number of interim responses (status 100), without ever waiting while they arrive quickly, so that
no timeout applies. ``requests`` reads the whole body of a redirect, however long, even if it does not follow it.
"""

from __future__ import annotations

import http.client
from typing import Any, Final

from requests import Response, Session
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

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
    """A session that leaves redirects to its user."""

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


def _limit(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
