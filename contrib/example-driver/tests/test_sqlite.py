from __future__ import annotations

import pytest
from docker_registry_driver_sqlite import SqliteDriver

from docker_registry.drivers.testing import DriverSuite


class TestSqliteDriver(DriverSuite):
    @pytest.fixture
    def driver(self, tmp_path):
        return SqliteDriver(sqlite_path=str(tmp_path / "registry.db"))

    @pytest.fixture
    def broken_driver(self, tmp_path):
        driver = SqliteDriver(sqlite_path=str(tmp_path / "broken.db"))
        for file in tmp_path.glob("broken.db*"):
            file.write_bytes(b"this is no database " * 1000)
        return driver
