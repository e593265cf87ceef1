from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from docker_registry import drivers
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError


@pytest.fixture
def plug_in(monkeypatch):
    """Install an entry point."""

    def plug_in(name, place):
        monkeypatch.setattr(drivers, "entry_points", lambda group: [EntryPoint(name, place, group)])

    return plug_in


class TestADriver:
    @pytest.mark.parametrize(
        ("name", "driver"), [("file", FileDriver), ("local", FileDriver), ("memory", MemoryDriver)]
    )
    def test_of_this_package_is_found_by_its_name(self, name, driver):
        assert driver is drivers.load(name)

    def test_of_another_package_is_found_by_its_entry_point(self, plug_in):
        plug_in("shelf", "docker_registry.drivers.memory:MemoryDriver")
        assert MemoryDriver is drivers.load("shelf")

    def test_that_is_not_chosen_is_not_imported(self, plug_in):
        plug_in("shelf", "antigravity:Driver")
        drivers.load("memory")
        assert "antigravity" not in sys.modules


class TestAnUnavailableDriver:
    def test_is_reported_with_the_available_ones(self):
        with pytest.raises(
            ConfigError, match=r"'tape' is not installed \(installed are .*file.*memory.*docker-registry-driver-tape"
        ):
            drivers.load("tape")
        with pytest.raises(ConfigError, match=r"did you mean file\?"):
            drivers.load("fil")

    @pytest.mark.parametrize("name", ["s3", "swift", "gcs", "azure", "glance"])
    def test_is_reported_with_the_extra_to_install(self, name, monkeypatch):
        monkeypatch.setattr(drivers, "entry_points", lambda group: [])
        with pytest.raises(ConfigError, match=rf"pip install 'docker-registry\[{name}\]'"):
            drivers.load(name)

    def test_is_reported_if_no_longer_published(self):
        with pytest.raises(ConfigError, match="Elliptics any more"):
            drivers.load("elliptics")

    def test_is_reported_if_a_library_is_missing(self, plug_in):
        plug_in("shelf", "docker_registry_driver_shelf:Driver")
        with pytest.raises(ConfigError, match=r"cannot be imported: No module named.*pip install"):
            drivers.load("shelf")

    @pytest.mark.parametrize("place", ["json:JSONDecoder", "json:NoSuchClass"])
    def test_is_reported_if_it_is_not_a_driver(self, plug_in, place):
        plug_in("shelf", place)
        with pytest.raises(ConfigError, match="is not a StorageDriver"):
            drivers.load("shelf")
