"""
Connections to upstreams for the library ``requests``, with limits that it lacks.

http.client skips any number of interim responses (status 100), without ever waiting while they arrive quickly, so that
no timeout applies. ``requests`` reads the whole body of a redirect, however long, even if it does not follow it.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final

import requests
import urllib3
from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import InsecureRequestWarning, ProtocolError

#: Interim responses before a response.
MAX_INTERIM_RESPONSES: Final = 16

#: Time in which a connection must be made, at most; the timeout of the upstream may be shorter.
_CONNECT_SECONDS: Final = 10.0


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

    def __init__(
        self,
        user_agent: str,
        via: Callable[[], str],
        *,
        verify: bool | str,
        client_cert: str | None,
        timeout_seconds: float,
        max_connections: int,
    ) -> None:
        """
        Args:
            via: returns the name of this registry in Via headers.
            verify: whether to verify certificates, or the path of the authorities for them. For servers that may not
                receive the certificate of this registry, public authorities are trusted as well.
            client_cert: path of a certificate and its key, for the servers that may receive it.
            timeout_seconds: how long a server may send nothing.
            max_connections: idle connections to each host that are kept open.
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
        self._via = via
        self._client_cert = client_cert
        self._timeouts = min(_CONNECT_SECONDS, timeout_seconds), timeout_seconds
        adapter = UpstreamAdapter(verify if isinstance(verify, str) else None, pool_maxsize=max_connections)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def open(self, method: str, url: str, headers: Mapping[str, str], *, is_trusted: bool) -> Response:
        """
        Send a request; once more if its connection was closed, as servers close idle ones at any time.

        Args:
            is_trusted: whether the server may receive the certificate of this registry.
        """
        for is_last in (False, True):
            try:
                response = self.request(
                    method,
                    url,
                    headers={"Via": f"1.1 {self._via()}", **headers},
                    stream=True,
                    allow_redirects=False,
                    timeout=self._timeouts,
                    # With True, REQUESTS_CA_BUNDLE of the environment has precedence.
                    verify=self.verify if is_trusted else bool(self.verify),
                    cert=self._client_cert if is_trusted else None,
                )
                if method == "HEAD":
                    response.raw.drain_conn()  # nothing is left to read, but close() alone would end the connection
                return response
            except requests.ConnectionError as error:
                if is_last or not (error.args and isinstance(error.args[0], ProtocolError)):
                    raise
        raise AssertionError

    def get_redirect_target(self, resp: Response) -> None:
        """Return None: otherwise the whole body of a redirect would be read, and its Location parsed, unchecked."""


class UpstreamAdapter(HTTPAdapter):
    """Sends the requests of a session to upstreams, directly or through proxies."""

    def __init__(self, authorities: str | None, **options: Any) -> None:
        """
        Args:
            authorities: PEM file of private authorities, or None. They are trusted besides the public ones by requests
                that are not verified by this file alone.
            options: see :class:`HTTPAdapter`.
        """
        self._authorities = authorities
        super().__init__(**options)

    def build_connection_pool_key_attributes(
        self, request: PreparedRequest, verify: bool | str, cert: Any = None
    ) -> tuple[Any, Any]:
        """See :class:`HTTPAdapter`."""
        host, options = super().build_connection_pool_key_attributes(request, verify, cert)
        if self._authorities is None or verify in (False, self._authorities):
            return host, options
        # ssl accepts a text of certificates only if it is ASCII, but the comments between them need not be.
        text = Path(self._authorities).read_text("ascii", "ignore")
        # Some versions of requests share one SSL context, which must not get these authorities.
        return host, {**options, "ssl_context": None, "ca_cert_data": text}

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
