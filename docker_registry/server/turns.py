"""
The order in which new connections are served when many arrive at once.

A worker accepts connections faster than it can serve them. If each were served right after it was accepted, a request
that costs nothing, or the next one of a client that pushes, would wait behind thousands of others in the accept queue.
So the worker accepts many at once, answers from the response cache what it can, and the first requests of the other
connections take turns: the newest and the oldest alternately, so that neither waits for all of the others.
"""

from __future__ import annotations

import math
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.server import StreamServer

#: Connections that a worker accepts before it serves others.
_ACCEPTED_AT_ONCE: Final = 32

#: Offset and length of the number of connections in the accept queue, in the TCP_INFO of a listening socket (Linux,
#: ``tcpi_unacked``).
_UNACKED: Final = slice(24, 28)


class Turns:
    """Lets the greenlets of one event loop go on one at a time, while others are served in between."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._is_taken = False
        self._is_newest_next = False

    def __len__(self) -> int:
        """Return the number of greenlets that wait."""
        return len(self._waiting)

    def wait(self) -> None:
        """Wait until it is this greenlet's turn; returns at once unless another one took a turn just now."""
        if not self._is_taken:
            self._take()
            return
        turn = Event()
        self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:
            if turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _take(self) -> None:
        self._is_taken = True
        gevent.get_hub().loop.run_callback(self._pass_on)  # after the greenlet has run

    def _pass_on(self) -> None:
        self._is_taken = False
        if self._waiting:
            self._is_newest_next = not self._is_newest_next
            turn = self._waiting.pop() if self._is_newest_next else self._waiting.popleft()
            turn.set()
            self._take()


class ListenerAddress:
    """Replaces a listener in gunicorn's handlers, which use nothing of it but the address."""

    def __init__(self, listener: Any) -> None:
        self._address = listener.getsockname()

    def getsockname(self) -> Any:
        """Return the address, even after the listener is closed."""
        return self._address


class Acceptor(StreamServer):
    """
    Accepts the connections of a listening socket.

    One of several workers accepts its share of those in the accept queue and leaves the others to the other workers,
    before it looks again. Connections live long, so a worker that accepted most of them would be slower for all of its
    clients. A worker that accepted one at a time would keep a crowd waiting.
    """

    max_accept = _ACCEPTED_AT_ONCE

    def __init__(
        self,
        listener: Any,
        handle: Callable[..., Any],
        *,
        workers: int,
        is_last: Callable[[], bool] = lambda: True,
        **options: Any,
    ) -> None:
        """
        Args:
            handle: called with each connection and the address of its client.
            workers: number of workers that accept connections of the same socket.
            is_last: returns whether no worker goes on after this one.
            options: those of :class:`StreamServer`.
        """
        self._workers = workers
        self._is_last = is_last
        self._share: int | None = None  # what is left of it
        super().__init__(listener, handle, **options)

    def do_read(self) -> Any:
        """Accept a connection; return None if there is none, or to let others be served first."""
        if self._workers == 1:
            return super().do_read()
        if self._share is None:
            self._share = max(1, math.ceil(_queue_length(self.socket) / self._workers))
        accepted = super().do_read() if self._share else None
        self._share = None if accepted is None else self._share - 1
        return accepted

    def close(self) -> None:
        """
        Stop accepting connections.

        When the server stops, those that wait in the accept queue are accepted first: closing the socket would reset
        them. When the worker is replaced, other workers accept them.
        """
        if self._is_last() and not self.closed:
            while (accepted := super().do_read()) is not None:
                self.do_handle(*accepted)
        super().close()


def _queue_length(listener: Any) -> int:
    """Return the number of connections in the accept queue of a socket; 0 where it is unknown."""
    try:
        told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.stop)
    except OSError:  # a Unix socket
        return 0
    return int.from_bytes(told[_UNACKED], sys.byteorder)
