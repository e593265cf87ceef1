"""
Refresh tokens, with which clients get access tokens without a password (``docker login``).

A token is random and stored as its SHA-256 only, one file each::

    {"user": "alice", "client": "docker", "created": 1790000000, "last_used": 1790000000, "user_version": "…"}

It ends with the user, with the user's password, and after 90 days without use.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry import layout

FOLDER: Final = f"{layout.AUTH}/refresh-tokens"

#: Time without use after which a token ends.
IDLE_SECONDS: Final = 90 * 86400.0

#: The time of the last use is written at most this often.
_LAST_USED_RESOLUTION_SECONDS: Final = 86400.0

_TOKEN: Final = re.compile(r"drt_[A-Za-z0-9_-]{43}")
_MAX_CLIENT: Final = 128


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """
    A stored token.

    Attributes:
        token_id: the beginning of its hash, which identifies it for an operator.
        client: what the client calls itself.
        created, last_used: seconds since the Unix epoch.
        user_version: version of the user's password when the token was issued.
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
        pace: Callable[[Iterable[str]], Iterator[str]] = iter,
    ) -> None:
        """
        Args:
            now: the clock; returns seconds since the Unix epoch.
            pace: yields items, and lets other requests run between them.
        """
        self._driver = driver
        self._now = now
        self._pace = pace

    def issue(self, user: str, client: str, user_version: str) -> str:
        """Issue a token for a user."""
        text = f"drt_{secrets.token_urlsafe(32)}"
        token_id = _hash(text)
        self._put(RefreshToken(token_id, user, client[:_MAX_CLIENT], self._now(), self._now(), user_version))
        return text

    def verify(self, text: str, version_of: Callable[[str], str | None]) -> RefreshToken | None:
        """
        Return a token, and record its use; None if it is malformed, unknown, revoked or has ended.

        Args:
            version_of: returns the version of a user's password; None if there is no such user.
        """
        found = self._get(_hash(text)) if _TOKEN.fullmatch(text) else None
        if found is None or not self._is_alive(found) or version_of(found.user) != found.user_version:
            return None
        if self._now() - found.last_used > _LAST_USED_RESOLUTION_SECONDS:
            found = replace(found, last_used=self._now())
            self._put(found)
        return found

    def list(self) -> Iterator[RefreshToken]:
        """Yield all tokens, also those that have ended."""
        try:
            paths = list(self._pace(self._driver.list_directory(FOLDER)))
        except PathNotFound:
            return
        for path in self._pace(paths):
            found = self._get(path.rpartition("/")[2])
            if found is not None:
                yield found

    def revoke(self, chosen: Callable[[RefreshToken], bool]) -> int:
        """Remove all tokens that are chosen, and return their number."""
        count = 0
        for token in [token for token in self.list() if chosen(token)]:
            try:
                self._driver.remove(f"{FOLDER}/{token.token_id}")
                count += 1
            except PathNotFound:  # revoked by another process
                continue
        return count

    def purge(self) -> int:
        """Remove the tokens that have not been used for too long, and return their number."""
        return self.revoke(lambda token: not self._is_alive(token))

    def _is_alive(self, token: RefreshToken) -> bool:
        return self._now() - token.last_used <= IDLE_SECONDS

    def _get(self, token_id: str) -> RefreshToken | None:
        try:
            stored = json.loads(self._driver.get_content(f"{FOLDER}/{token_id}"))
            return RefreshToken(token_id=token_id, **stored)
        except (PathNotFound, ValueError, TypeError):
            return None

    def _put(self, token: RefreshToken) -> None:
        stored = {name: value for name, value in asdict(token).items() if name != "token_id"}
        self._driver.put_content(f"{FOLDER}/{token.token_id}", json.dumps(stored).encode())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
