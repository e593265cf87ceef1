"""
A file system that lost its page cache while the kernel kept running loses no acknowledged content.

Disks are real ones, in a file behind a loop device.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.errors import PathNotFound, StorageError
from tests.support.loop_disk import LoopDisk


@contextmanager
def opened(disk):
    """Open the store on a disk, and close it at the end."""
    driver = FileDriver(str(disk.folder / "store"))
    try:
        yield driver
    finally:
        driver._journal.close()


@contextmanager
def mounted(disk, *, check=False):
    disk.mount(check=check)
    try:
        yield
    finally:
        disk.unmount()


def push(driver):
    """Put a content that reaches the disk, then one that is only in the journal and the page cache."""
    driver.put_content("tags/old", b"1")
    driver.put_content("tags/removed", b"1")
    driver.remove("tags/removed")
    assert driver._journal._file is not None, "the disk is too small for a journal"
    driver._journal.checkpoint()
    with driver.batch():
        driver.put_content("tags/old", b"2")
        driver.put_content("tags/new", b"2")
        driver.put_content("tags/theirs", b"2")


PUSHED = {"tags/old": b"2", "tags/new": b"2", "tags/theirs": b"2"}


def contents(driver):
    return {stat.path: driver.get_content(stat.path) for stat in driver.walk()}


class TestAfterAnAbortOfTheFileSystem:
    @pytest.fixture
    def disk(self, tmp_path):
        """A disk with pushed content that was repaired after the abort."""
        disk = LoopDisk(tmp_path / "disk", tmp_path / "mounted")
        with mounted(disk), opened(disk) as driver:
            push(driver)
            disk.abort()
            with pytest.raises(StorageError):
                driver.put_content("tags/late", b"never acknowledged")
        return disk

    def test_acknowledged_contents_are_there(self, disk):
        with mounted(disk, check=True), opened(disk) as driver:
            assert PUSHED == contents(driver)
            driver.put_content("tags/old", b"3")
        with mounted(disk), opened(disk) as driver:
            assert {**PUSHED, "tags/old": b"3"} == contents(driver)

    def test_contents_of_another_server_stay(self, disk):
        tags = disk.folder / "store" / "tags"
        with mounted(disk, check=True):
            (tags / "old").write_bytes(b"9")
            (tags / "theirs").write_bytes(b"9")
            with opened(disk) as driver:
                assert {"tags/old": b"9", "tags/new": b"2", "tags/theirs": b"9"} == contents(driver)


@pytest.mark.parametrize("kind", ["ext4", "ext4 with whole seconds", "xfs", "btrfs"])
def test_a_snapshot_has_the_acknowledged_contents(tmp_path, kind):
    disk = LoopDisk(tmp_path / "disk", tmp_path / "mounted", kind)
    with mounted(disk), opened(disk) as driver:
        push(driver)
        disk.copy(tmp_path / "snapshot")
    snapshot = LoopDisk(tmp_path / "snapshot", tmp_path / "attached", kind)
    with mounted(snapshot, check=True), opened(snapshot) as driver:
        assert PUSHED == contents(driver)


def test_a_killed_process_leaves_nothing_to_replay(tmp_path):
    """A file that another program has removed since stays removed."""
    disk = LoopDisk(tmp_path / "disk", tmp_path / "mounted")
    with mounted(disk):
        with opened(disk) as driver:
            push(driver)
        Path(disk.folder, "store/tags/new").unlink()
        Path(disk.folder, "store/tags/old").write_bytes(b"1")
        with opened(disk) as driver:
            assert {"tags/old": b"1", "tags/theirs": b"2"} == contents(driver)
            with pytest.raises(PathNotFound):
                driver.get_content("tags/new")
