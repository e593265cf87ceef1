"""Limits how often errors of the same kind are reported."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: Kinds that are remembered; the least recently reported ones are forgotten first.
_MAX_KINDS: Final = 1000


class KindLimiter:
    """Allows one report for each kind of error and period in this process, and counts those in between."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            seconds: the period.
        """
        self._seconds = seconds
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def allow(self, kind: str) -> int | None:
        """
        Begin a period if none is running for this kind.

        Returns:
            How many errors of this kind were not reported since the last period began; None if this one must not be
            reported either.
        """
        now = self._clock()
        began, missed = self._known.get(kind, (now - self._seconds, 0))
        if now - began < self._seconds:
            self._known[kind] = (began, missed + 1)
            return None
        self._known[kind] = (now, 0)
        self._known.move_to_end(kind)
        if len(self._known) > _MAX_KINDS:
            self._known.popitem(last=False)
        return missed

    def retry_after(self, kind: str, seconds: float) -> None:
        """End the period of a kind earlier, because its report failed."""
        _, missed = self._known.get(kind, (0.0, 0))
        self._known[kind] = (self._clock() - self._seconds + seconds, missed + 1)
