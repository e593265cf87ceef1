"""
gunicorn's master process for the registry.

A worker receives SIGTERM when the server stops and when a reload replaces it. Only the master knows which; it tells its
workers through one byte of shared memory, so that only a server that stops drains its connections. After SIGUSR2 a
new master serves the same sockets with new code; this one, and its workers, then count as replaced.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable

from gunicorn import systemd
from gunicorn.app.base import BaseApplication
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.arbiter import Arbiter

from docker_registry.server.access_log import FORMAT
from docker_registry.server.launch import LogSettings


class RegistryArbiter(Arbiter):  # type: ignore[misc]
    """The master process; marks in shared memory that the server is stopping."""

    app: RegistryApplication

    def __init__(self, app: RegistryApplication) -> None:
        super().__init__(app)
        # SIGUSR2 runs the command anew. By default gunicorn runs sys.argv, which is not ours.
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers and wait for them; see gunicorn."""
        if self.reexec_pid:  # a successor serves the same sockets, so no client has to be told
            systemd.sd_notify(f"MAINPID={self.reexec_pid}", self.log)
        else:
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
