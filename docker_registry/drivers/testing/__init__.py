"""
The contract of storage drivers, as tests: whoever writes a driver inherits them.

::

    class TestMyDriver(DriverSuite):
        @pytest.fixture
        def driver(self, tmp_path):
            return MyDriver(place=str(tmp_path))

        @pytest.fixture
        def broken_driver(self, tmp_path):
            return MyDriver(place="/nowhere")  # one whose backend fails every call

Every method is a sentence of the contract in :mod:`docker_registry.drivers.base`; they stand by subject in the modules
beside this one. What a driver declares that it cannot do is skipped, and nothing else.
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
    """What every driver promises."""

    @pytest.fixture
    def driver(self) -> Iterable[StorageDriver]:
        """An empty store."""
        raise NotImplementedError("a driver's test class provides the fixture `driver`")

    @pytest.fixture
    def broken_driver(self) -> Iterable[StorageDriver]:
        """A store whose backend fails; a driver whose backend cannot fail overrides this by a skip that says so."""
        raise NotImplementedError("a driver's test class provides the fixture `broken_driver`")
