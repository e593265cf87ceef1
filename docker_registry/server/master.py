"""
gunicorn's master process for the registry.

A worker receives SIGTERM when the server stops and when a reload replaces it. Only the master knows which; it tells its
workers through one byte of shared memory, so that only a server that stops drains its connections.
"""

from __future__ import annotations

import mmap
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.arbiter import Arbiter


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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.stopping = mmap.mmap(-1, 1)
        super().__init__(*args, **kwargs)
