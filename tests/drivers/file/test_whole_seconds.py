"""A file system whose times have whole seconds, such as ext3 or ext4 with small inodes."""

from __future__ import annotations

import os
import time

import pytest

from docker_registry import dependencies
from docker_registry.drivers.file import FileDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry.listing_cache import ListingCache
from tests.support.loop_disk import LoopDisk


@pytest.fixture
def driver(tmp_path):
    disk = LoopDisk(tmp_path / "disk", tmp_path / "mounted", "ext4 with whole seconds")
    disk.mount()
    try:
        driver = FileDriver(str(disk.folder / "store"))
        yield driver
        driver._journal.close()
    finally:
        disk.unmount()


def begin_a_second():
    """Wait for the next second, and return it."""
    now = time.time()
    time.sleep(int(now) + 1.1 - now)
    return int(time.time())


class TestTwoChangesInTheSameSecond:
    def test_are_both_noticed(self, driver):
        for number in range(20):
            listings, folder = ListingCache(driver), f"folder{number}"
            second = begin_a_second()
            driver.put_content(f"{folder}/first", b"1")
            driver.put_content("file", b"old")
            assert os.stat(driver._tree.locate("file")).st_mtime_ns % 10**9 == 0
            time.sleep(0.3)  # more than a tick of a finer clock
            before = listings.names(folder, str)
            version = driver.folder_version(folder)
            with dependencies.collected() as made_of:
                driver.get_content("file")
            driver.put_content(f"{folder}/second", b"2")
            driver.put_content("file", b"new")
            after = listings.names(folder, str)
            if second == int(time.time()):
                break
        else:
            pytest.fail("the machine is too busy to do this within a second")
        assert (["first"], ["first", "second"]) == (before, after)
        assert version is None
        assert not made_of.is_complete

    def test_are_cacheable_once_the_second_is_over(self, driver):
        driver.put_content("folder/file", b"1")
        time.sleep(2.2)
        version = driver.folder_version("folder")
        with dependencies.collected() as made_of:
            driver.get_content("folder/file")
        assert version is not None
        assert made_of.is_complete and made_of.is_current()
        driver.remove("folder/file")
        driver.put_content("folder/other", b"1")
        time.sleep(2.2)
        assert driver.folder_version("folder") != version
        assert not made_of.is_current()
        with pytest.raises(PathNotFound):
            driver.get_content("folder/file")
