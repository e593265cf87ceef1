"""Leases: exclusive rights to do some work, across processes and hosts, for a limited time."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable

from docker_registry.drivers.base import ABSENT, StorageDriver, Versioned
from docker_registry.errors import PreconditionFailed
from docker_registry.registry import layout


class Leases:
    """
    Grants leases by compare-and-swap on a small file::

        {"holder": "0b5c…", "until": 1767225600.0}

    On a store without conditional writes every lease is granted, so the work must also be safe when two processes do
    it at the same time.

    Attributes:
        counts: number of calls of :meth:`take` by the kind of work, its name up to the first hyphen, and the result,
            ``taken`` or ``busy``.
    """

    def __init__(self, driver: StorageDriver, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._now = now
        self._holder = str(uuid.uuid4())
        self.counts: Counter[tuple[str, str]] = Counter()

    def take(self, work: str, seconds: float) -> bool:
        """
        Try to acquire the lease of some work, or extend it if this process holds it.

        Args:
            work: name of the work, used as a file name.
            seconds: lifetime of the lease, from now.

        Returns:
            False when another process holds the lease.
        """
        is_taken = self._take(layout.lease(work), seconds)
        self.counts[work.partition("-")[0], "taken" if is_taken else "busy"] += 1
        return is_taken

    def _take(self, path: str, seconds: float) -> bool:
        if not self._driver.capabilities.if_match:
            return True
        stored = self._driver.find_versioned(path) or Versioned(b"", ABSENT)
        if stored.version != ABSENT and not self._is_free(stored.content):
            return False
        lease = json.dumps({"holder": self._holder, "until": self._now() + seconds}).encode()
        try:
            self._driver.put_content(path, lease, if_match=stored.version)
        except PreconditionFailed:
            return False
        return True

    def has_expired(self, work: str) -> bool:
        """Return whether the last holder neither released the lease nor extended it; False if there is none."""
        lease = self._driver.find_versioned(layout.lease(work))
        return lease is not None and bool(lease.content) and self._is_free(lease.content)

    def is_taken(self, work: str) -> bool:
        """Return whether a process holds the lease, or held it and neither released nor extended it."""
        return self._driver.find_versioned(layout.lease(work)) is not None

    def release(self, work: str) -> None:
        """Give up a lease before it expires; a lease that another process holds is left alone."""
        path = layout.lease(work)
        lease = self._driver.find(path)
        if lease is not None and self._is_free(lease):
            self._driver.discard(path)

    def _is_free(self, content: bytes) -> bool:
        try:
            lease = json.loads(content)
            return bool(lease["holder"] == self._holder or lease["until"] < self._now())
        except (ValueError, KeyError, TypeError):  # a damaged or foreign file must not block the work for ever
            return True
