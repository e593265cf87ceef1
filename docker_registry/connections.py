"""
The client connections of a worker, and which of them are closed when it runs out of them.

A few places are always kept free, so that a new client never waits for an old one. When they are taken, connections
are closed in this order:

1. those that have been idle, or in the middle of a request's head, for a second or more: the longest first;
2. those that are being closed already and only wait for their client;
3. transfers that are slower than 16 KiB/s on average since they began: the slowest first;
4. idle ones of less than a second.

Faster transfers are never cut: new clients wait for them. As long as there is room a transfer may pause for minutes, as
that of a client does which compresses while it sends.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

import gevent

logger = logging.getLogger(__name__)

#: Places that are kept free, at most a fifth of all and at least one.
_FREE: Final = 100

#: How often connections are closed while less is free.
_INTERVAL_SECONDS: Final = 0.05

#: A younger activity is not judged yet.
_YOUNG_SECONDS: Final = 1.0

#: A transfer that is faster is not cut.
_SLOW_BYTES_PER_SECOND: Final = 16 * 1024

#: A connection that was told to end counts as a free place for so long.
_ENDING_SECONDS: Final = 2.0

#: After SIGTERM a transfer that is slower is ended.
_PROGRESS_BYTES_PER_SECOND: Final = 1024


#: How often a line of the log tells of connections that were ended.
_LOG_SECONDS: Final = 10.0


class Activity(Enum):
    """What a connection is occupied with."""

    WAITING = "waiting for a handshake or for the head of a request"
    LINGERING = "waiting for the client to close"
    TRANSFERRING = "receiving a body or sending a response, at the client's pace"
    WORKING = "waiting for the registry itself"


class Client(Protocol):
    """
    A connection, as far as it matters here.

    Attributes:
        address: of the client; empty for a Unix socket.
        activity: what it is occupied with.
        active_since: when that began, by the monotonic clock.
        moved_bytes: what was transferred since then.
    """

    address: str

    @property
    def activity(self) -> Activity: ...

    @property
    def active_since(self) -> float: ...

    @property
    def moved_bytes(self) -> int: ...

    def end(self) -> None:
        """Make whatever waits for the client end soon; must not block."""


class Connections:
    """The connections of one worker."""

    def __init__(
        self,
        limit: int,
        per_address: int = 0,
        stalled_seconds: float = 30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            limit: connections at a time.
            per_address: connections of one client address at a time (IPv6: of one /64 network); 0 for any number.
            stalled_seconds: a transfer that moves less than 1 KiB/s for so long is stalled.
        """
        self._limit = limit
        self._free = max(1, min(limit // 5, _FREE))
        self._per_address = per_address
        self._stalled_seconds = stalled_seconds
        self._clock = clock
        self._clients: dict[Client, None] = {}  # in the order of their beginning
        self._ended: dict[Client, float] = {}
        self._by_network: Counter[str] = Counter()
        self._closer: gevent.Greenlet[[], None] | None = None
        self._not_logged = 0
        self._log_again_at = 0.0
        self._progress: dict[Client, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: Client) -> None:
        """Count a connection until it is removed, and make room for the next one."""
        self._clients[client] = None
        if self._per_address and client.address:
            self._by_network[_network(client.address)] += 1
        if self._limit - len(self._clients) < self._free and not self._closer:
            self._closer = gevent.spawn(self._keep_free)

    def remove(self, client: Client) -> None:
        """Count a connection no longer."""
        del self._clients[client]
        self._ended.pop(client, None)
        self._progress.pop(client, None)
        if self._per_address and client.address:
            network = _network(client.address)
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]

    def is_one_too_many(self, client: Client) -> bool:
        """Tell whether the address of a connection has more than it may have."""
        if not self._per_address or not client.address:
            return False
        return self._by_network[_network(client.address)] > self._per_address

    def make_room(self) -> None:
        """End as many connections as are missing to the places that are kept free."""
        now = self._clock()
        self._ended = {client: ended for client, ended in self._ended.items() if now < ended + _ENDING_SECONDS}
        missing = self._free - (self._limit - len(self._clients)) - len(self._ended)
        if missing > 0:
            for client in self._candidates(now)[:missing]:
                self._ended[client] = now
                self._not_logged += 1
                client.end()
        if self._not_logged and now >= self._log_again_at:
            logger.warning("Ended %d idle or slow connections to make room for new ones.", self._not_logged)
            self._not_logged, self._log_again_at = 0, now + _LOG_SECONDS

    def end_waiting(self) -> None:
        """End all connections that wait for a request."""
        for client in [one for one in self._clients if one.activity is Activity.WAITING]:
            client.end()

    def end_stalled(self) -> None:
        """End stalled transfers; their seconds count from the first call on."""
        now = self._clock()
        for client in list(self._clients):
            if client.activity is not Activity.TRANSFERRING:
                self._progress.pop(client, None)
                continue
            since, moved = self._progress.setdefault(client, (now, client.moved_bytes))
            if now - since < self._stalled_seconds:
                continue
            self._progress[client] = now, client.moved_bytes
            if 0 <= client.moved_bytes - moved < self._stalled_seconds * _PROGRESS_BYTES_PER_SECOND:
                client.end()

    def _keep_free(self) -> None:
        while self._limit - len(self._clients) < self._free:
            began = self._clock()
            self.make_room()
            gevent.sleep(max(_INTERVAL_SECONDS, 10 * (self._clock() - began)))  # most of the time is for requests

    def _candidates(self, now: float) -> list[Client]:
        ranked = []
        for client in self._clients:
            rank = self._rank(client, now)
            if rank is not None and client not in self._ended:
                ranked.append((rank, client))
        ranked.sort(key=lambda one: one[0])
        return [client for _, client in ranked]

    @staticmethod
    def _rank(client: Client, now: float) -> tuple[int, float] | None:
        """Return where a connection stands in the order in which they are closed; None for one that is kept."""
        seconds = now - client.active_since
        if client.activity is Activity.WAITING:
            return (1 if seconds >= _YOUNG_SECONDS else 4), -seconds
        if client.activity is Activity.LINGERING:
            return 2, -seconds
        if client.activity is Activity.WORKING or seconds < _YOUNG_SECONDS:
            return None
        speed = client.moved_bytes / seconds
        return (3, speed) if speed < _SLOW_BYTES_PER_SECOND else None


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
