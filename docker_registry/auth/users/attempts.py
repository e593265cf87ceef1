"""Limits failed logins, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Final, Protocol

from docker_registry.auth.users.failure_table import FailureTable
from docker_registry.errors import TooManyAttempts
from docker_registry.http.clients import Address

#: Failures of one account from one network that are allowed in a row, and the time after which one is forgiven.
ACCOUNT_FAILURES: Final = 10
#: The same for all accounts from one network.
NETWORK_FAILURES: Final = 50
FORGIVEN_EVERY_SECONDS: Final = 6.0

_LIMITS: Final = (ACCOUNT_FAILURES, NETWORK_FAILURES)


class HostFailures(Protocol):
    """The failures on all hosts of a registry, by keys."""

    def left(self, names: Sequence[str]) -> list[float]:
        """Return the seconds until all failures of each key are forgiven."""
        ...

    def add(self, names: Sequence[str], seconds: float, most: Sequence[float]) -> None:
        """Add seconds until the failures of each key are forgiven, up to its maximum in *most*."""
        ...


class Attempts:
    """
    Counts failed logins by account and network together, and by network.

    An account is never blocked from all networks, so strangers cannot lock a user out. The network is the /64 of an
    IPv6 address, and the whole IPv4 address.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        table: FailureTable | None = None,
        hosts: HostFailures | None = None,
    ) -> None:
        """
        Args:
            now: a monotonic clock that all workers share; returns seconds.
            table: the failures that the workers of a server share; by default, of this process.
            hosts: the failures that all hosts share; None for a single host.
        """
        self._now = now
        self._table = FailureTable() if table is None else table
        self._hosts = hosts

    def wait_seconds(self, name: str, address: Address | None) -> int:
        """Return the seconds until the next attempt is allowed; 0 if it is allowed now."""
        now, keys = self._now(), _keys(name, address)
        wait = _longest([self._table.get(key) - now for key in keys])
        if not wait and self._hosts is not None:
            wait = _longest(self._hosts.left(keys))
        return wait

    def check(self, name: str, address: Address | None) -> None:
        """
        Raises:
            TooManyAttempts: the next attempt is not allowed yet.
        """
        wait = self.wait_seconds(name, address)
        if wait:
            raise TooManyAttempts(retry_after_seconds=wait)

    def fail(self, name: str, address: Address | None) -> None:
        """Record a failed login."""
        now, keys = self._now(), _keys(name, address)
        most = [limit * FORGIVEN_EVERY_SECONDS for limit in _LIMITS]
        for key, seconds in zip(keys, most, strict=True):
            self._table.add(key, now, FORGIVEN_EVERY_SECONDS, seconds)
        if self._hosts is not None:
            self._hosts.add(keys, FORGIVEN_EVERY_SECONDS, most)

    def __len__(self) -> int:
        return len(self._table)


def _longest(left: Sequence[float]) -> int:
    """Return the seconds until an attempt is allowed, given those until all failures of each key are forgiven."""
    waits = [seconds - (limit - 1) * FORGIVEN_EVERY_SECONDS for seconds, limit in zip(left, _LIMITS, strict=True)]
    return 0 if max(waits) <= 0 else int(max(waits)) + 1


def network_of(address: Address | None) -> str:
    """Return the network of a client: the /64 of an IPv6 address, the whole IPv4 address, empty if unknown."""
    return "" if address is None else str(ip_network((address, 64 if address.version == 6 else 32), strict=False))


def _keys(name: str, address: Address | None) -> tuple[str, str]:
    """Return the keys of account and network, and of the network alone."""
    network = network_of(address)
    return f"{network} {name[:128]}", network
