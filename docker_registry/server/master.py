"""
gunicorn's master process for the registry.

A worker receives SIGTERM when the server stops and when a reload replaces it. Only the master knows which; it tells its
workers through one byte of shared memory, so that only a server that stops drains its connections. After SIGUSR2 a
new master serves the same sockets with new code; this one, and its workers, then count as replaced.

A reload changes nothing if the configuration is invalid. It stops workers only when their successors accept
connections, so that clients never wait for a start. A worker that cannot start stops the server only if no other one
serves.
"""

from __future__ import annotations

import mmap
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

from gunicorn import systemd
from gunicorn.app.base import BaseApplication
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from docker_registry.server.access_log import FORMAT

#: Interval of checks whether new workers accept connections, and the time after which old ones are replaced anyway.
_START_CHECK_SECONDS: Final = 0.05
_START_SECONDS: Final = 60.0

#: After a worker could not start while others serve, the next one is started after this time.
_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class LogSettings:
    """
    What the messages of the master depend on.

    Attributes:
        log_format: ``text`` or ``json``.
        tls_certificate: with which the workers serve, so that the address is announced as ``https://``.
    """

    log_format: str
    tls_certificate: Path | None = None


class _Reloaded(Exception):
    """Ends a reload before gunicorn waits for the old workers."""


class RegistryArbiter(Arbiter):  # type: ignore[misc]
    """The master process; marks in shared memory that the server is stopping."""

    app: RegistryApplication

    def __init__(self, app: RegistryApplication) -> None:
        super().__init__(app)
        # SIGUSR2 runs the command anew. By default gunicorn runs sys.argv, which is not ours.
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        self._is_reloading = False
        self._terminated: WeakSet[Any] = WeakSet()
        self._start_again_at = 0.0  # on the monotonic clock
        self._outdated_age = 0  # workers up to this age have an earlier configuration

    def reload(self) -> None:
        """
        Start new workers with the current configuration and stop the old ones; keep these if it is invalid.

        gunicorn waits for their end, up to ``graceful_timeout``, and ignores signals meanwhile: a long transfer would
        delay SIGTERM.
        """
        if not self.app.can_start():
            self.log.error("Not reloaded: the server cannot start with this configuration. The workers keep theirs.")
            return
        self._is_reloading = True
        self._outdated_age = self.worker_age
        try:
            with suppress(_Reloaded):
                super().reload()
        finally:
            self._is_reloading = False

    def manage_workers(self) -> None:
        """Start missing workers; stop surplus ones, the oldest first, once the others accept connections."""
        if time.monotonic() >= self._start_again_at:
            # gunicorn would wait for the end of those told to stop, and keep old ones if a reload could start too few.
            current = [worker for worker in self._remaining() if worker.age > self._outdated_age]
            for _ in range(self.num_workers - len(current)):
                self.spawn_worker()
        if len(self._remaining()) > self.num_workers:
            self._await_new_workers()
        if len(self.WORKERS) >= self.num_workers:  # otherwise gunicorn would start the missing ones now
            super().manage_workers()
        if self._is_reloading:  # the last step of a reload before the wait
            raise _Reloaded

    def reap_workers(self) -> None:
        """
        Remove the workers that have ended; see gunicorn.

        gunicorn stops the whole server if a worker cannot start. Others that serve go on here: the store may be
        unreachable, or a file invalid, just when one of them has to be replaced.
        """
        try:
            super().reap_workers()
        except HaltServer:
            if not any(getattr(worker, "is_serving", b"\0")[0] for worker in self.WORKERS.values()):
                raise
            self._start_again_at = time.monotonic() + _RETRY_SECONDS
            self.reap_workers()  # gunicorn has not looked at the others yet

    def spawn_worker(self) -> Any:
        """
        Fork a worker; see gunicorn.

        A signal that arrives before the worker has installed its handlers would be lost, so it is deferred.
        """
        deferred: frozenset[int] = getattr(self.worker_class, "deferred_signals", frozenset())
        before = signal.pthread_sigmask(signal.SIG_BLOCK, deferred)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kill_worker(self, pid: int, sig: int) -> None:
        """
        Send a signal to a worker, SIGTERM only once.

        gunicorn repeats it each second, and one that arrives while the interpreter is finalized kills the worker.
        """
        worker = self.WORKERS.get(pid)
        if sig == signal.SIGTERM and worker is not None:
            if worker in self._terminated:
                return
            self._terminated.add(worker)
        super().kill_worker(pid, sig)

    def _remaining(self) -> list[Any]:
        """Return the workers that have not been told to stop."""
        return [worker for worker in self.WORKERS.values() if worker not in self._terminated]

    def _await_new_workers(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            newest = sorted(self.WORKERS.values(), key=lambda worker: worker.age)[-self.num_workers :]
            if all(getattr(worker, "is_serving", b"\1")[0] for worker in newest):
                return
            time.sleep(_START_CHECK_SECONDS)
            self.reap_workers()

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

    def __init__(
        self, usage: str, prog: str, log_settings: Callable[[], LogSettings], can_start: Callable[[], bool]
    ) -> None:
        """
        Args:
            log_settings: reads what the master's messages depend on from the configuration, also at a reload.
            can_start: before a reload, returns whether workers can start with the configuration as it is now.
        """
        self.stopping = mmap.mmap(-1, 1)
        self.can_start = can_start
        self._log_settings = log_settings
        super().__init__(usage, prog=prog)

    def load_config(self) -> None:
        """Read gunicorn's configuration; see gunicorn."""
        super().load_config()
        settings = self._log_settings()
        self.cfg.__dict__[FORMAT] = settings.log_format
        if settings.tls_certificate is not None:
            self.cfg.set("certfile", str(settings.tls_certificate))
