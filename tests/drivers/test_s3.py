"""The contract of drivers on a real S3, and what is S3's alone."""

from __future__ import annotations

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")

from docker_registry.drivers.s3 import S3Driver
from docker_registry.drivers.testing import DriverSuite
from tests.seaweedfs import seaweedfs

__all__ = ["seaweedfs"]

MIB = 1024 * 1024


@pytest.fixture
def options(seaweedfs):
    return {**seaweedfs.options(), "s3_part_bytes": 5 * MIB}


@pytest.fixture
def driver(options):
    driver = S3Driver(**options)
    yield driver
    driver.close()


@pytest.fixture
def client(seaweedfs):
    """An independent client."""
    client = seaweedfs.connect()
    yield client
    client.close()


class TestS3Driver(DriverSuite):
    @pytest.fixture
    def driver(self, options):
        driver = S3Driver(**options)
        yield driver
        driver.close()

    @pytest.fixture
    def broken_driver(self, options):
        """One whose key is no longer the right one."""
        driver = S3Driver(**options)
        driver._bucket.client._request_signer._credentials.secret_key = "changed"
        yield driver
        driver.close()
