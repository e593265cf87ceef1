"""Deprecated name that third-party storage drivers may import (docs/drivers.md): ``Brief``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from docker_registry.concurrency import run_in_thread

Result = TypeVar("Result")


class Brief:
    """Runs calls in native threads; :attr:`~docker_registry.drivers.base.StorageDriver.run_brief` replaces it."""

    def __init__(self) -> None:
        warnings.warn(f"{__name__}.Brief: use StorageDriver.run_brief", DeprecationWarning, stacklevel=2)

    def call(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function and return its result."""
        return run_in_thread(function, *args)
