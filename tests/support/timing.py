"""
Waiting and measuring without failures on a busy machine.

A test that waits passes as soon as its condition holds, so that only a failure takes long. A test that measures repeats
and judges the quickest run, with the garbage collector off. Where possible a test counts operations instead.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import requests

_T = TypeVar("_T")

#: How long a test waits for something that takes a moment on an idle machine.
PATIENCE_SECONDS = 60.0


def wait_until(
    condition: Callable[[], _T], message: Callable[[], object] | None = None, seconds: float = PATIENCE_SECONDS
) -> _T:
    """
    Return the first true result of a condition, which is called again and again.

    Args:
        message: describes what was found instead, for the error.
        seconds: how long to wait before the test fails.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(message() if message else "the condition does not become true")
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keep the garbage collector, which takes long in a large process, out of a measurement."""
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def quickest(work: Callable[[], object], repetitions: int = 5, clock: Callable[[], float] = time.monotonic) -> float:
    """Return the seconds that the quickest of several repetitions of some work takes."""
    durations = []
    with without_garbage_collection():
        for _ in range(repetitions):
            began = clock()
            work()
            durations.append(clock() - began)
    return min(durations)


class Latency:
    """
    Measures GET /v2/ of a server while this context is entered, beside that of an idle server on the same machine.

    Attributes:
        seconds: the latencies of the server.
        idle_seconds: those of the idle server, which only the machine delays.
    """

    LEAST = 100

    def __init__(self, url: str, idle_url: str) -> None:
        self.seconds: list[float] = []
        self.idle_seconds: list[float] = []
        self._over = threading.Event()
        self._error: Exception | None = None
        self._threads = [
            threading.Thread(target=self._ask, args=each)
            for each in ((url, self.seconds), (idle_url, self.idle_seconds))
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, error, traceback):
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._error is not None and error is None:
            raise self._error

    def assert_below(self, seconds: float) -> None:
        """
        Assert that the 99th percentile is below a limit.

        Where the machine is too busy for the limit even for the idle server, the limit is three times that server's.
        """
        found, idle = (sorted(each)[len(each) * 99 // 100] for each in (self.seconds, self.idle_seconds))
        assert found < max(seconds, 3 * idle), f"{found:.3f} s, {idle:.3f} s of an idle server (99 %)"

    def _ask(self, url: str, seconds: list[float]) -> None:
        try:
            with requests.Session() as session:
                while not self._over.wait(0.01) or len(seconds) < self.LEAST:
                    began = time.monotonic()
                    session.get(f"{url}/v2/", timeout=60).raise_for_status()
                    seconds.append(time.monotonic() - began)
        except Exception as error:  # noqa: BLE001 - raised when the context is left
            self._error = error
