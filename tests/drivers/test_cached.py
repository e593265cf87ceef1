"""A driver with a cache in a real Redis: the contract of drivers, and that nobody ever hides what is newer."""

from __future__ import annotations

import secrets
import shutil

import pytest

pytest.importorskip("redis", reason="redis is not installed")

from docker_registry.drivers.cached import CachedDriver
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.file_tree import RESERVED
from docker_registry.drivers.leased_cache import LeasedCache
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.drivers.redis_circuit import Circuit
from docker_registry.drivers.redis_link import RedisPlace, connect
from docker_registry.drivers.testing import DriverSuite
from tests.redis_server import PASSWORD, own_redis, redis_server

__all__ = ["redis_server"]


def cached(driver, server, identity, **options):
    """A driver as it is in one process: with connections and a circuit of its own."""
    redis = connect(RedisPlace(host="127.0.0.1", port=server.port, password=PASSWORD), "cache_lru", timeout_seconds=0.1)
    circuit = Circuit(redis, "the test", pause_seconds=options.pop("pause_seconds", 0.2))
    return CachedDriver(driver, LeasedCache(redis, circuit, lambda: identity), **options)


@pytest.fixture
def identity():
    return secrets.token_hex(8)


class TestAMemoryDriverWithACache(DriverSuite):
    @pytest.fixture
    def driver(self, redis_server, identity):
        return cached(MemoryDriver(), redis_server, identity)

    @pytest.fixture
    def broken_driver(self):
        pytest.skip("a dictionary does not break")


class TestAFileDriverWithACache(DriverSuite):
    @pytest.fixture
    def driver(self, tmp_path, redis_server, identity):
        return cached(FileDriver(str(tmp_path)), redis_server, identity)

    @pytest.fixture
    def broken_driver(self, tmp_path, redis_server, identity):
        """A disk that is no longer mounted, with the empty folder that was under it."""
        driver = FileDriver(str(tmp_path / "store"))
        shutil.rmtree(tmp_path / "store" / RESERVED)
        return cached(driver, redis_server, identity)


class TestAFileDriverWhoseCacheIsAway(DriverSuite):
    @pytest.fixture
    def driver(self, tmp_path, identity):
        with own_redis() as server:
            driver = cached(FileDriver(str(tmp_path)), server, identity)
            server.kill()
            yield driver

    @pytest.fixture
    def broken_driver(self):
        pytest.skip("tried with a cache that is there")
