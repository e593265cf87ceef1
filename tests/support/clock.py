"""A clock that tests turn."""

from __future__ import annotations


class Clock:
    """
    Stands in for :func:`time.monotonic`.

    Attributes:
        now: what it shows, in seconds.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
