"""A clock that tests turn."""

from __future__ import annotations


class Clock:
    """
    Stands in for :func:`time.monotonic` or :func:`time.time`.

    Attributes:
        now: what it shows, in seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
