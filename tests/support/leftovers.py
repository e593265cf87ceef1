"""Cleans up after test runs that were killed, so that they do not fail later ones."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import tempfile
from pathlib import Path


def unmount_leftovers(base: Path | None) -> None:
    """
    Unmount what killed runs left mounted in their temporary folders; pytest fails to remove such a folder.

    Args:
        base: the folder given by ``--basetemp``, which pytest is about to remove.
    """
    root = Path(os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir()).resolve()
    folders = [folder for folder in root.glob(f"pytest-of-{getpass.getuser()}/pytest-*") if not _is_in_use(folder)]
    if base is not None:
        folders.append(base.resolve())
    for mount in reversed(_mounts()):
        if any(mount.is_relative_to(folder) for folder in folders):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


def _is_in_use(folder: Path) -> bool:
    """Return whether the run that created a folder still runs; its lock contains a process id."""
    try:
        return Path("/proc", (folder / ".lock").read_text()).exists()
    except (FileNotFoundError, NotADirectoryError):
        return False


def _mounts() -> list[Path]:
    """Return all mount points of this machine, in the order of mounting."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[4])) for line in lines]
