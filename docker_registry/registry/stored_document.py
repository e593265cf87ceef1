"""Small JSON documents in the store, which several workers and hosts may change at the same time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final, NoReturn

from docker_registry.drivers.base import ABSENT, StorageDriver, Versioned
from docker_registry.errors import PreconditionFailed

#: The latest time: it is in the year 4147, so the end of a life that begins then is a date, too.
_MAX_SECONDS: Final = 2**36

#: Maximum number of digits of an integer; a float can hold any such integer.
_MAX_DIGITS: Final = 300


def parse(content: bytes) -> Any:
    """
    Parse a document.

    Raises:
        ValueError: the content is not JSON, is nested too deeply, or contains NaN, Infinity or a number that no float
            can hold; a time like that would never be due.
    """
    try:
        return json.loads(content, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("the document is nested too deeply") from None


def time_of(value: Any) -> float:
    """
    Return a stored time, in seconds since the Unix epoch.

    Raises:
        ValueError, TypeError: it is no number, or not within a range that dates can hold.
    """
    if not 0 <= (seconds := float(value)) <= _MAX_SECONDS:
        raise ValueError("the time is out of range")
    return seconds


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _whole(text: str) -> int:
    return int(text) if len(text) <= _MAX_DIGITS else _refuse(text)


def change(driver: StorageDriver, path: str, make: Callable[[Versioned | None], bytes | None]) -> None:
    """
    Replace a document by compare-and-swap. On a store without conditional writes, concurrent changes may be lost.

    Args:
        make: returns the new content, given what is stored (None if there is nothing); called again after a concurrent
            change. If it returns None, the document stays as it is.
    """
    while True:
        stored = driver.find_versioned(path)
        content = make(stored)
        if content is None:
            return
        version = ABSENT if stored is None else stored.version
        try:
            driver.put_content(path, content, if_match=version if driver.capabilities.if_match else None)
        except PreconditionFailed:
            continue
        return
