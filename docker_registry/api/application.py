"""Flask, without what each of its requests pays for and no answer of a registry needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter


class _NoSessions(SessionInterface):
    """Nobody is remembered from one request to the next, so one session that refuses everything does for all."""

    def __init__(self) -> None:
        self._none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:  # noqa: ARG002 - the same for everybody
        """See :class:`SessionInterface`."""
        return self._none

    def is_null_session(self, obj: object) -> bool:
        """See :class:`SessionInterface`."""
        return obj is self._none


class Application(Flask):
    """A Flask application that keeps no sessions and builds no URL out of the name of a host."""

    session_interface = _NoSessions()

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Find a route by the path alone; see :class:`Flask`."""
        if request is None:
            return None
        return self.url_map.bind("", request.root_path, None, request.scheme, request.method, request.path)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as it is: no view or hook here is a coroutine; see :class:`Flask`."""
        return func
