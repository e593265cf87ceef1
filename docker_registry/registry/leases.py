"""Leases: exclusive rights to do some work, across processes and hosts, for a limited time."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from docker_registry.drivers.base import ABSENT, StorageDriver, Versioned
from docker_registry.errors import PreconditionFailed, StorageFull
from docker_registry.registry import layout, store_removal, stored_document


class Leases:
    """
    Grants leases by compare-and-swap on a small file::

        {"holder": "0b5c…", "until": 1767225600.0, "seconds": 60.0, "process": "5f2e… pid:[4026531836] 4711 8123456"}

    A lease that ends later than twice its lifetime (``seconds``) from now was taken by a host whose clock is wrong, and
    is free. ``process`` is part of a lease that ends with its process: other processes in its namespace of process ids
    find it free at once. On a store without conditional writes every lease is granted, and on a full store those of
    work that frees space. So the work must also be safe when two processes do it at the same time.

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

    def take(self, work: str, seconds: float, *, ends_with_process: bool = False, frees_space: bool = False) -> bool:
        """
        Try to acquire the lease of some work, or extend it if this process holds it.

        Args:
            work: name of the work, used as a file name.
            seconds: lifetime of the lease, from now.
            ends_with_process: whether the lease is free before that if this process has ended, to processes that can
                detect its end.
            frees_space: whether the work frees space, so that the lease is granted on a full store, where it cannot be
                written.

        Returns:
            False when another process holds the lease.
        """
        try:
            is_taken = self._take(layout.lease(work), seconds, this_process() if ends_with_process else "")
        except StorageFull:
            if not frees_space:
                raise
            is_taken = True
        self.counts[work.partition("-")[0], "taken" if is_taken else "busy"] += 1
        return is_taken

    def _take(self, path: str, seconds: float, process: str) -> bool:
        if not self._driver.capabilities.if_match:
            return True
        stored = self._driver.find_versioned(path) or Versioned(b"", ABSENT)
        if stored.version != ABSENT and not self._is_free(stored.content):
            return False
        document = {"holder": self._holder, "until": self._now() + seconds, "seconds": seconds}
        lease = json.dumps({**document, "process": process} if process else document).encode()
        try:
            self._driver.put_content(path, lease, if_match=stored.version)
        except PreconditionFailed:
            return False
        return True

    def has_expired(self, work: str) -> bool:
        """Return whether the lease was not released, and its holder has ended, did not extend it or is this process."""
        lease = self._driver.find_versioned(layout.lease(work))
        return lease is not None and bool(lease.content) and self._is_free(lease.content)

    def is_taken(self, work: str) -> bool:
        """Return whether the lease was not released, even if it has expired."""
        return self._driver.find_versioned(layout.lease(work)) is not None

    def release(self, work: str) -> None:
        """Give up a lease before it expires; a lease that another process holds is left alone."""
        path = layout.lease(work)
        lease = self._driver.find_versioned(path)
        if lease is not None and self._is_free(lease.content):
            store_removal.remove_version(self._driver, path, lease.version)

    def _is_free(self, content: bytes) -> bool:
        try:
            lease = stored_document.parse(content)
            left = lease["until"] - self._now()
            is_free = lease["holder"] == self._holder or left < 0
            is_from_the_future = left > 2 * lease.get("seconds", math.inf)
            return is_free or is_from_the_future or has_ended(str(lease.get("process", "")))
        except (ValueError, KeyError, TypeError):  # a damaged or foreign file must not block the work for ever
            return True


def this_process() -> str:
    """
    Return a text that identifies this process: boot of the machine, namespace of process ids, id and start.

    Empty where the system does not provide these.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()} {os.getpid()} {_started(os.getpid())}"
    except OSError:
        return ""


def has_ended(process: str) -> bool:
    """Return whether a process, as of :func:`this_process`, has certainly ended; False for one on another machine."""
    *where, pid, started = process.split() if process.count(" ") == 3 else ("", "", "")
    if not pid.isdigit() or where != this_process().split()[:2]:
        return False
    try:
        return _started(int(pid)) != started
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False


def _started(pid: int) -> str:
    """Return when a process started, in ticks since the boot; empty for one that has ended but was not reaped."""
    state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return "" if state in ("Z", "X") else fields[18]
