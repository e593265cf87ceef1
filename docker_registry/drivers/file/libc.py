"""Functions of the C library that Python does not know; each is there only where the system has it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

#: What a call is told that takes the descriptor of a folder, when its path begins at the root.
AT_FDCWD: Final = -100


@lru_cache(maxsize=16)
def find(name: str, *arguments: type[Any], result: type[Any] = ctypes.c_int) -> Callable[..., int] | None:
    """
    Return a function, which leaves its error to :func:`ctypes.get_errno`; None where there is none of that name.

    Args:
        arguments: the types of what it is called with.
        result: the type of what it returns.
    """
    try:
        call: Any = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    call.argtypes, call.restype = arguments, result
    return call  # type: ignore[no-any-return]
