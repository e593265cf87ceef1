"""
Refresh tokens: long-lived random secrets that clients exchange for access tokens instead of sending a password.

A client requests one with ``access_type=offline`` (``docker login``). Only the SHA-256 of the secret is stored. Each
token is one file, named after that hash::

    {"user": "alice", "client": "docker", "created": 1790000000, "last_used": 1790000000, "user_version": "…"}

A token becomes invalid when it is revoked, when its user is removed or changes password, and after 90 days without use.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError
from docker_registry.registry import layout, stored_document

logger = logging.getLogger(__name__)

FOLDER: Final = f"{layout.AUTH}/refresh-tokens"

#: Time without use after which a token expires.
IDLE_SECONDS: Final = 90 * 86400.0

#: Minimum time between two updates of ``last_used``, so that most uses cause no write.
_LAST_USED_RESOLUTION_SECONDS: Final = 86400.0

_TOKEN: Final = re.compile(r"drt_[A-Za-z0-9_-]{43}")
_MAX_CLIENT: Final = 128


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """
    The stored record of a token; the secret itself is not part of it.

    Attributes:
        token_id: SHA-256 of the secret, 64 hexadecimal digits; also the name of the file.
        client: the ``client_id`` that the client sent, cut off after 128 characters.
        created, last_used: seconds since the Unix epoch.
        user_version: fingerprint of the user's password when the token was issued (:meth:`.Logins.user_version`).
    """

    token_id: str
    user: str
    client: str
    created: float
    last_used: float
    user_version: str


class RefreshTokens:
    """Issues, verifies and revokes refresh tokens."""

    def __init__(
        self,
        driver: StorageDriver,
        now: Callable[[], float] = time.time,
        pace: Callable[[Iterable[Any]], Iterator[Any]] = iter,
    ) -> None:
        """
        Args:
            now: the clock; returns seconds since the Unix epoch.
            pace: yields the items of an iterable, and switches to other greenlets now and then.
        """
        self._driver = driver
        self._now = now
        self._pace = pace

    def issue(self, user: str, client: str, user_version: str) -> str:
        """
        Issue a token for a user.

        Args:
            client: the name by which the client identifies itself; it is not verified.
            user_version: current fingerprint of the user's password.

        Returns:
            The secret. It is not stored and cannot be retrieved later.
        """
        secret = f"drt_{secrets.token_urlsafe(32)}"
        token_id = _hash(secret)
        self._put(RefreshToken(token_id, user, client[:_MAX_CLIENT], self._now(), self._now(), user_version))
        return secret

    def verify(self, secret: str, user_version_of: Callable[[str], str | None]) -> RefreshToken | None:
        """
        Return the record of a token and update its time of last use, if the store can be written.

        Args:
            secret: as the client sent it.
            user_version_of: returns the current fingerprint of a user's password; None if there is no such user.

        Returns:
            None if the token is malformed, unknown, revoked or expired, or if its user was removed or changed password.
        """
        if not _TOKEN.fullmatch(secret):
            return None
        while True:
            found, file_version = self._find(_hash(secret))
            if found is None or self._is_expired(found) or user_version_of(found.user) != found.user_version:
                return None
            if self._now() - found.last_used <= _LAST_USED_RESOLUTION_SECONDS:
                return found
            found = replace(found, last_used=self._now())
            try:
                # Without conditional writes, a token that is revoked at this moment is written again.
                self._put(found, if_match=file_version if self._driver.capabilities.if_match else None)
            except PreconditionFailed:  # revoked or used meanwhile
                continue
            except StorageError as error:  # a full or read-only store must not end logins
                logger.warning("the last use of a refresh token could not be stored: %s", error)
            return found

    def list(self) -> Iterator[RefreshToken]:
        """Yield all stored tokens, including expired ones; unreadable files are skipped."""
        try:
            paths = list(self._pace(self._driver.list_directory(FOLDER)))
        except PathNotFound:
            return
        yield from self._read(paths)

    def revoke(self, matches: Callable[[RefreshToken], bool]) -> int:
        """Remove all tokens for which *matches* returns True, and return how many were removed."""
        return self._remove([token for token in self.list() if matches(token)])

    def purge(self) -> int:
        """
        Remove the tokens that were unused for too long, and return how many were removed.

        Only files that are old enough are read: they are written at each recorded use.
        """
        since = self._now() - IDLE_SECONDS
        files = self._pace(self._driver.walk(FOLDER))
        old = [file.path for file in files if file.modified <= since]
        return self._remove([token for token in self._read(old) if self._is_expired(token)])

    def _read(self, paths: Iterable[str]) -> Iterator[RefreshToken]:
        for path in self._pace(paths):
            found, _ = self._find(path.rpartition("/")[2])
            if found is not None:
                yield found

    def _remove(self, tokens: Iterable[RefreshToken]) -> int:
        count = 0
        for token in tokens:
            try:
                self._driver.remove(f"{FOLDER}/{token.token_id}")
                count += 1
            except PathNotFound:  # revoked by another process
                continue
        return count

    def _is_expired(self, token: RefreshToken) -> bool:
        return self._now() - token.last_used > IDLE_SECONDS

    def _find(self, token_id: str) -> tuple[RefreshToken | None, str | None]:
        """Return a stored token and the version of its file; None for both if it is missing or unreadable."""
        try:
            stored = self._driver.get_versioned(f"{FOLDER}/{token_id}")
            found = RefreshToken(token_id=token_id, **stored_document.parse(stored.content))
            times = stored_document.time_of(found.created), stored_document.time_of(found.last_used)
            return replace(found, created=times[0], last_used=times[1]), stored.version
        except (PathNotFound, ValueError, TypeError):
            return None, None

    def _put(self, token: RefreshToken, *, if_match: str | None = None) -> None:
        stored = {name: value for name, value in asdict(token).items() if name != "token_id"}
        self._driver.put_content(f"{FOLDER}/{token.token_id}", json.dumps(stored).encode(), if_match=if_match)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
