"""
Blocking calls, concurrent calls and locks of a worker, whose requests are greenlets of one thread.

Blocking calls run in native threads, so that the other greenlets keep running. A long computation stops when the client
of its request has disconnected: the worker sets the client of each request; elsewhere, in commands and background
greenlets, there is none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar, copy_context
from types import TracebackType
from typing import Any, Final, Generic, Protocol, TypeVar

import gevent
from gevent import monkey
from gevent.event import AsyncResult

from docker_registry import dependencies
from docker_registry.errors import ClientLeft

Result = TypeVar("Result")

#: Maximum number of functions that :func:`run_concurrently` runs at the same time.
MAX_CONCURRENT: Final = 8

#: Time between two ticks of :func:`responsive_deadline`.
_TICK_SECONDS: Final = 0.005

#: Closes a descriptor that no greenlet waits on, at once. gevent's ``os.close`` defers closing anything but regular
#: files to the next iteration of the event loop; descriptors of folders would accumulate until then.
close_now: Callable[[int], None] = monkey.get_original("os", "close")


class RunBlocking(Protocol):
    """Calls a blocking function, waits for it, and returns its result."""

    def __call__(self, function: Callable[..., Result], /, *args: Any) -> Result:
        """See :class:`RunBlocking`."""


def run_in_thread(function: Callable[..., Result], *args: Any) -> Result:
    """
    Call a blocking function, such as fsync, and wait for its result.

    In a server worker the function runs in gevent's pool of native threads. Elsewhere no other greenlet needs this
    thread, so it is called directly. Either way it has ended when this returns or raises.
    """
    if not monkey.is_module_patched("threading"):
        return function(*args)
    return start_in_thread(function, *args)()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """
    Raise :class:`TimeoutError` if the block takes longer than *seconds*, however its waits are divided.

    This needs gevent; outside of a worker, as in commands, only the timeouts of the sockets apply.
    """
    if not monkey.is_module_patched("socket"):
        yield
        return
    timeout = gevent.Timeout.start_new(seconds)
    try:
        yield
    except gevent.Timeout as raised:
        if raised is not timeout:
            raise
        raise TimeoutError from None
    finally:
        timeout.close()


def responsive_deadline(seconds: float) -> AbstractContextManager[Callable[[], float]]:
    """
    Raise :class:`TimeoutError` if the block waits longer than *seconds* while the worker is responsive.

    A busy worker reads a response late, however fast it came. So the time is counted in ticks of a timer of the event
    loop: a loop that is late misses ticks. Outside of a worker nothing is raised, and the time in which this process
    used the processor does not count.

    Returns:
        A context manager, whose value is a function that returns how long the block has waited, in seconds.
    """
    return _Ticks(seconds) if monkey.is_module_patched("socket") else _off_processor()


@contextmanager
def _off_processor() -> Iterator[Callable[[], float]]:
    started, processor_started = time.monotonic(), time.process_time()
    yield lambda: time.monotonic() - started - (time.process_time() - processor_started)


class _Ticks:
    """Counts ticks of the event loop during a block, and interrupts it when there were too many."""

    __slots__ = ("_count", "_greenlet", "_most", "_timeout", "_timer")

    def __init__(self, seconds: float) -> None:
        self._count = 0
        self._most = round(seconds / _TICK_SECONDS) + 1
        self._timeout: gevent.Timeout | None = None

    def __enter__(self) -> Callable[[], float]:
        self._greenlet = gevent.getcurrent()
        self._timer = gevent.get_hub().loop.timer(_TICK_SECONDS, repeat=_TICK_SECONDS)
        self._timer.start(self._tick)
        return self._seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.stop()
        self._timer.close()
        if error is not None and error is self._timeout:
            raise TimeoutError from None

    def _seconds(self) -> float:
        """Return the time between the first tick and the last: a late loop runs the first one at once."""
        return max(self._count - 1, 0) * _TICK_SECONDS

    def _tick(self) -> None:
        self._count += 1
        if self._count == self._most:
            self._timeout = gevent.Timeout(None)
            self._greenlet.throw(self._timeout)


def run_concurrently(*calls: Callable[[], Any]) -> list[Any]:
    """
    Call functions that wait for the network, and return their results in order.

    In a server worker up to :data:`MAX_CONCURRENT` run at the same time, in this greenlet and in others, each with a
    copy of this context; elsewhere one runs after the other. All that have started have ended when this returns or
    raises. The error of the first one that failed is raised.
    """
    if len(calls) < 2 or not monkey.is_module_patched("threading"):
        return [call() for call in calls]
    outcomes: list[_Outcome[Any]] = [_Outcome() for _ in calls]
    waiting = zip(outcomes, calls, strict=True)

    def work() -> None:
        for outcome, call in waiting:
            copy_context().run(outcome.work_out, call, ())
            if outcome.is_interrupted:
                return

    others = [gevent.spawn(copy_context().run, work) for _ in calls[1:MAX_CONCURRENT]]
    try:
        work()
        for outcome in outcomes:
            if outcome.is_interrupted:
                outcome.result()
        for other in others:
            other.join()
    except BaseException:
        gevent.killall(others)
        raise
    return [outcome.result() for outcome in outcomes]


def run_in_background(function: Callable[..., object], *args: Any) -> None:
    """Call a blocking function that never raises, without waiting for it; in a worker it may run later."""
    if monkey.is_module_patched("threading"):
        gevent.get_hub().threadpool.spawn(function, *args)
    else:
        function(*args)


def run_later(seconds: float, function: Callable[[], object]) -> bool:
    """
    Call a blocking function that never raises in a native thread, after a delay.

    Returns:
        Whether it will be called: only in a server worker, which lives long enough.
    """
    if not monkey.is_module_patched("threading") or not gevent.get_hub().loop.default:
        return False
    gevent.spawn_later(seconds, run_in_thread, function)
    return True


def start_in_thread(function: Callable[..., Result], *args: Any) -> Callable[[], Result]:
    """
    Start a function in gevent's pool of native threads.

    Returns:
        A callable that waits for the function and returns its result or raises its error. If the greenlet is killed
        or times out meanwhile, the callable still waits for the function and raises the interruption afterwards.
    """
    dependencies.make_uncacheable()  # reads in another thread are not recorded
    outcome: _Outcome[Result] = _Outcome()
    finished = gevent.get_hub().threadpool.spawn(outcome.work_out, function, args)

    def wait() -> Result:
        try:
            finished.get()
        except BaseException:
            _wait_out(finished)
            raise
        return outcome.result()

    return wait


def _wait_out(finished: AsyncResult[None]) -> None:
    """
    Wait for a thread, ignoring interruptions.

    A thread cannot be stopped. If the caller left now, it would close a file to which the thread still writes, and the
    descriptor would be reused for the next file opened.
    """
    while not finished.ready():
        with suppress(BaseException):  # the caller raises the first interruption; further ones add nothing
            finished.wait()


@contextmanager
def watching_client(has_left: Callable[[], bool]) -> Iterator[None]:
    """
    Set the client whose requests the current greenlet serves within this context.

    Args:
        has_left: returns, without blocking, whether the client has closed its connection.
    """
    token = _client_has_left.set(has_left)
    try:
        yield
    finally:
        _client_has_left.reset(token)


@contextmanager
def ignoring_client() -> Iterator[None]:
    """Unset the client within this context, so that the work continues if the client disconnects."""
    token = _client_has_left.set(None)
    try:
        yield
    finally:
        _client_has_left.reset(token)


def check_client() -> None:
    """
    Stop the current computation if the client has disconnected.

    Raises:
        ClientLeft: the client of the current request has closed its connection.
    """
    has_left = _client_has_left.get()
    if has_left is not None and has_left():
        raise ClientLeft


_client_has_left: ContextVar[Callable[[], bool] | None] = ContextVar("client_has_left", default=None)


class KeyedLocks:
    """
    Locks by key inside one process, for example so that concurrent requests do expensive work only once.

    Creates a lock for each key in use, and drops it after its last user.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, tuple[threading.Lock, int]] = {}

    @contextmanager
    def hold(self, key: Hashable) -> Iterator[None]:
        """Hold the lock of *key* during the context; not reentrant."""
        with self._guard:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                _, users = self._locks[key]
                if users == 1:
                    del self._locks[key]
                else:
                    self._locks[key] = (lock, users - 1)


class _Outcome(Generic[Result]):
    """The result or error of a function in another thread or greenlet; gevent itself would print any exception."""

    _result: Result
    _error: BaseException | None = None

    def work_out(self, function: Callable[..., Result], args: tuple[Any, ...]) -> None:
        try:
            self._result = function(*args)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the result is awaited
            self._error = error

    @property
    def is_interrupted(self) -> bool:
        """Whether an exception that is not an error ended the call, such as a timeout or the end of its greenlet."""
        return self._error is not None and not isinstance(self._error, Exception)

    def result(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._result
