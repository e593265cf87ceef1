"""The contract of drivers on Swift's own S3 API, which has neither encryption nor conditional puts."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")
pytest.importorskip("swiftclient", reason="python-swiftclient is not installed")

from docker_registry.drivers.s3.driver import S3Driver
from docker_registry.drivers.testing import DriverSuite
from tests.support.servers.swift import PASSWORD, USER

MIB = 1024 * 1024

_numbers = itertools.count()


@pytest.fixture(scope="module")
def bucket(swift_server):
    connection = swift_server.connect()
    connection.put_container("bucket")
    connection.close()
    return "bucket"


@pytest.fixture
def options(swift_server, bucket):
    return {
        "s3_bucket": bucket,
        "storage_path": f"root{next(_numbers)}",
        "s3_access_key": USER,
        "s3_secret_key": PASSWORD,
        "s3_endpoint": f"http://127.0.0.1:{swift_server.port}",
        "s3_secure": False,
        "s3_encrypt": False,
        "s3_part_bytes": 5 * MIB,
    }


@pytest.mark.slow
class TestS3DriverOnSwift(DriverSuite):
    @pytest.fixture
    def driver(self, options):
        driver = S3Driver(**options)
        yield driver
        driver.close()

    @pytest.fixture
    def broken_driver(self, options):
        """A driver whose key has become invalid."""
        driver = S3Driver(**options)
        driver._objects.client._request_signer._credentials.secret_key = "changed"
        yield driver
        driver.close()

    def test_stores_a_large_file(self, driver):
        large = bytes(range(256)) * 4096 * 15 + b"end"
        driver.stream_write("a", [large])
        driver.move("a", "b")
        assert large == driver.get_content("b")
        assert 0 == driver.remove_leftovers(0)

    def test_is_detected_to_lack_conditional_puts(self, driver):
        assert not driver.capabilities.if_match
