"""
gunicorn's master process for the registry.

A worker receives SIGTERM when the server stops and when a reload replaces it. Only the master knows which; it tells its
workers through one byte of shared memory, so that only a server that stops drains its connections.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from gunicorn.app.base import BaseApplication
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.arbiter import Arbiter

from docker_registry.server.access_log import FORMAT
from docker_registry.server.launch import LogSettings


class RegistryArbiter(Arbiter):  # type: ignore[misc]
    """The master process; marks in shared memory that the server is stopping."""

    app: RegistryApplication

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers and wait for them; see gunicorn."""
        self.app.stopping[0] = 1
        super().stop(graceful)


class _RunsRegistryArbiter(BaseApplication):  # type: ignore[misc]
    """Follows gunicorn's own application classes in the method resolution order, and replaces the last step of run."""

    def run(self) -> None:
        RegistryArbiter(self).run()


class RegistryApplication(WSGIApplication, _RunsRegistryArbiter):  # type: ignore[misc]
    """
    gunicorn's application.

    Attributes:
        stopping: one byte, shared with the workers; not zero once the server is stopping.
    """

    def __init__(self, usage: str, prog: str, log_settings: Callable[[], LogSettings]) -> None:
        """
        Args:
            log_settings: reads what the master's messages depend on from the configuration, also at a reload.
        """
        self.stopping = mmap.mmap(-1, 1)
        self._log_settings = log_settings
        super().__init__(usage, prog=prog)

    def load_config(self) -> None:
        """Read gunicorn's configuration; see gunicorn."""
        super().load_config()
        settings = self._log_settings()
        self.cfg.__dict__[FORMAT] = settings.log_format
        if settings.tls_certificate is not None:
            self.cfg.set("certfile", str(settings.tls_certificate))
