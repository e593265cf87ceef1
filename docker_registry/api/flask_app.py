"""A Flask application without the per-request work that a registry does not need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

from docker_registry.http.clients import TrustedProxies
from docker_registry.http.exchange import Observer
from docker_registry.http.health import Health
from docker_registry.metrics_collector import MetricsCollector
from docker_registry.resources.memory_budget import MemoryBudget


class _NoSessions(SessionInterface):
    """Disables sessions: every request gets the same null session."""

    def __init__(self) -> None:
        self._none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:  # noqa: ARG002 - the same for every request
        """See :class:`SessionInterface`."""
        return self._none

    def is_null_session(self, obj: object) -> bool:
        """See :class:`SessionInterface`."""
        return obj is self._none


class Application(Flask):
    """
    A Flask application without sessions, host matching and coroutines.

    Attributes:
        observers: receive each exchange, if the worker reports them.
        log_format: format of the access log.
        trusted_proxies: proxies whose headers tell the client's address.
        tls: the section ``tls`` of the configuration, for the worker.
        inflight: to which the worker reports the requests in progress.
        health: to which the worker reports that the server is stopping.
        metrics_collector: to which the worker adds its own limits; None if metrics are off.
        body_memory: memory budget for the bodies of all requests.
        serves_v2: whether API V2 is served, so that errors below its paths have its form.
    """

    session_interface = _NoSessions()
    observers: Sequence[Observer] = ()
    log_format: str = "text"
    trusted_proxies: TrustedProxies | None = None
    tls: object = None
    inflight: object = None
    health: Health | None = None
    metrics_collector: MetricsCollector | None = None
    body_memory: MemoryBudget
    serves_v2: bool = True

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match routes by path alone, ignoring the host; see :class:`Flask`."""
        if request is None:
            return None
        return self.url_map.bind("", request.root_path, None, request.scheme, request.method, request.path)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function unchanged, because no view or hook is a coroutine; see :class:`Flask`."""
        return func


class WithoutTrailingSlash:
    """
    A WSGI middleware that makes a trailing slash optional in paths under ``/v1/``.

    Routing rules cannot express this: repository names contain slashes, so ``foo/images/`` would match as a name.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Pass a request on, without the trailing slashes of its path."""
        path = environ.get("PATH_INFO", "")
        if path.endswith("/") and path.startswith("/v1/"):
            environ = {**environ, "PATH_INFO": path.rstrip("/")}
        return self._application(environ, start_response)
