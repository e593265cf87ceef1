"""
Detects that the client of the current request has disconnected.

Long computations call :func:`check` regularly and stop when the client has disconnected. The worker sets the client for
each request; elsewhere, in commands and background greenlets, there is none and the check always passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from docker_registry.errors import ClientLeft

_has_left: ContextVar[Callable[[], bool] | None] = ContextVar("client_presence", default=None)


@contextmanager
def watched(has_left: Callable[[], bool]) -> Iterator[None]:
    """
    Set the client of the requests that the current greenlet serves within this context.

    Args:
        has_left: returns, without blocking, whether the client has closed its connection.
    """
    token = _has_left.set(has_left)
    try:
        yield
    finally:
        _has_left.reset(token)


@contextmanager
def ignored() -> Iterator[None]:
    """Unset the client within this context, so that the work continues if the client disconnects."""
    token = _has_left.set(None)
    try:
        yield
    finally:
        _has_left.reset(token)


def check() -> None:
    """
    Stop the current computation if the client has disconnected.

    Raises:
        ClientLeft: the client of the current request has closed its connection.
    """
    has_left = _has_left.get()
    if has_left is not None and has_left():
        raise ClientLeft
