"""Limits failed logins, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_network
from typing import Final

from docker_registry.auth.client import Address

#: Failures of one account from one network that are allowed in a row, and the time after which one is forgiven.
ACCOUNT_FAILURES: Final = 10
#: The same for all accounts from one network.
NETWORK_FAILURES: Final = 50
FORGIVEN_EVERY_SECONDS: Final = 6.0

#: Number of accounts and networks that are remembered; the ones whose last failure is oldest are forgotten first.
MAX_ENTRIES: Final = 20_000


class Attempts:
    """
    Counts failed logins by account and network together, and by network.

    An account is never blocked from all networks, so strangers cannot lock a user out. The network is the /64 of an
    IPv6 address, and the whole IPv4 address.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            now: a monotonic clock; returns seconds.
        """
        self._now = now
        # The time at which all failures of a key are forgiven.
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()

    def wait_seconds(self, name: str, address: Address | None) -> int:
        """Return the seconds until the next attempt is allowed; 0 if it is allowed now."""
        now = self._now()
        waits = (
            self._until.get(key, now) - now - (limit - 1) * FORGIVEN_EVERY_SECONDS
            for key, limit in _keys(name, address)
        )
        longest = max(waits)
        return 0 if longest <= 0 else int(longest) + 1

    def fail(self, name: str, address: Address | None) -> None:
        """Record a failed login."""
        now = self._now()
        for key, limit in _keys(name, address):
            until = max(self._until.pop(key, now), now) + FORGIVEN_EVERY_SECONDS
            self._until[key] = min(until, now + limit * FORGIVEN_EVERY_SECONDS)
        while len(self._until) > MAX_ENTRIES:
            self._until.popitem(last=False)


def _keys(name: str, address: Address | None) -> tuple[tuple[tuple[str, str], int], ...]:
    network = "" if address is None else str(ip_network((address, 64 if address.version == 6 else 32), strict=False))
    return ((name[:128], network), ACCOUNT_FAILURES), (("", network), NETWORK_FAILURES)
