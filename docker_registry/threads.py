"""Deprecated alias of :mod:`docker_registry.concurrency` for third-party storage drivers (docs/drivers.md)."""

from __future__ import annotations

import warnings
from typing import Any

from docker_registry import concurrency

_NAMES = {"in_thread": "run_in_thread", "leave_to_thread": "run_in_background"}


def __getattr__(name: str) -> Any:
    """Return a function by its former name, with a warning."""
    try:
        found = getattr(concurrency, _NAMES.get(name, name))
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    warnings.warn(f"{__name__}.{name} is now in docker_registry.concurrency", DeprecationWarning, stacklevel=2)
    return found
