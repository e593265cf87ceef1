"""
Verification of passwords.

bcrypt is slow on purpose, so it runs in a process of low priority, one password at a time. A correct password is
remembered for five minutes: as a keyed hash, valid only for the stored hash that it matched.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import bcrypt

from docker_registry.auth.client import Address
from docker_registry.auth.users.attempts import Attempts
from docker_registry.auth.users.bcrypt_process import BcryptProcess
from docker_registry.auth.users.htpasswd import COST
from docker_registry.concurrency import check_client
from docker_registry.errors import Overloaded

#: Time for which a correct password is remembered.
REMEMBERED_SECONDS: Final = 300.0

#: Number of correct passwords that are remembered, about 3 MB.
MAX_REMEMBERED: Final = 10_000

#: Time for which a wrong password is remembered: some clients send it twice in a row, and that is one failure.
WRONG_SECONDS: Final = 30.0

#: Requests that may wait for their password to be verified; more are answered 503.
MAX_WAITING: Final = 64


class Passwords:
    """Verifies passwords against bcrypt hashes."""

    def __init__(
        self,
        users: Callable[[], Mapping[str, bytes]],
        now: Callable[[], float] = time.monotonic,
        attempts: Attempts | None = None,
    ) -> None:
        """
        Args:
            users: returns the current hashes, by user name.
            now: a monotonic clock; returns seconds.
            attempts: limits failed logins; by default those of this process.
        """
        self._users = users
        self._now = now
        self._attempts = Attempts(now) if attempts is None else attempts
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._wrong: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._bcrypt = BcryptProcess()
        self._turn = threading.Lock()
        self._rests_until = 0.0
        self._waiting = 0
        # Verified for users that do not exist, so that they take the same time.
        self._decoy = bcrypt.hashpw(secrets.token_hex(16).encode(), bcrypt.gensalt(4))[7:]

    def verify(self, name: str, password: str, address: Address | None) -> bool:
        """
        Return whether a user has this password.

        Args:
            address: of the client; failed logins are limited by account and network.

        Raises:
            TooManyAttempts: there were too many failed logins; nothing was hashed.
            Overloaded: too many passwords are waiting to be verified.
            ClientLeft: the client has disconnected while it waited.
        """
        users = self._users()
        stored, content = users.get(name), password.encode("utf-8", "surrogateescape")
        expected = stored or b""
        mark = hmac.digest(self._key, name.encode("utf-8", "replace") + b"\0" + content, hashlib.sha256)
        known = self._recall(mark, expected)
        if known is not None:
            return known
        self._attempts.check(name, address)
        with self._one_at_a_time():
            known = self._recall(mark, expected)  # another request may have verified it meanwhile
            if known is not None:
                return known
            self._attempts.check(name, address)
            self._rest()
            check_client()
            began = self._now()
            is_right = self._bcrypt.check(content, stored or self._decoy_for(users)) and stored is not None
            if not is_right:
                self._rests_until = 2 * self._now() - began
                self._attempts.fail(name, address)
            self._remember(self._right if is_right else self._wrong, mark, expected)
        return is_right

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if self._waiting >= MAX_WAITING:
            raise Overloaded
        self._waiting += 1
        try:
            with self._turn:
                yield
        finally:
            self._waiting -= 1

    def _rest(self) -> None:
        """Wait after a wrong password for as long as it took, so that wrong ones take half of a processor at most."""
        left = self._rests_until - self._now()
        if left > 0:
            time.sleep(left)

    def _recall(self, mark: bytes, stored: bytes) -> bool | None:
        """Return whether a password is right, as far as that is remembered for the user's current hash."""
        for results, is_right in ((self._right, True), (self._wrong, False)):
            found = results.get(mark)
            if found is not None and found[0] == stored and self._now() < found[1]:
                return is_right
        return None

    def _remember(self, results: OrderedDict[bytes, tuple[bytes, float]], mark: bytes, stored: bytes) -> None:
        seconds = REMEMBERED_SECONDS if results is self._right else WRONG_SECONDS
        results.pop(mark, None)
        results[mark] = (stored, self._now() + seconds)
        while len(results) > MAX_REMEMBERED:
            results.popitem(last=False)

    def _decoy_for(self, users: Mapping[str, bytes]) -> bytes:
        """Return a hash that costs as much as the first user's."""
        cost = next(iter(users.values()), b"$2b$%02d$" % COST)[4:6]
        return b"$2b$" + cost + b"$" + self._decoy
