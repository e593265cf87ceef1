"""Values in configuration files of the CNCF distribution registry, in which every scalar is read as text."""

from __future__ import annotations

import math
import re
from typing import Any, Final

#: Levels of sections and lists; more than any configuration has.
_MAX_DEPTH: Final = 100
#: The error about a configuration that has more.
TOO_DEEP: Final = "is nested too deeply, or an anchor contains itself"

_DURATION: Final = re.compile(r"([0-9.]+)(ns|us|µs|ms|s|m|h)")
#: The longest duration of Go: 64 bits of nanoseconds.
_MAX_SECONDS: Final = 2**63 * 1e-9
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


def address(name: str, value: Any) -> tuple[str, str]:
    """
    Return the host and port of an address; the host is empty for all addresses.

    Raises:
        ValueError: it has no port.
    """
    host, colon, port = text(value).rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError(f"{name} must be an address with a port, such as :5000")
    return host.removeprefix("[").removesuffix("]"), port


def seconds(name: str, value: Any) -> str:
    """
    Return a duration of Go, such as 1h30m, in whole seconds, at least one.

    Raises:
        ValueError: it is not a duration.
    """
    return str(max(1, math.ceil(duration(name, value))))


def duration(name: str, value: Any) -> float:
    """
    Return a duration of Go, such as 1h30m or 0, in seconds.

    Raises:
        ValueError: it is not a duration.
    """
    if value == "0":
        return 0.0
    wrong = ValueError(f"{name} must be a duration, such as 168h or 1h30m")
    found = _DURATION.findall(text(value))
    if not found or "".join(number + unit for number, unit in found) != value:
        raise wrong
    try:
        total = sum(float(number) * _SECONDS[unit] for number, unit in found)
    except ValueError:
        raise wrong from None
    if total > _MAX_SECONDS:
        raise wrong
    return total


def texts(name: str, value: Any) -> list[str]:
    """
    Return the items of a list; a single text is a list of one item, and no value is an empty list.

    Raises:
        ValueError: it is a section, or an item is not text.
    """
    items = value if isinstance(value, list) else [] if value in (None, "") else [value]
    if not all(isinstance(item, str) for item in items):
        raise ValueError(f"{name} must be a list of texts")
    return items


def is_true(value: Any) -> bool:
    """Return whether a value is true, as YAML writes it."""
    return text(value).lower() in ("true", "yes", "on") if value is not None else False


def text(value: Any) -> str:
    """Return a scalar as it was written."""
    return value if isinstance(value, str) else "[]" if value == [] else repr(value)


def is_too_deep(tree: object) -> bool:
    """Return whether a tree is deeper than any configuration; one that contains itself is."""
    level: dict[int, Any] = {id(tree): tree} if isinstance(tree, (dict, list)) else {}
    for _ in range(_MAX_DEPTH):
        children = (child for each in level.values() for child in (each.values() if isinstance(each, dict) else each))
        level = {id(child): child for child in children if isinstance(child, (dict, list))}
    return bool(level)
