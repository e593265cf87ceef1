"""The queue of logins whose passwords are to be verified, here or by a directory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final

from docker_registry.errors import Overloaded

#: Logins that may wait for their password to be verified, and those of one network; more are answered 503.
MAX_WAITING: Final = 64
MAX_WAITING_OF_NETWORK: Final = 16


class LoginQueue:
    """Lets a few logins proceed at a time. The networks take turns, so that one cannot delay the others for long."""

    def __init__(self, concurrent: int = 1) -> None:
        """
        Args:
            concurrent: number of logins that proceed at the same time.
        """
        self._guard = threading.Lock()
        self._free = concurrent  # logins wait only while this is 0
        # The network that is next comes first. Each has at least one login.
        self._waiting: dict[Hashable, deque[threading.Event]] = {}

    def __len__(self) -> int:
        return sum(len(events) for events in self._waiting.values())

    @contextmanager
    def turn(self, network: Hashable) -> Iterator[None]:
        """
        Wait for the turn of a login and hold it during the context; not reentrant.

        Args:
            network: of the client.

        Raises:
            Overloaded: too many logins are waiting, in total or of this network.
        """
        self._take(network)
        try:
            yield
        finally:
            self._pass_on()

    def _take(self, network: Hashable) -> None:
        with self._guard:
            if self._free:
                self._free -= 1
                return
            if len(self) >= MAX_WAITING or len(self._waiting.get(network, ())) >= MAX_WAITING_OF_NETWORK:
                raise Overloaded
            event = threading.Event()
            self._waiting.setdefault(network, deque()).append(event)
        try:
            event.wait()
        except BaseException:
            self._leave(network, event)
            raise

    def _leave(self, network: Hashable, event: threading.Event) -> None:
        """Remove a login that was interrupted; if it has got the turn meanwhile, pass it on."""
        with self._guard:
            events = self._waiting.get(network, deque())
            others = deque(other for other in events if other is not event)
            is_waiting = len(others) < len(events)
            if others:
                self._waiting[network] = others
            else:
                self._waiting.pop(network, None)
        if not is_waiting:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn to the first login of the next network, and move this network to the end."""
        with self._guard:
            network = next(iter(self._waiting), None)
            if network is None:
                self._free += 1
                return
            events = self._waiting.pop(network)
            events.popleft().set()
            if events:
                self._waiting[network] = events
