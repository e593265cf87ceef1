"""Mount sessions: which superblocks are the same, and which sessions continue."""

from __future__ import annotations

import os
import subprocess

import pytest

from docker_registry.drivers.file.journal import mount_session
from docker_registry.drivers.file.journal.mount_session import superblock_id
from docker_registry.errors import StorageError
from tests.support.loop_disk import LoopDisk


class TestASuperblock:
    @pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
    def test_is_another_one_after_a_remount(self, tmp_path, kind):
        disk = LoopDisk(tmp_path / "disk", tmp_path / "mounted", kind)
        bound = tmp_path / "bound"
        bound.mkdir()
        found = []
        try:
            for _ in range(2):
                disk.mount()
                subprocess.run(["mount", "--bind", disk.folder, bound], check=True)
                found.append([superblock_id(str(folder)) for folder in (disk.folder, bound, disk.folder)])
                subprocess.run(["umount", bound], check=True)
                disk.unmount()
        finally:
            disk.unmount()
        assert None not in found[0]
        assert [1, 1, 2] == [len(set(found[0])), len(set(found[1])), len({*found[0], *found[1]})]

    def test_has_no_identity_without_sysfs(self):
        assert superblock_id("/proc") is None


class TestASession:
    def join(self, folder, superblock):
        return mount_session.join(str(folder), superblock)

    def test_continues_while_the_superblock_exists(self, tmp_path):
        first = self.join(tmp_path, "one")
        first.close()
        assert first.session == self.join(tmp_path, "one").session

    def test_ends_with_the_superblock(self, tmp_path):
        first = self.join(tmp_path, "one")
        first.close()
        second = self.join(tmp_path, "two")
        assert first.session.id != second.session.id
        assert [None, first.session.id] == [first.ended, second.ended]

    def test_ends_with_the_last_process_if_the_superblock_is_unknown(self, tmp_path):
        one, two = self.join(tmp_path, None), self.join(tmp_path, None)
        assert one.session == two.session
        one.close()
        three = self.join(tmp_path, None)
        assert two.session == three.session
        two.close()
        three.close()
        assert three.session.id != self.join(tmp_path, None).session.id

    @pytest.mark.parametrize("left", [b"", b"\0" * 99, b"[]", b'{"id": "x"}', b'{"id": "x", "began": "y"}'])
    def test_ends_if_a_crash_has_damaged_its_file(self, tmp_path, left):
        (tmp_path / mount_session.NAME).write_bytes(left)
        assert 32 == len(self.join(tmp_path, "one").session.id)
        assert [mount_session.NAME] == os.listdir(tmp_path)

    @pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda location: os.symlink("nowhere", location)])
    def test_refuses_anything_but_a_file(self, tmp_path, make):
        make(tmp_path / mount_session.NAME)
        with pytest.raises(StorageError, match="Remove it"):
            self.join(tmp_path, "one")
        assert [mount_session.NAME] == os.listdir(tmp_path)
