"""Waiting for the disk, once for many files."""

from __future__ import annotations

import os

import pytest

from docker_registry.drivers.file import linux, sync
from docker_registry.drivers.file.sync import Disk

MOUNTS = "0 1 0:26 / /run rw - tmpfs tmpfs rw\n{mount} 1 8:1 / / rw,relatime shared:1 - {kind} /dev/vda rw\n"


@pytest.fixture
def fds(tmp_path):
    opened = [os.open(tmp_path / str(number), os.O_WRONLY | os.O_CREAT) for number in range(4)]
    yield opened
    for fd in opened:
        os.close(fd)


@pytest.fixture
def calls(monkeypatch):
    """What the system is asked for."""
    asked = []
    monkeypatch.setattr(linux, "syncfs", lambda: lambda fd: asked.append(("syncfs", fd)))
    monkeypatch.setattr(sync, "_pending_bytes", lambda: 0)
    monkeypatch.setattr(os, "fsync", lambda fd: asked.append(("fsync", fd)))
    return asked


def mounted(tmp_path, kind):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(mount=sync._mount(str(tmp_path)), kind=kind))
    return Disk(str(tmp_path), str(mounts))


class TestManyFiles:
    def test_are_synced_at_once(self, tmp_path, fds, calls):
        mounted(tmp_path, "ext4").sync(fds)
        assert [("syncfs", fds[0])] == calls

    def test_are_synced_one_by_one_where_that_is_all_that_is_promised(self, tmp_path, fds, calls):
        mounted(tmp_path, "fuse.s3fs").sync(fds)
        assert [("fsync", fd) for fd in fds] == calls

    def test_are_synced_one_by_one_where_nobody_tells_what_is_mounted(self, tmp_path, fds, calls):
        Disk(str(tmp_path), str(tmp_path / "missing")).sync(fds)
        assert [("fsync", fd) for fd in fds] == calls

    def test_are_synced_one_by_one_when_much_else_waits(self, tmp_path, fds, calls, monkeypatch):
        monkeypatch.setattr(sync, "_pending_bytes", lambda: 1 << 30)
        mounted(tmp_path, "ext4").sync(fds)
        assert [("fsync", fd) for fd in fds] == calls

    def test_are_synced_by_the_system_itself(self, tmp_path, fds):
        Disk(str(tmp_path)).sync(fds)


class TestAFile:
    def test_is_synced_by_itself(self, tmp_path, fds, calls):
        mounted(tmp_path, "ext4").sync(fds[:1])
        assert [("fsync", fds[0])] == calls


class TestWhatWaits:
    def test_is_what_the_system_says(self, tmp_path):
        (tmp_path / "meminfo").write_text("MemTotal: 16 kB\nDirty:          3 kB\nWriteback:      4 kB\n")
        assert 7 * 1024 == sync._pending_bytes(str(tmp_path / "meminfo"))

    def test_is_more_than_anybody_waits_for_where_nobody_says(self, tmp_path):
        assert float("inf") == sync._pending_bytes(str(tmp_path / "missing"))

    def test_fails_as_an_fsync_does(self):
        with pytest.raises(OSError, match="Bad file descriptor"):
            linux.syncfs()(-1)
