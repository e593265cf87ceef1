"""Capabilities of drivers, and drivers written for the old names of the interface."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest

from docker_registry.drivers.base import Capabilities
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.drivers.memory import MemoryDriver


def test_old_flags_of_a_class_count_with_a_warning():
    with pytest.warns(
        DeprecationWarning, match="OldDriver uses old names of StorageDriver: supports_remove_if_match, m"
    ):

        class OldDriver(MemoryDriver):
            supports_remove_if_match = False
            min_chunk_bytes = 7

    assert Capabilities(if_match=True, min_chunk_bytes=7) == OldDriver().capabilities


def test_old_flags_of_an_instance_and_a_property_count():
    reads = []
    with pytest.warns(DeprecationWarning, match="walks_by_pages"):

        class OldDriver(MemoryDriver):
            def __init__(self, is_far):
                super().__init__()
                self.is_far = is_far

            @property
            def walks_by_pages(self):
                reads.append(self)
                return self.is_far

    driver = OldDriver(is_far=True)
    driver.supports_if_match = False
    for _ in range(3):
        assert Capabilities(remove_if_match=True, pages=True) == driver.capabilities
    assert [driver] == reads
    assert not OldDriver(is_far=False).capabilities.pages


def test_old_flags_can_still_be_read():
    driver = MemoryDriver()
    assert (True, False, None) == (driver.supports_if_match, driver.walks_by_pages, driver.min_chunk_bytes)
    with pytest.raises(AttributeError, match="'MemoryDriver' object has no attribute 'unknown'"):
        _ = driver.unknown


def test_old_names_of_methods_are_called():
    events = []
    with pytest.warns(DeprecationWarning, match="together, short_lived"):

        class OldDriver(MemoryDriver):
            @contextmanager
            def together(self):
                events.append("begin")
                yield
                events.append("end")

            @property
            def short_lived(self):
                return scratch

    scratch, driver = MemoryDriver(), OldDriver()
    with driver.batch():
        assert ["begin"] == events
    assert ["begin", "end"] == events
    assert driver.scratch is scratch


def test_old_names_of_methods_can_still_be_called():
    driver = MemoryDriver()
    assert driver.short_lived is driver
    with driver.together():
        driver.put_content("a", b"content")
    assert b"content" == driver.get_content("a")


def test_a_cache_has_the_capabilities_of_its_store():
    driver = MemoryDriver()
    driver.capabilities = replace(driver.capabilities, move_copies=True)
    expected = Capabilities(
        if_match=True, remove_if_match=True, move_copies=True, folder_versions=True, tracks_dependencies=True
    )
    assert expected == CachedDriver(driver, None).capabilities
