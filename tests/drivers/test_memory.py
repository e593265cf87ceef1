from __future__ import annotations

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.drivers.testing import DriverSuite


class TestMemoryDriver(DriverSuite):
    @pytest.fixture
    def driver(self):
        return MemoryDriver()

    @pytest.fixture
    def broken_driver(self):
        pytest.skip("a dictionary does not break")
