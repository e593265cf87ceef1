"""
The creation time of a file (statx(2)).

No program can set this time, and a copy of a file never has that of the original.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from docker_registry.drivers.file import libc

_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800

#: struct statx begins with its mask; the creation time, in seconds and nanoseconds, is at offset 80.
_STATX_BYTES: Final = 256
_MASK: Final = struct.Struct("=I")
_BTIME: Final = struct.Struct("=qI")
_BTIME_OFFSET: Final = 80


def born(fd: int) -> int:
    """Return the creation time of a file or folder, in nanoseconds since the epoch; 0 where it is unknown."""
    arguments = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    statx = libc.find("statx", *arguments)
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if statx is None or statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, found) != 0:
        return 0
    (mask,) = _MASK.unpack_from(found)
    seconds, nanoseconds = _BTIME.unpack_from(found, _BTIME_OFFSET)
    return max(seconds, 0) * 10**9 + nanoseconds if mask & _STATX_BTIME else 0
