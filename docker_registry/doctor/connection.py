"""HTTP connections of the doctor: one for each request, so that a proxy may send each one to another replica."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

TIMEOUT_SECONDS: Final = 30.0
_MAX_BYTES: Final = 4 * 1024 * 1024
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; of its body, the first 4 MiB."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        """Return a header by its lower-case name; empty if it is missing."""
        return self.headers.get(name, "")


@dataclass(slots=True)
class Target:
    """
    The registry that is examined, and how to authenticate there.

    Attributes:
        url: scheme, host and port of the registry, as :func:`host_and_port` writes them.
        ca: PEM file of the authorities to trust besides those of the system.
        user: sent with *password* to the token server, or to a registry without one; None for an anonymous client.
        is_verified: whether certificates are verified.
        authorization: value of the Authorization header of all requests; empty for none.
        path: path of the URL below which the registry is; empty at the root of the host.
    """

    url: str
    ca: Path | None = None
    user: str | None = None
    password: str = field(default="", repr=False)
    is_verified: bool = True
    authorization: str = field(default="", repr=False)
    path: str = ""

    def connect(self, url: str | None = None, timeout: float = TIMEOUT_SECONDS) -> http.client.HTTPConnection:
        """
        Open a connection.

        Args:
            url: where to connect to; by default the registry.

        Raises:
            OSError: it cannot be reached, or its certificate is not trusted.
        """
        parts = urlsplit(url or self.url)
        host = parts.hostname or ""
        made: http.client.HTTPConnection
        if parts.scheme == "https":
            made = http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=self._context())
        else:
            made = http.client.HTTPConnection(host, parts.port, timeout=timeout)
        made.connect()
        return made

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """
        Send a request and return the response.

        Args:
            path: the whole path, beginning with :attr:`path`.

        Raises:
            OSError, http.client.HTTPException: no response was received.
        """
        connection = self.connect()
        try:
            sent = {**self.credentials(), **(headers or {})}
            connection.request(method, path, body, sent)
            return read(connection)
        finally:
            connection.close()

    def credentials(self) -> dict[str, str]:
        """Return the headers that authenticate a request."""
        return {"Authorization": self.authorization} if self.authorization else {}

    def basic(self) -> str:
        """Return the value of Authorization for the user's password."""
        credentials = f"{self.user}:{self.password}".encode("utf-8", "surrogateescape")  # as in the environment
        return "Basic " + base64.b64encode(credentials).decode()

    def fetch_token(self, challenge: str, scope: str) -> str:
        """
        Return an access token (distribution's token specification).

        Args:
            challenge: the value of WWW-Authenticate.

        Raises:
            ValueError: the challenge names no token server, the token server refuses, or its response has no token.
            OSError, http.client.HTTPException: it cannot be reached.
        """
        given = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = given.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the realm {realm!r} is not the URL of a token server")
        parameters = parse_qsl(parts.query, keep_blank_values=True)
        query = urlencode([*parameters, ("service", given.get("service", "")), ("scope", scope)])
        connection = self.connect(realm)
        try:
            headers = {"Authorization": self.basic()} if self.user else {}
            connection.request("GET", f"{parts.path or '/'}?{query}", headers=headers)
            answer = read(connection)
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"the token server answers {answer.status}")
        return _token(answer.body)

    def offers_http2(self) -> bool:
        """Return whether the server selects HTTP/2 for a client that supports it (ALPN, RFC 7301)."""
        parts = urlsplit(self.url)
        context = self._context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        address = (parts.hostname or "", parts.port or 443)
        with (
            socket.create_connection(address, TIMEOUT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as encrypted,
        ):
            return encrypted.selected_alpn_protocol() == "h2"

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.ca is not None:
            context.load_verify_locations(self.ca)
        if not self.is_verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def host_and_port(parts: SplitResult) -> str:
    """
    Return host and port of a URL as clients write them in the header Host: in lower case, without the default port.

    Raises:
        ValueError: the port is malformed.
    """
    host, port = parts.hostname or "", parts.port
    host = f"[{host}]" if ":" in host else host
    return host if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f"{host}:{port}"


def _token(body: bytes) -> str:
    """
    Return the token in a response of a token server.

    Raises:
        ValueError: there is none.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    found = (document.get("token") or document.get("access_token")) if isinstance(document, dict) else None
    if not isinstance(found, str):
        raise ValueError("the response of the token server has no token")
    return found


def read(connection: http.client.HTTPConnection) -> Answer:
    """
    Return the response to the request that was sent.

    Raises:
        OSError, http.client.HTTPException: no response was received.
    """
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read(_MAX_BYTES))
