"""A driver that measures how long the calls of another driver take."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from time import perf_counter
from types import TracebackType
from typing import Any, Final

from docker_registry.drivers.base import Bytes, Capabilities, Stat, StorageDriver

#: Upper bounds of the histogram of durations, in seconds.
ACTION_BOUNDS: Final = (0.0001, 0.00025, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

#: Methods that are measured, and the names of their actions in the CNCF distribution registry.
_ACTIONS: Final = {
    "get_content": "GetContent",
    "get_versioned": "GetContent",
    "find": "GetContent",
    "find_versioned": "GetContent",
    "put_content": "PutContent",
    "replace_content": "PutContent",
    "stream_read": "Reader",
    "open_file": "Reader",
    "stream_write": "Writer",
    "repair": "Writer",
    "exists": "Stat",
    "stat": "Stat",
    "get_size": "Stat",
    "find_size": "Stat",
    "announce_writes": "Stat",
    "find_sizes": "Stat",
    "has_file": "Stat",
    "has_kept": "Stat",
    "move": "Move",
    "remove": "Delete",
    "discard": "Delete",
    "discard_file": "Delete",
    "remove_if_match": "Delete",
    "content_redirect_url": "RedirectURL",
}

#: Methods that return an iterator, which is measured too.
_LISTINGS: Final = {"list_directory": "List", "walk": "Walk"}

#: Our own action: publishing the changes of a batch.
_BATCH: Final = "Batch"

#: Methods that are not measured.
_PASSED_ON: Final = ("folder_version", "is_shared", "link", "remove_leftovers", "touch")


class ActionTimes:
    """
    The durations of one kind of call.

    Attributes:
        seconds: of all calls together.
        buckets: number of calls by :data:`ACTION_BOUNDS`, not cumulative.
    """

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.buckets = [0] * (len(ACTION_BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        """Add a call."""
        self.seconds += seconds
        self.buckets[bisect_left(ACTION_BOUNDS, seconds)] += 1


class StorageTimes:
    """The durations of the calls of a store, by action."""

    def __init__(self) -> None:
        self.actions = {name: ActionTimes() for name in (*_ACTIONS.values(), *_LISTINGS.values(), _BATCH)}


class MeasuredDriver(StorageDriver):
    """
    Measures the calls of another driver.

    Its methods are those of the other driver, or closures around them, so that a call costs one function more at most.
    Only the calls of the registry count, not those that a driver makes of itself. A stream is measured until it is
    open, a listing until it has ended, and a write from its first to its last byte.
    """

    def __init__(self, driver: StorageDriver, times: StorageTimes) -> None:
        """
        Args:
            times: receives the durations.
        """
        self.driver = driver
        self._times = times
        for name, action in _ACTIONS.items():
            self.__dict__[name] = _measured(getattr(driver, name), times.actions[action])
        for name, action in _LISTINGS.items():
            self.__dict__[name] = _measured_listing(getattr(driver, name), times.actions[action])
        for name in _PASSED_ON:
            self.__dict__[name] = getattr(driver, name)

    @cached_property
    def capabilities(self) -> Capabilities:
        """Those of the other driver."""
        return self.driver.capabilities

    @property
    def tracks_dependencies(self) -> bool:
        """That of the other driver."""
        return self.driver.tracks_dependencies

    @cached_property
    def scratch(self) -> StorageDriver:
        """See :class:`StorageDriver`."""
        scratch = self.driver.scratch
        return self if scratch is self.driver else MeasuredDriver(scratch, self._times)

    def batch(self) -> AbstractContextManager[None]:
        """See :class:`StorageDriver`."""
        return _MeasuredBatch(self.driver.batch(), self._times.actions[_BATCH])

    # The abstract methods, which the constructor replaces.

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        raise NotImplementedError

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        raise NotImplementedError

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        raise NotImplementedError

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        raise NotImplementedError

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        raise NotImplementedError

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        raise NotImplementedError

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        raise NotImplementedError

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        raise NotImplementedError

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`."""
        raise NotImplementedError

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        raise NotImplementedError

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        raise NotImplementedError


class _MeasuredBatch(AbstractContextManager[None]):
    """Measures the end of a batch, where its changes are published."""

    def __init__(self, batch: AbstractContextManager[None], times: ActionTimes) -> None:
        self._batch = batch
        self._times = times

    def __enter__(self) -> None:
        self._batch.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        began = perf_counter()
        try:
            return self._batch.__exit__(kind, error, traceback)
        finally:
            seconds = perf_counter() - began
            self._times.seconds += seconds
            self._times.buckets[bisect_left(ACTION_BOUNDS, seconds)] += 1


def _measured(call: Callable[..., Any], times: ActionTimes) -> Callable[..., Any]:
    def measured(*args: Any, **options: Any) -> Any:
        began = perf_counter()
        try:
            return call(*args, **options)
        finally:  # like ActionTimes.add, which would cost a call
            seconds = perf_counter() - began
            times.seconds += seconds
            times.buckets[bisect_left(ACTION_BOUNDS, seconds)] += 1

    return measured


def _measured_listing(call: Callable[..., Iterator[Any]], times: ActionTimes) -> Callable[..., Iterator[Any]]:
    def measured(path: str = "") -> Iterator[Any]:
        began = perf_counter()
        try:
            items = iter(call(path))
        except BaseException:
            times.add(perf_counter() - began)
            raise
        return _timed(items, times, perf_counter() - began)

    return measured


def _timed(items: Iterator[Any], times: ActionTimes, seconds: float) -> Iterator[Any]:
    """Yield items, and add the time that they took, without that of their consumer."""
    try:
        while True:
            began = perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                seconds += perf_counter() - began
            yield item
    finally:
        times.add(seconds)
