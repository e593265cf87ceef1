"""A Flask application without the per-request work that a registry does not need, and the WSGI middleware around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

from docker_registry import dependencies
from docker_registry.http.clients import TrustedProxies
from docker_registry.http.exchange import Observer
from docker_registry.http.external_url import ExternalUrl, path_prefix
from docker_registry.http.health import Health
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
    metrics_collector: object = None
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


class PathPrefix:
    """
    A WSGI middleware that serves the registry below a path.

    The path is that of ``external_url``, or X-Forwarded-Prefix of a trusted proxy, or SCRIPT_NAME of the WSGI server.
    It is removed from the path of the request, unless the proxy has done so, and added to Location and Link.
    """

    def __init__(
        self, application: Callable[..., Iterable[bytes]], proxies: TrustedProxies, external_url: ExternalUrl
    ) -> None:
        self._application = application
        self._proxies = proxies
        self._path = external_url.path

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Pass a request on, with the prefix in SCRIPT_NAME."""
        prefix = self._path or self._forwarded(environ) or environ.get("SCRIPT_NAME", "")
        if not prefix:
            return self._application(environ, start_response)
        environ["SCRIPT_NAME"] = prefix
        path = environ.get("PATH_INFO", "")
        if path == prefix or path.startswith(f"{prefix}/"):
            environ["PATH_INFO"] = path[len(prefix) :] or "/"

        def start_below(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [(name, _below(prefix, name, value)) for name, value in headers], *more)

        return self._application(environ, start_below)

    def _forwarded(self, environ: dict[str, Any]) -> str:
        header = environ.get("HTTP_X_FORWARDED_PREFIX")
        if header is None:
            return ""
        # Whether the header is trusted depends on the connection, which is no part of the key of a cached response.
        dependencies.make_uncacheable()
        if not self._proxies.is_trusted(environ.get("REMOTE_ADDR") or ""):
            return ""
        return path_prefix(_last(header)) or ""


def _below(prefix: str, name: str, value: str) -> str:
    """Return the value of a header with the prefix before its path; URLs of other hosts are unchanged."""
    if name == "Location" and value.startswith("/"):
        return f"{prefix}{value}"
    if name == "Link" and value.startswith("</"):
        return f"<{prefix}{value[1:]}"
    return value


def _last(text: str) -> str:
    return text.rpartition(",")[2].strip()
