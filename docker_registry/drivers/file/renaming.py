"""
Renaming a file over another one without sending it to the disk.

Where a file replaces another, ext4 begins to write its content during the rename, for programs that forget to sync it
(``auto_da_alloc`` in ext4(5)). That takes ten times as long as the rename, and is in vain where a journal has the
content, or where nobody needs it after a crash of the host. Two files that exchange their names (renameat2(2), since
3.15) are left alone; and the old one can be removed when there is time for it.
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
    Rename a file as :func:`os.rename` does, atomically for whoever reads, and leave its content to the system.

    Args:
        source: where nobody looks, as another file may lie there for a moment.
        name: in the folder of this descriptor.

    Returns:
        Whether the file that was there lies at *source* now, to be removed.
    """
    if not _is_file(name, folder) or not _exchange(source, name, folder):
        os.rename(source, name, dst_dir_fd=folder)
        return False
    if stat.S_ISDIR(os.lstat(source).st_mode):  # no file any more when it came to the exchange
        _exchange(source, name, folder)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    return True


def _is_file(name: str, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _exchange(source: str, name: str, folder: int) -> bool:
    """Let two files exchange their names; False where that cannot be."""
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    return renameat2(libc.AT_FDCWD, os.fsencode(source), folder, os.fsencode(name), _RENAME_EXCHANGE) == 0


def _renameat2() -> Callable[..., int] | None:
    return libc.find("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
