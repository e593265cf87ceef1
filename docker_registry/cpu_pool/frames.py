"""
The protocol between a worker and its job processes: frames over a socket pair, ``<kind: 1><length: 4><bytes>``.

::

    worker to process    J {"job": "list", "arguments": {…}}, then B blocks, P after each part, E at the end
    process to worker    B blocks, then D for done, or X {"error": "TooLarge", "sentence": …, "detail": {…}}
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

JOB: Final = b"J"
BLOCK: Final = b"B"
END_OF_PART: Final = b"P"
END: Final = b"E"
DONE: Final = b"D"
ERROR: Final = b"X"

#: Blocks are sent in frames of at most this size, so that neither side buffers more.
MAX_FRAME_BYTES: Final = 256 * 1024

_HEAD: Final = struct.Struct(">cI")


def pack(kind: bytes, size: int) -> bytes:
    """Return the header of a frame with *size* bytes of content."""
    return _HEAD.pack(kind, size)


def read(read_exactly: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """
    Read the next frame.

    Args:
        read_exactly: returns exactly the given number of bytes, or raises EOFError.

    Returns:
        The kind of the frame and its content.

    Raises:
        EOFError: the other side has closed the connection.
    """
    kind, size = _HEAD.unpack(read_exactly(_HEAD.size))
    return kind, read_exactly(size) if size else b""
