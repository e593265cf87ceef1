"""
The server's side of WSGI (PEP 3333): calls the application for a request and sends its response.

It does what gunicorn's asynchronous workers do in ``handle_request``, with a :class:`ResponseWriter`, and without the
calls of hooks and logs that would do nothing.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import gevent
from gunicorn.http import wsgi
from gunicorn.workers.base_async import ALREADY_HANDLED

from docker_registry.server.access_log import AccessLog
from docker_registry.server.response_writer import ResponseWriter

Report = Callable[[dict[str, Any], ResponseWriter | None], None]


class Gateway:
    """Calls the application of a worker."""

    def __init__(self, worker: Any, report: Report) -> None:
        """
        Args:
            worker: gunicorn's worker, whose application and configuration are final.
            report: called after each request with its environment, which is empty if the application was not called,
                and its response.
        """
        self._worker = worker
        self._report = report
        cfg, log = worker.cfg, worker.log
        is_ours = isinstance(log, AccessLog)
        is_quiet = is_ours and not log.error_log.isEnabledFor(logging.DEBUG)  # the default hook logs at level debug
        self._pre_request = None if is_quiet and is_default_hook(cfg, "pre_request") else cfg.pre_request
        self._post_request = None if is_default_hook(cfg, "post_request") else cfg.post_request
        self._writes_log = log.access_log_enabled and not (is_ours and log.is_observer)

    def answer(self, listener_name: Any, request: Any, sock: Any, address: Any, *, is_last: bool) -> bool:
        """
        Answer a request; return False if the connection must not be reused.

        Args:
            is_last: close the connection after the response.

        Raises:
            OSError: the connection failed.
            Exception: the application failed before the head of its response was sent.
        """
        worker = self._worker
        environ: dict[str, Any] = {}
        response: ResponseWriter | None = None
        try:
            if self._pre_request is not None:
                self._pre_request(worker, request)
            response, environ = wsgi.create(request, sock, address, listener_name, worker.cfg, ResponseWriter)
            environ["wsgi.multithread"] = True
            self._count()
            response.must_close = is_last or not worker.alive or not worker.cfg.keepalive
            return self._call(request, environ, response)
        except OSError:
            raise
        except gevent.GreenletExit:  # the connection was ended
            return True
        except (Exception, SystemExit) as error:
            if response is None or not response.headers_sent:
                if isinstance(error, SystemExit):
                    return True
                raise
            worker.log.exception("Error handling request")
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            return False
        finally:
            self._finish(request, environ, response)

    def _call(self, request: Any, environ: dict[str, Any], response: ResponseWriter) -> bool:
        began = datetime.now() if self._writes_log else None  # noqa: DTZ005 - only for the difference
        body = self._worker.wsgi(environ, response.start_response)
        if body is ALREADY_HANDLED:
            return True
        try:
            response.send(body)
        finally:
            if began is not None:
                self._worker.log.access(response, request, environ, datetime.now() - began)  # noqa: DTZ005
            close = getattr(body, "close", None)
            if close is not None:
                close()
        return not response.should_close()

    def _count(self) -> None:
        worker = self._worker
        worker.nr += 1
        if worker.nr >= worker.max_requests and worker.alive:
            worker.log.info("Autorestarting worker after current request.")
            worker.alive = False

    def _finish(self, request: Any, environ: dict[str, Any], response: ResponseWriter | None) -> None:
        try:
            self._report(environ, response)
            if self._post_request is not None:
                self._post_request(self._worker, request, environ, response)
        except Exception:  # as in gunicorn, a hook must not affect the connection
            self._worker.log.exception("Exception in post_request hook")


def is_default_hook(cfg: Any, name: str) -> bool:
    """Return whether the operator has set no hook of this name."""
    hook = cfg.settings[name]
    return hook.get() is hook.default
