"""The separate address of the metrics; every worker listens there, and answers for all."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

import gevent

from docker_registry.errors import ConfigError
from docker_registry.metrics.server_metrics import ServerMetrics

#: Connections that a worker serves here at the same time; further ones wait.
_MAX_CONNECTIONS: Final = 64

#: Time from the beginning of a connection in which the response must have been sent.
_MAX_SECONDS: Final = 30.0

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]*)):([0-9]{1,5})")


def parse_address(text: str) -> tuple[str, int]:
    """
    Parse ``HOST:PORT``, ``[IPv6]:PORT`` or ``:PORT``.

    Raises:
        ConfigError: it is something else.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found[3]) < 65536:
        raise ConfigError("metrics_address must be HOST:PORT, such as 127.0.0.1:9090.")
    return found[1] or found[2] or "0.0.0.0", int(found[3])  # noqa: S104 - intended


def open_socket(text: str) -> socket.socket:
    """
    Listen on an address that other workers listen on, too.

    Raises:
        ConfigError: the address is invalid or cannot be used.
    """
    host, port = parse_address(text)
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(64)
    except UnicodeError:
        raise ConfigError(f"metrics_address: {text} is not the name or address of a host.") from None
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ConfigError(f"metrics_address: {text} cannot be opened for listening: {error.strerror}.") from None
    return listener


def serve(metrics: ServerMetrics, text: str) -> None:
    """
    Serve ``/metrics`` on an address, in greenlets; one request for each connection.

    Raises:
        ConfigError: as for :func:`open_socket`.
    """
    from gevent.pywsgi import WSGIHandler, WSGIServer

    class Handler(WSGIHandler):
        def handle(self) -> None:
            with gevent.Timeout(_MAX_SECONDS, gevent.GreenletExit):  # which is not logged
                super().handle()

    listener = open_socket(text)
    WSGIServer(
        listener, application(metrics), log=None, error_log=None, handler_class=Handler, spawn=_MAX_CONNECTIONS
    ).start()


def application(metrics: ServerMetrics) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """Return a WSGI application that answers ``GET /metrics``."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/metrics" or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("404 Not Found", [("Content-Length", "0"), ("Connection", "close")])
            return []
        content, content_type = metrics.scrape(environ.get("HTTP_ACCEPT", ""))
        headers = [("Content-Type", content_type), ("Content-Length", str(len(content))), ("Connection", "close")]
        start_response("200 OK", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]

    return answer
