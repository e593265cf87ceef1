"""The contract of drivers on a real Swift, and what is Swift's alone."""

from __future__ import annotations

import pytest

pytest.importorskip("swiftclient", reason="python-swiftclient is not installed")

from docker_registry.drivers.swift import SwiftDriver
from docker_registry.drivers.testing import DriverSuite
from tests.swift_server import READER, READER_PASSWORD, swift_server

__all__ = ["swift_server"]

MIB = 1024 * 1024


@pytest.fixture
def options(swift_server):
    return {**swift_server.options, "swift_segment_bytes": MIB}


@pytest.fixture
def driver(options):
    driver = SwiftDriver(**options)
    yield driver
    driver.close()


@pytest.fixture
def swift(swift_server):
    """An independent client."""
    connection = swift_server.connect()
    yield connection
    connection.close()


class TestSwiftDriver(DriverSuite):
    @pytest.fixture
    def driver(self, options):
        driver = SwiftDriver(**options)
        yield driver
        driver.close()

    @pytest.fixture
    def broken_driver(self, options, swift):
        """One whose user has lost every right."""
        name = options["swift_container"]
        swift.put_container(name, {"X-Container-Read": "test:reader,.rlistings"})
        driver = SwiftDriver(**{**options, "swift_user": READER, "swift_password": READER_PASSWORD})
        swift.post_container(name, {"X-Container-Read": ""})
        yield driver
        driver.close()
