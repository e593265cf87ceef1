"""A real Redis on a free port of loopback that can be killed, frozen, filled and restarted."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import processes
from tests.support.clients import programs

if TYPE_CHECKING:
    from redis import Redis

PASSWORD = "correct-horse"


class RedisServer:
    """A Redis server under test control, and the variables by which the sample configuration finds it."""

    def __init__(self, port: int, folder: Path, options: Sequence[str] = ()) -> None:
        self.port = port
        self._folder = folder
        self._options = options
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CACHE_REDIS_HOST": "127.0.0.1",
            "CACHE_REDIS_PORT": str(self.port),
            "CACHE_REDIS_PASSWORD": PASSWORD,
        }

    @property
    def cache_environment(self) -> dict[str, str]:
        """The same for the cache in front of the store."""
        return {name.replace("CACHE_", "CACHE_LRU_", 1): value for name, value in self.environment.items()}

    def connect(self) -> Redis:
        """Return an independent client."""
        from redis import Redis

        return Redis("127.0.0.1", self.port, password=PASSWORD)

    def start(self) -> None:
        program = programs.require("redis-server", "redis-server")
        command = [
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", PASSWORD, "--save", "",
            "--appendonly", "no", "--dir", str(self._folder), *self._options,
        ]  # fmt: skip
        running = processes.running(command, self._folder / "log", lambda: processes.listens(self.port))
        self._process = self._stack.enter_context(running)

    def stop(self) -> None:
        """Stop it if it runs."""
        if self._process is not None:
            self.thaw()
            self._stack.close()
            self._process = None

    def kill(self) -> None:
        """Kill it, as a power failure would."""
        self._signal(signal.SIGKILL)
        self._stack.close()
        self._process = None

    def freeze(self) -> None:
        """Freeze it: connections stay open and the kernel accepts new ones, but nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def flush(self) -> None:
        """Empty it."""
        with self.connect() as redis:
            redis.flushall()

    def configure(self, name: str, value: str) -> None:
        with self.connect() as redis:
            redis.config_set(name, value)


@contextlib.contextmanager
def own_redis(*options: str) -> Iterator[RedisServer]:
    """Start one and stop it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="docker-registry-tests-"))
    server = RedisServer(processes.free_port(), folder, options)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@contextlib.contextmanager
def sentinel(master: RedisServer) -> Iterator[int]:
    """Start a Sentinel that knows a Redis as the service ``registry``, and return its port."""
    folder = Path(tempfile.mkdtemp(prefix="docker-registry-tests-"))
    port = processes.free_port()
    (folder / "sentinel.conf").write_text(
        f"port {port}\nbind 127.0.0.1\nrequirepass {PASSWORD}\ndir {folder}\n"
        f"sentinel monitor registry 127.0.0.1 {master.port} 1\nsentinel auth-pass registry {PASSWORD}\n"
        "sentinel down-after-milliseconds registry 500\nsentinel failover-timeout registry 3000\n"
    )
    command = [programs.require("redis-server", "redis-server"), str(folder / "sentinel.conf"), "--sentinel"]
    with processes.running(command, folder / "log", lambda: processes.listens(port)):
        yield port
    shutil.rmtree(folder)
