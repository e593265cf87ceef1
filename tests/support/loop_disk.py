"""File systems for tests, each in a file behind a loop device; mounting requires root."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.support.clients.programs import require, require_root

MIB = 1024 * 1024

#: Mount options: nothing is written by itself while a test runs, so a copy of the disk shows one moment.
_MOUNT_OPTIONS = {"xfs": "loop"}
_DEFAULT_MOUNT_OPTIONS = "loop,commit=300"

#: By kind: the program that makes it, its Debian package, its options, and how it is checked after a crash.
_KINDS: dict[str, tuple[str, str, tuple[str, ...], tuple[str, ...]]] = {
    "ext4": ("mkfs.ext4", "e2fsprogs", ("-q", "-F"), ("e2fsck", "-fp")),
    "ext4 with whole seconds": ("mkfs.ext4", "e2fsprogs", ("-q", "-F", "-I", "128"), ("e2fsck", "-fp")),
    "xfs": ("mkfs.xfs", "xfsprogs", ("-q", "-f"), ()),
    "btrfs": ("mkfs.btrfs", "btrfs-progs", ("-q", "-f"), ()),
}


class LoopDisk:
    """
    A disk in a file.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, image: Path, folder: Path, kind: str = "ext4", size_bytes: int = 400 * MIB) -> None:
        """Create the file system unless the image exists; skip the test where that is impossible."""
        require_root()
        program, package, options, self._check = _KINDS[kind]
        self._image = image
        self._options = _MOUNT_OPTIONS.get(kind, _DEFAULT_MOUNT_OPTIONS)
        self.folder = folder
        folder.mkdir()
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(size_bytes)
            run(require(program, package), *options, image)

    def mount(self, *, check: bool = False) -> None:
        """
        Mount it.

        Args:
            check: repair it first, as after a crash.
        """
        if check and self._check:
            run(*self._check, self._image, codes=(0, 1))
        run("mount", "-o", self._options, self._image, self.folder)

    def abort(self) -> None:
        """Abort the file system, as after an I/O error: nothing more is written to the disk."""
        run("mount", "-o", "remount,abort", self.folder)

    def copy(self, image: Path) -> None:
        """Copy the current content of the disk, like a storage snapshot of a virtual machine."""
        run("cp", "--sparse=auto", self._image, image)

    def unmount(self) -> None:
        """Unmount the disk if it is mounted, after waiting for processes that are terminating."""
        for _ in range(100):
            if not self.folder.is_mount():
                return
            subprocess.run(["umount", self.folder], capture_output=True, check=False)
            time.sleep(0.02)
        raise AssertionError(f"{self.folder} stays mounted")


def run(*command: str | Path, codes: tuple[int, ...] = (0,)) -> None:
    """Run a command; if it fails, its output is the message of the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in codes, f"{command}: {done.stdout} {done.stderr}"
