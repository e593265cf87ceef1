"""A driver that measures another one, and otherwise behaves like it."""

from __future__ import annotations

import pytest

from docker_registry.drivers.base import StorageDriver
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.measured import ACTION_BOUNDS, MeasuredDriver, StorageTimes
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.drivers.testing import DriverSuite
from docker_registry.errors import PathNotFound


class TestAMeasuredDriver(DriverSuite):
    @pytest.fixture
    def driver(self):
        return MeasuredDriver(MemoryDriver(), StorageTimes())

    @pytest.fixture
    def broken_driver(self):
        pytest.skip("a dictionary does not break")

    def test_passes_on_every_method(self):
        driver = MeasuredDriver(MemoryDriver(), StorageTimes())
        passed = {*vars(driver), *vars(MeasuredDriver)}
        assert set() == {name for name in vars(StorageDriver) if not name.startswith("_") and name not in passed} - {
            "settings",
            "run_brief",
        }  # of the driver that is measured


def counted(times):
    return {name: sum(action.buckets) for name, action in times.actions.items() if sum(action.buckets)}


class TestTheTimes:
    def test_are_those_of_calls_by_the_registry(self, tmp_path):
        times = StorageTimes()
        driver = MeasuredDriver(FileDriver(str(tmp_path)), times)
        with driver.batch():
            driver.put_content("a/b", b"1")
        driver.scratch.put_content("a/c", b"2")
        assert b"1" == driver.get_content("a/b")  # a file driver looks for it by another of its methods
        with pytest.raises(PathNotFound):
            driver.get_content("missing")
        assert ["a/b", "a/c"] == sorted(driver.list_directory("a"))
        for _ in driver.walk(""):
            break
        with pytest.raises(PathNotFound):
            list(driver.list_directory("missing"))
        assert {"Batch": 1, "PutContent": 2, "GetContent": 2, "List": 2, "Walk": 1} == counted(times)
        assert times.actions["Batch"].seconds > 0

    def test_are_sorted_into_buckets(self):
        times = StorageTimes().actions["Stat"]
        for seconds in (0.0, ACTION_BOUNDS[0], 1.5, 3600.0):
            times.add(seconds)
        assert (2, 1, 1) == (times.buckets[0], times.buckets[ACTION_BOUNDS.index(2.5)], times.buckets[-1])
