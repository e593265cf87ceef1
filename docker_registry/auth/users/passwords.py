"""
Verification of passwords.

bcrypt is slow on purpose, so it runs in a process of low priority, one password at a time; the networks of the clients
take turns. A correct password is remembered for five minutes: as a keyed hash, valid only for the stored hash that it
matched.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import bcrypt

from docker_registry.auth.users.attempts import Attempts, network_of
from docker_registry.auth.users.bcrypt_process import BcryptProcess
from docker_registry.auth.users.htpasswd import COST
from docker_registry.auth.users.login_queue import LoginQueue
from docker_registry.concurrency import KeyedLocks, check_client
from docker_registry.http.clients import Address

#: Time for which a correct password is remembered.
REMEMBERED_SECONDS: Final = 300.0

#: Number of correct passwords that are remembered, about 3 MB.
MAX_REMEMBERED: Final = 10_000

#: Time for which a wrong password is remembered: some clients send it twice in a row, and that is one failure.
WRONG_SECONDS: Final = 30.0

#: Longest pause after a wrong password: it delays the other logins too.
MAX_REST_SECONDS: Final = 0.25


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
        self._queue = LoginQueue()
        self._verifying = KeyedLocks()
        self._rests_until = 0.0
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
        content = password.encode("utf-8", "surrogateescape")
        mark = hmac.digest(self._key, name.encode("utf-8", "replace") + b"\0" + content, hashlib.sha256)
        known = self._recall(mark, name)
        if known is not None:
            return known
        with self._verifying.hold(mark):  # equal requests take one place in the queue
            known = self._recall(mark, name)
            if known is not None:
                return known
            self._attempts.check(name, address)
            with self._queue.turn(network_of(address)):
                return self._verify_now(name, content, mark, address)

    def _verify_now(self, name: str, content: bytes, mark: bytes, address: Address | None) -> bool:
        self._rest()
        check_client()
        self._attempts.check(name, address)  # other logins may have failed during the wait
        users = self._users()  # this user may have been removed or changed during the wait
        stored = users.get(name)
        began = self._now()
        is_right = self._bcrypt.check(content, stored or self._decoy_for(users)) and stored is not None
        if not is_right:
            ended = self._now()
            self._rests_until = ended + min(ended - began, MAX_REST_SECONDS)
            self._attempts.fail(name, address)
        self._remember(self._right if is_right else self._wrong, mark, stored or b"")
        return is_right

    def _rest(self) -> None:
        """Wait after a wrong password for as long as it took, within a limit, to leave the processor to others."""
        left = self._rests_until - self._now()
        if left > 0:
            time.sleep(left)

    def _recall(self, mark: bytes, name: str) -> bool | None:
        """Return whether a password is right, as far as that is remembered for the user's current hash."""
        stored = self._users().get(name, b"")
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
