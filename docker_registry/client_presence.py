"""
Whether the client of the current request is still connected.

Long computations check it from time to time and stop when the client has left. The worker sets it for each request;
elsewhere, in commands and in background greenlets, there is no client to lose.
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
        has_left: tells, without waiting, whether the client has closed its connection.
    """
    token = _has_left.set(has_left)
    try:
        yield
    finally:
        _has_left.reset(token)


@contextmanager
def ignored() -> Iterator[None]:
    """Set no client within this context: the work in it goes on when the client of the current request leaves."""
    token = _has_left.set(None)
    try:
        yield
    finally:
        _has_left.reset(token)


def check() -> None:
    """
    Raises:
        ClientLeft: the client of the current request has closed its connection.
    """
    has_left = _has_left.get()
    if has_left is not None and has_left():
        raise ClientLeft
