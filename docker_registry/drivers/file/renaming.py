"""
Replacing a file by a rename that does not trigger write-back.

When a rename replaces a file, ext4 starts to write the new content to the disk during the rename, for programs that
forget to sync it (``auto_da_alloc`` in ext4(5)). This takes ten times as long as the rename, and is useless if a
journal has the content or if the content need not survive a crash of the host. ext4 does not do this when two files
exchange their names (renameat2(2), available from Linux 3.15), and the old file can be removed later.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from docker_registry.drivers.file import libc

_RENAME_EXCHANGE: Final = 2


def rename_unwritten(source: str, name: str, folder: int) -> bool:
    """
    Rename a file as :func:`os.rename` does, atomically for readers, and leave the write-back to the kernel.

    Args:
        source: an unlisted path, because another file may be there for a moment.
        name: the new name in the folder of descriptor *folder*.

    Returns:
        Whether the replaced file is now at *source* and must be removed.
    """
    if not _is_file(name, folder) or not _exchange(source, name, folder):
        os.rename(source, name, dst_dir_fd=folder)
        return False
    if stat.S_ISDIR(os.lstat(source).st_mode):  # replaced by a folder just before the exchange
        _exchange(source, name, folder)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    return True


def _is_file(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _exchange(source: str, name: str, folder: int) -> bool:
    """Exchange the names of two files; return False where that is not possible."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    return renameat2(libc.AT_FDCWD, os.fsencode(source), folder, os.fsencode(name), _RENAME_EXCHANGE) == 0


def _renameat2() -> Callable[..., int] | None:
    return libc.find("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
