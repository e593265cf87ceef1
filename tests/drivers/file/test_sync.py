"""Syncing several files with one wait."""

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
    """The system calls."""
    called = []
    monkeypatch.setattr(linux, "syncfs", lambda: lambda fd: called.append(("syncfs", fd)) or 0)
    monkeypatch.setattr(sync, "_pending_bytes", lambda: 0)
    monkeypatch.setattr(os, "fsync", lambda fd: called.append(("fsync", fd)))
    return called


def mounted(tmp_path, kind):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(mount=sync._mount(str(tmp_path)), kind=kind))
    return Disk(str(tmp_path), str(mounts))


class TestManyFiles:
    def test_are_synced_by_one_call(self, tmp_path, fds, calls):
        mounted(tmp_path, "ext4").sync(fds)
        assert [("syncfs", fds[0])] == calls

    def test_are_synced_one_by_one_if_syncfs_guarantees_less(self, tmp_path, fds, calls):
        mounted(tmp_path, "fuse.s3fs").sync(fds)
        assert [("fsync", fd) for fd in fds] == calls

    def test_are_synced_one_by_one_if_the_file_system_is_unknown(self, tmp_path, fds, calls):
        Disk(str(tmp_path), str(tmp_path / "missing")).sync(fds)
        assert [("fsync", fd) for fd in fds] == calls

    def test_are_synced_one_by_one_if_much_else_is_pending(self, tmp_path, fds, calls, monkeypatch):
        monkeypatch.setattr(sync, "_pending_bytes", lambda: 1 << 30)
        mounted(tmp_path, "ext4").sync(fds)
        assert [("fsync", fd) for fd in fds] == calls

    def test_are_synced_by_the_real_system_call(self, tmp_path, fds):
        Disk(str(tmp_path)).sync(fds)


class TestASingleFile:
    def test_is_synced_with_fsync(self, tmp_path, fds, calls):
        mounted(tmp_path, "ext4").sync(fds[:1])
        assert [("fsync", fds[0])] == calls


class TestThePendingBytes:
    def test_are_those_of_meminfo(self, tmp_path):
        (tmp_path / "meminfo").write_text("MemTotal: 16 kB\nDirty:          3 kB\nWriteback:      4 kB\n")
        assert 7 * 1024 == sync._pending_bytes(str(tmp_path / "meminfo"))

    def test_are_infinite_if_unknown(self, tmp_path):
        assert float("inf") == sync._pending_bytes(str(tmp_path / "missing"))

    def test_syncfs_raises_an_os_error(self):
        with pytest.raises(OSError, match="Bad file descriptor"):
            sync._syncfs(-1)
