"""Small JSON documents in the store, which several workers and hosts may change at the same time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final, NoReturn

from docker_registry.drivers.base import ABSENT, StorageDriver, Versioned
from docker_registry.errors import PreconditionFailed

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
