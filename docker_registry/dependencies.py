"""
The dependencies of a response: the files that its request read, with their signatures, and the cache entries.

While a request is answered within :func:`collected`, the `file` driver records here each file that it reads or finds
missing. As long as all of them are unchanged, the same request has the same response
(:mod:`docker_registry.server.response_cache`).
Cache entries are recorded and checked by a validator (:mod:`docker_registry.drivers.cache.validator`). Anything
untrackable makes the response uncacheable: work in another thread, a listing, or a file so young that a change in the
same tick of the file system's clock would go unnoticed.

Only responses that depend on nothing but the request and these dependencies are offered for caching.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol, TypeVar

#: Device, inode, size, mtime and ctime in nanoseconds; None for a missing file.
Signature = tuple[int, int, int, int, int] | None

#: A file that changed less than this ago may change again with the same timestamp: kernels advance the clock of file
#: systems every 1 to 10 ms.
CLOCK_TICK_NANOSECONDS: Final = 100_000_000

#: The same for file systems whose timestamps have a resolution of one second (ext3, ext4 with 128-byte inodes, some
#: NFS) or two (FAT).
WHOLE_SECONDS_TICK_NANOSECONDS: Final = 2_100_000_000

_SECOND_NANOSECONDS: Final = 10**9

#: A response with more files costs as much to validate as to compute.
_MAX_FILES: Final = 64


class Validator(Protocol):
    """A validator: records the dependencies of a response that are not files, and checks them."""

    @property
    def is_complete(self) -> bool:
        """Whether all of these dependencies could be recorded."""

    def is_current(self) -> bool:
        """Return whether all of them are unchanged; may block."""


V = TypeVar("V", bound=Validator)


class Dependencies:
    """
    The dependencies of one response.

    Attributes:
        is_complete: whether all dependencies could be recorded.
        is_cacheable: whether the application has declared the response cacheable.
        validator: validator of the dependencies that are not files, if there are any.
        until: expiry of the response, on the monotonic clock.
    """

    __slots__ = ("_files", "_versions", "is_cacheable", "is_complete", "until", "validator")

    def __init__(self) -> None:
        self.is_complete = True
        self.is_cacheable = False
        self.validator: Validator | None = None
        self.until = math.inf
        self._files: dict[str, Signature] = {}
        self._versions: list[tuple[Callable[[], object], object]] = []

    def is_current(self) -> bool:
        """Return whether all dependencies are unchanged."""
        for path, signature in self._files.items():
            try:
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                if signature is not None:
                    return False
            except OSError:
                return False
            else:
                if signature != signature_of(status):
                    return False
        for version, recorded in self._versions:
            if version() != recorded:
                return False
        return self.validator is None or (self.validator.is_complete and self.validator.is_current())

    def record(self, path: str, status: os.stat_result | None) -> None:
        """Record a file with its status, or as missing; a file that cannot be tracked clears `is_complete`."""
        signature = None if status is None else signature_of(status)
        is_ambiguous = status is not None and may_change_unnoticed(status)
        if is_ambiguous or len(self._files) >= _MAX_FILES or self._files.setdefault(path, signature) != signature:
            self.is_complete = False

    def record_version(self, version: Callable[[], object]) -> None:
        """Record the current value of a version; see :func:`depend_on_version`."""
        self._versions.append((version, version()))

    def release(self, signature: Signature) -> str | None:
        """
        Remove a file that the caller will check itself.

        Returns:
            Its path; None if no file with this signature was recorded.
        """
        path = next((path for path, recorded in self._files.items() if recorded == signature), None)
        if path is not None:
            del self._files[path]
        return path


_collecting: ContextVar[Dependencies | None] = ContextVar("dependencies", default=None)


@contextmanager
def collected() -> Iterator[Dependencies]:
    """Collect the dependencies of the response that this greenlet computes within the context."""
    dependencies = Dependencies()
    token = _collecting.set(dependencies)
    try:
        yield dependencies
    finally:
        _collecting.reset(token)


def may_change_unnoticed(status: os.stat_result) -> bool:
    """
    Return whether a file or folder could still change without a change of its timestamps.

    The resolution is inferred from each timestamp: a fraction of exactly zero means whole seconds. So no probe is
    needed, and a file system may mix both, as ext3 converted to ext4 does. Only ctime counts, because programs can set
    mtime to any value.
    """
    has_whole_seconds = status.st_ctime_ns % _SECOND_NANOSECONDS == 0
    tick = WHOLE_SECONDS_TICK_NANOSECONDS if has_whole_seconds else CLOCK_TICK_NANOSECONDS
    return time.time_ns() - status.st_ctime_ns < tick


def record(path: str, status: os.stat_result | None) -> None:
    """
    Record a file as a dependency of the current response.

    Args:
        path: its path in the file system.
        status: its status; None if it does not exist.
    """
    dependencies = _collecting.get()
    if dependencies is not None:
        dependencies.record(path, status)


def validator(kind: type[V], make: Callable[[], V]) -> V | None:
    """
    Return the validator of the current response.

    Args:
        make: creates the validator at the first call for a response.

    Returns:
        None if nothing is being collected, or the response is uncacheable already.
    """
    dependencies = _collecting.get()
    if dependencies is None or not dependencies.is_complete:
        return None
    if dependencies.validator is None:
        dependencies.validator = make()
    if isinstance(dependencies.validator, kind):
        return dependencies.validator
    dependencies.is_complete = False  # two stacked stores: no validator covers both
    return None


def make_uncacheable() -> None:
    """Mark the current response as uncacheable: it depends on something untrackable."""
    dependencies = _collecting.get()
    if dependencies is not None:
        dependencies.is_complete = False


def declare_cacheable() -> None:
    """Mark the current response as cacheable: it depends only on its request and the recorded dependencies."""
    dependencies = _collecting.get()
    if dependencies is not None:
        dependencies.is_cacheable = True


def expire(at: float) -> None:
    """
    Limit the time in which the current response may be cached.

    Args:
        at: on the monotonic clock (:func:`time.monotonic`); the earliest of several applies.
    """
    dependencies = _collecting.get()
    if dependencies is not None:
        dependencies.until = min(dependencies.until, at)


def depend_on_version(version: Callable[[], object]) -> None:
    """
    Make the current response depend on something in memory, such as the rules of an access policy.

    Args:
        version: returns a value that changes whenever cached responses may no longer be sent; called for each response
            from the cache, so it must take less than a microsecond.
    """
    dependencies = _collecting.get()
    if dependencies is not None:
        dependencies.record_version(version)


def signature_of(status: os.stat_result) -> Signature:
    """Return what identifies a state of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
