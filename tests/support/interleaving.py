"""
Interleavings of two requests over one store.

Each request runs in a greenlet and is stopped before every call of its storage driver. :func:`schedules` lets one
request make some calls, then the other, and so on with at most two switches, so that every moment at which one request
can meet the other is tried, deterministically and without waiting.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import greenlet

from docker_registry.drivers.base import StorageDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import RegistryError

#: More calls than any request makes.
ALL = 1_000_000


def stop():
    """Return control to the scheduler of this request; do nothing outside of one."""
    current = greenlet.getcurrent()
    if isinstance(current, _Greenlet):
        current.parent.switch()


class _Greenlet(greenlet.greenlet):
    """A request that runs."""


class StoppingDriver(StorageDriver):
    """A store at each of whose calls a request can be stopped."""

    def __init__(self, driver):
        self.driver = driver

    @property
    def capabilities(self):
        return self.driver.capabilities

    def get_content(self, path):
        stop()
        return self.driver.get_content(path)

    def get_versioned(self, path):
        stop()
        return self.driver.get_versioned(path)

    def put_content(self, path, content, *, if_match=None):
        stop()
        self.driver.put_content(path, content, if_match=if_match)

    def stream_read(self, path, offset=0, length=None):
        stop()
        return iter(list(self.driver.stream_read(path, offset, length)))

    def stream_write(self, path, blocks):
        content = [bytes(block) for block in blocks]
        stop()
        return self.driver.stream_write(path, content)

    def list_directory(self, path=""):
        stop()
        return iter(list(self.driver.list_directory(path)))

    def walk(self, path=""):
        stop()
        return iter(list(self.driver.walk(path)))

    def folder_version(self, path):
        return None  # listed every time

    def exists(self, path):
        stop()
        return self.driver.exists(path)

    def stat(self, path):
        stop()
        return self.driver.stat(path)

    def move(self, source, target):
        stop()
        self.driver.move(source, target)

    def link(self, source, target):
        stop()
        return self.driver.link(source, target)

    def touch(self, path):
        stop()
        self.driver.touch(path)

    def remove(self, path):
        stop()
        self.driver.remove(path)

    def remove_if_match(self, path, version):
        stop()
        self.driver.remove_if_match(path, version)

    @contextmanager
    def batch(self):
        with self.driver.batch():
            yield
            stop()  # contents that were put may be seen only from here on


class Request:
    """A request that was begun."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._greenlet = _Greenlet(self._run)
        self.error: RegistryError | None = None
        self.calls = 0

    def _run(self):
        try:
            self._work()
        except RegistryError as error:
            self.error = error

    @property
    def is_done(self):
        return self._greenlet.dead

    def advance(self, calls=ALL):
        """Let the request make this many calls of the store, or fewer if it ends earlier."""
        for _ in range(calls):
            if self._greenlet.dead:
                return
            self._greenlet.switch()
            self.calls += 1


@dataclass(frozen=True)
class Schedule:
    """Let the request *first* make *calls* of its calls, then the other *other_calls*, then the first all of its."""

    first: int
    calls: int
    other_calls: int

    def run(self, requests):
        first, other = requests[self.first], requests[1 - self.first]
        first.advance(self.calls + 1)  # it stops before each call
        other.advance(self.other_calls + 1 if self.other_calls < ALL else ALL)
        first.advance()
        other.advance()


def schedules(counts: tuple[int, int]) -> Iterator[Schedule]:
    """
    Yield every schedule with at most two switches.

    Args:
        counts: of the calls that each request makes, at most.
    """
    for first in (0, 1):
        for calls in range(counts[first]):
            yield Schedule(first, calls, ALL)
            for other_calls in range(1, counts[1 - first]):
                yield Schedule(first, calls, other_calls)


def sample(found: list[Schedule], size: int, seed: str) -> list[Schedule]:
    """Return a fixed sample of the schedules, which includes all with one switch."""
    boundary = [each for each in found if each.other_calls == ALL]
    rest = [each for each in found if each.other_calls != ALL]
    return boundary + random.Random(seed).sample(rest, min(size, len(rest)))


def copied(driver: MemoryDriver) -> MemoryDriver:
    """Return another store in memory with the same content."""
    copy = MemoryDriver()
    copy._files = dict(driver._files)
    return copy
