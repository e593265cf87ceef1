"""The contract of drivers on remote stores with a cache in real Redis."""

from __future__ import annotations

import secrets

import pytest

pytest.importorskip("redis", reason="redis is not installed")
pytest.importorskip("boto3", reason="boto3 is not installed")
pytest.importorskip("swiftclient", reason="python-swiftclient is not installed")

from docker_registry.drivers.s3.driver import S3Driver
from docker_registry.drivers.swift.driver import SwiftDriver
from docker_registry.drivers.testing import DriverSuite
from tests.drivers.cache.test_driver import cached
from tests.support.servers.redis import redis_server

__all__ = ["redis_server"]


class CachedSuite(DriverSuite):
    @pytest.fixture
    def driver(self, store, redis_server):
        return cached(store, redis_server, secrets.token_hex(8))

    @pytest.fixture
    def broken_driver(self):
        pytest.skip("tried without a cache, and with one around a file driver")


class TestAnS3DriverWithACache(CachedSuite):
    @pytest.fixture
    def store(self, seaweedfs):
        driver = S3Driver(**seaweedfs.options())
        yield driver
        driver.close()


@pytest.mark.slow
class TestASwiftDriverWithACache(CachedSuite):
    @pytest.fixture
    def store(self, swift_server):
        driver = SwiftDriver(**{**swift_server.options, "storage_path": "registry"})
        yield driver
        driver.close()
