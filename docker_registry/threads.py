"""Blocking calls, in native threads, so that the other greenlets of a worker go on meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import gevent
from gevent import monkey
from gevent.event import AsyncResult

from docker_registry import provenance

Result = TypeVar("Result")

#: Close a descriptor that nobody waits for. What gevent has put in place of ``os.close`` waits for the next turn of the
#: event loop with everything but regular files: folders that are only looked at would pile up until then.
close_now: Callable[[int], None] = monkey.get_original("os", "close")


def in_thread(function: Callable[..., Result], *args: Any) -> Result:
    """
    Call a function that blocks, such as an fsync, and wait for its result.

    In a worker of the server it runs in gevent's pool of native threads. Elsewhere nobody waits for this thread, so
    the function is simply called. Either way it has ended when this returns or raises.
    """
    if not monkey.is_module_patched("threading"):
        return function(*args)
    return start_in_thread(function, *args)()


def leave_to_thread(function: Callable[..., object], *args: Any) -> None:
    """Call a function that blocks and never raises, for which nobody has to wait; in a worker it may run later."""
    if monkey.is_module_patched("threading"):
        gevent.get_hub().threadpool.spawn(function, *args)
    else:
        function(*args)


def run_later(seconds: float, function: Callable[[], object]) -> bool:
    """
    Call a function that blocks and never raises in a native thread, after a while.

    Returns:
        Whether it will be called. Only a worker of the server lives long enough.
    """
    if not monkey.is_module_patched("threading") or not gevent.get_hub().loop.default:
        return False
    gevent.spawn_later(seconds, in_thread, function)
    return True


def start_in_thread(function: Callable[..., Result], *args: Any) -> Callable[[], Result]:
    """
    Start a function in gevent's pool of native threads.

    Returns:
        What to call for its result, or for what it raised; it waits as long as the function runs, also when the
        greenlet is killed or its time is out meanwhile, which it hears of then.
    """
    provenance.spoil()  # what is read there is not seen
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
    Wait for a thread whatever comes.

    No thread can be stopped. Whoever left now would close a file to which the thread still writes, and the number of
    its descriptor is given to the next file that anybody opens.
    """
    while not finished.ready():
        with suppress(BaseException):  # the first interruption is raised by the caller; the others add nothing
            finished.wait()


class _Outcome(Generic[Result]):
    """What a function in another thread came to. gevent itself would print what it raises, expected or not."""

    _result: Result
    _error: BaseException | None = None

    def work_out(self, function: Callable[..., Result], args: tuple[Any, ...]) -> None:
        try:
            self._result = function(*args)
        except BaseException as error:  # noqa: BLE001 - it is raised again where the result is awaited
            self._error = error

    def result(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._result
