"""A real Redis on a free port of loopback."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import processes, programs

PASSWORD = "correct-horse"


@dataclass(frozen=True)
class RedisServer:
    """Where it listens, and the variables by which the sample configuration finds it."""

    port: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CACHE_REDIS_HOST": "127.0.0.1",
            "CACHE_REDIS_PORT": str(self.port),
            "CACHE_REDIS_PASSWORD": PASSWORD,
        }


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    program = programs.require("redis-server", "redis-server")
    folder = Path(tempfile.mkdtemp(prefix="docker-registry-tests-"))
    port = processes.free_port()
    command = [
        program, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", PASSWORD, "--save", "",
        "--appendonly", "no", "--dir", str(folder),
    ]  # fmt: skip
    with processes.running(command, folder / "log", lambda: processes.listens(port)):
        yield RedisServer(port)
    shutil.rmtree(folder)
