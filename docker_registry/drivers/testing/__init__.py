"""
The contract of storage drivers as a test suite, which the tests of every driver inherit.

::

    class TestMyDriver(DriverSuite):
        @pytest.fixture
        def driver(self, tmp_path):
            return MyDriver(place=str(tmp_path))

        @pytest.fixture
        def broken_driver(self, tmp_path):
            return MyDriver(place="/nowhere")  # one whose backend fails every call

Every test method checks one sentence of the contract in :mod:`docker_registry.drivers.base`; the modules of this
package group them by subject. Only tests of capabilities that a driver declares as missing are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from docker_registry.drivers.base import StorageDriver
from docker_registry.drivers.testing.conditions import Conditions
from docker_registry.drivers.testing.contents import Contents
from docker_registry.drivers.testing.folders import Folders
from docker_registry.drivers.testing.paths import Errors, Paths


class DriverSuite(Contents, Conditions, Folders, Paths, Errors):
    """All tests of the driver contract."""

    @pytest.fixture
    def driver(self) -> Iterable[StorageDriver]:
        """Provide a driver with an empty store."""
        raise NotImplementedError("a driver's test class provides the fixture `driver`")

    @pytest.fixture
    def broken_driver(self) -> Iterable[StorageDriver]:
        """
        Provide a driver whose backend fails every call.

        If the backend cannot fail, override this fixture by one that skips with that reason.
        """
        raise NotImplementedError("a driver's test class provides the fixture `broken_driver`")
