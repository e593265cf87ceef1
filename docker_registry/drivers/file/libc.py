"""Functions of the C library that Python does not expose; each may be missing on some systems."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

#: The descriptor argument of a call that is given an absolute path.
AT_FDCWD: Final = -100


@lru_cache(maxsize=16)
def find(name: str, *arguments: type[Any], result: type[Any] = ctypes.c_int) -> Callable[..., int] | None:
    """
    Return a function of the C library; None if it does not exist. Its error is in :func:`ctypes.get_errno`.

    Args:
        arguments: the types of its arguments.
        result: the type of its result.
    """
    try:
        call: Any = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    call.argtypes, call.restype = arguments, result
    return call  # type: ignore[no-any-return]
