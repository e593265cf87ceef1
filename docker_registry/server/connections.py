"""
The client connections of a worker, and the order in which they are closed when it runs out of them.

A few connections are kept in reserve, so that new clients need not wait for old ones. When the reserve is used,
connections are closed in this order:

1. those that have been idle, or in the middle of a request head, for a second or more: the longest first;
2. those in a lingering close: the longest first;
3. transfers slower than 16 KiB/s on average since they began: the slowest first;
4. those that have been idle for less than a second, but not those that became idle just now: the next request of a
   client that pushes or pulls may be on its way.

Faster transfers are never ended: new clients wait for them. While connections are available, a transfer may pause for
minutes, for example when the client compresses while it sends.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

import gevent

from docker_registry.http.clients import parse_address

logger = logging.getLogger(__name__)

#: Connections kept in reserve: this many, but at most a fifth of the limit and at least one.
_FREE: Final = 100

#: How often connections are closed while the reserve is not free.
_INTERVAL_SECONDS: Final = 0.05

#: How long a ranking of all connections is used; longer on a busy machine, where making it takes longer: at least this
#: multiple of that time.
_RANKING_SECONDS: Final = 0.25
_RANKING_SHARE: Final = 50

#: Transfers younger than this are kept; idle connections younger than this are closed last.
_YOUNG_SECONDS: Final = 1.0

#: Connections idle for less than this time are not ended.
_BETWEEN_REQUESTS_SECONDS: Final = 0.2

#: Faster transfers are not ended.
_SLOW_BYTES_PER_SECOND: Final = 16 * 1024

#: An ended connection counts as free for this time, although it is still closing.
_ENDING_SECONDS: Final = 2.0

#: After SIGTERM, slower transfers are ended.
_PROGRESS_BYTES_PER_SECOND: Final = 1024


#: Minimum interval of log messages about ended connections.
_LOG_SECONDS: Final = 10.0


class Activity(Enum):
    """What a connection is doing."""

    WAITING = "waiting for a handshake or for the head of a request"
    LINGERING = "waiting for the client to close"
    TRANSFERRING = "receiving a body or sending a response, at the client's pace"
    WORKING = "waiting for the registry itself"


class Client(Protocol):
    """
    A client connection, as :class:`Connections` sees it.

    Attributes:
        address: of the client; empty for a Unix socket.
        activity: what the connection is doing.
        active_since: when the activity began, on the monotonic clock.
        moved_bytes: bytes sent and received since then.
    """

    address: str

    @property
    def activity(self) -> Activity: ...

    @property
    def active_since(self) -> float: ...

    @property
    def moved_bytes(self) -> int: ...

    def end(self) -> None:
        """Interrupt any wait for the client; must not block."""


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
            limit: maximum number of simultaneous connections.
            per_address: the same per client address (IPv6: per /64 network); 0 for no limit.
            stalled_seconds: a transfer that averages less than 1 KiB/s over this time is stalled.
        """
        self._limit = limit
        self._free = max(1, min(limit // 5, _FREE))
        self._per_address = per_address
        self._stalled_seconds = stalled_seconds
        self._clock = clock
        self._clients: dict[Client, None] = {}  # oldest first
        self._ended: dict[Client, float] = {}
        self._by_network: Counter[str] = Counter()
        self._closer: gevent.Greenlet[[], None] | None = None
        self._ranking: list[tuple[tuple[int, float], Client]] = []  # the last one is closed first
        self._rank_again_at = 0.0
        self._not_logged = 0
        self._log_again_at = 0.0
        self._progress: dict[Client, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: Client) -> None:
        """Add a connection, and start closing others if the reserve is used."""
        self._clients[client] = None
        if self._per_address and client.address:
            self._by_network[_network(client.address)] += 1
        if self._limit - len(self._clients) < self._free and not self._closer:
            self._closer = gevent.spawn(self._keep_free)

    def remove(self, client: Client) -> None:
        """Remove a connection."""
        del self._clients[client]
        self._ended.pop(client, None)
        self._progress.pop(client, None)
        if self._per_address and client.address:
            network = _network(client.address)
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]

    def is_one_too_many(self, client: Client) -> bool:
        """Return whether the address of a connection exceeds its limit."""
        if not self._per_address or not client.address:
            return False
        return self._by_network[_network(client.address)] > self._per_address

    def restore_reserve(self) -> None:
        """End as many connections as are needed to restore the reserve."""
        now = self._clock()
        self._ended = {client: ended for client, ended in self._ended.items() if now < ended + _ENDING_SECONDS}
        missing = self._free - (self._limit - len(self._clients)) - len(self._ended)
        while missing > 0 and (client := self._next_to_end(now)) is not None:
            self._ended[client] = now
            self._not_logged += 1
            client.end()
            missing -= 1
        if self._not_logged and now >= self._log_again_at:
            logger.warning("Ended %d idle or slow connections to make room for new ones.", self._not_logged)
            self._not_logged, self._log_again_at = 0, now + _LOG_SECONDS

    def end_waiting(self, idle_seconds: float = 0) -> None:
        """
        End all connections that are waiting for a request.

        Args:
            idle_seconds: for at least this time.
        """
        until = self._clock() - idle_seconds
        for client in [one for one in self._clients if one.activity is Activity.WAITING]:
            if not idle_seconds or client.active_since <= until:
                client.end()

    def end_stalled(self) -> None:
        """End stalled transfers; progress is measured from the first call."""
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
            self.restore_reserve()
            gevent.sleep(_INTERVAL_SECONDS)
        self._ranking.clear()  # it refers to closed connections

    def _next_to_end(self, now: float) -> Client | None:
        """
        Return the connection to close first; None if all are kept.

        Ranking thousands of connections takes milliseconds, so a ranking is used for a while. A connection that has
        become busy or faster since is kept until the next one.
        """
        if now >= self._rank_again_at:
            ranking = [(rank, client) for client in self._clients if (rank := _rank(client, now)) is not None]
            ranking.sort(key=lambda one: one[0], reverse=True)
            self._ranking = ranking
            self._rank_again_at = now + max(_RANKING_SECONDS, _RANKING_SHARE * (self._clock() - now))
        while self._ranking:
            ranked, client = self._ranking.pop()
            if client not in self._clients or client in self._ended:
                continue
            following = self._ranking[-1][0] if self._ranking else (ranked[0], math.inf)
            rank = _rank(client, now)
            if rank is not None and rank <= max(ranked, following):
                return client
        return None


def _rank(client: Client, now: float) -> tuple[int, float] | None:
    """Return the position of a connection in the order of closing, as a sort key; None if it is kept."""
    activity, seconds = client.activity, now - client.active_since
    if activity is Activity.TRANSFERRING:
        if seconds < _YOUNG_SECONDS or (speed := client.moved_bytes / seconds) >= _SLOW_BYTES_PER_SECOND:
            return None
        return 3, speed
    if activity is Activity.WORKING:
        return None
    if activity is Activity.LINGERING:
        return 2, -seconds
    if seconds < _BETWEEN_REQUESTS_SECONDS:
        return None
    return (1 if seconds >= _YOUNG_SECONDS else 4), -seconds


def _network(address: str) -> str:
    """Return the network that counts as one client: an IPv4 address, also as seen by a socket of IPv6, or a /64."""
    parsed = parse_address(address) if ":" in address else None
    if parsed is None:
        return address
    return str(parsed if parsed.version == 4 else ipaddress.ip_network((parsed, 64), strict=False))
