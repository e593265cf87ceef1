"""
The user as whom a command of root writes to a store of files.

A server usually runs as a user of its own, while root runs the commands. That server could neither change nor read what
root created in its store, and would not start any more, so commands of root create files as the owner of the store.
They keep the capabilities by which root reads and writes other files: the configuration, and the folder of a backup.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

#: ``_LINUX_CAPABILITY_VERSION_3`` of capget(2) and capset(2): two blocks of effective, permitted and inheritable.
_VERSION: Final = 0x20080522

#: CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER.
_ACCESS_TO_FILES: Final = 0b1111

#: CAP_SETGID and CAP_SETUID.
_CHANGE_OF_USER: Final = 0b11 << 6


def act_as_owner(folder: Path, uid: int | None = None, gid: int | None = None) -> None:
    """
    Make this process create files as the owner of a store from now on, if root runs it.

    Nothing changes for root without these powers, as in some containers.

    Args:
        folder: of the store.
        uid: the user to create files as, instead of the owner of *folder*.
        gid: the group.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = folder.stat()
    except OSError:  # it will be created, or the driver explains why it cannot be used
        return
    uid, gid = (owner.st_uid if uid is None else uid), (owner.st_gid if gid is None else gid)
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    if uid == 0 or libc.capget(header, sets) != 0:
        return
    needed = _ACCESS_TO_FILES | _CHANGE_OF_USER
    if sets[0] & needed != needed:
        return
    try:
        os.setegid(gid)
        os.seteuid(uid)  # clears the effective capabilities of this process, not the permitted ones
    except OSError:  # an id that is not mapped into this container
        os.setegid(os.getgid())
        return
    sets[0] = _ACCESS_TO_FILES
    libc.capset(header, sets)
