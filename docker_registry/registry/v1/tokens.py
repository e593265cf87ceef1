"""
Tokens of API V1: who got one from a registry may show it to any of its workers and hosts.

::

    Token signature=<expiry>.<nonce>.<hmac>,repository="acme/web",access=write

The HMAC (SHA-256) is over repository, access, expiry and nonce; its key lies once in the store.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import PathNotFound, PreconditionFailed
from docker_registry.registry.names import ImageRepositoryName
from docker_registry.registry.v1 import image_layout

Access = Literal["read", "write", "delete"]

#: As long as the push of a large image over a slow line may take.
LIFETIME_SECONDS: Final = 24 * 60 * 60

_KEY_BYTES: Final = 32

#: Clients repeat the word: ``Token Token signature=…``.
_TOKEN = re.compile(
    r'(?:Token )+signature=([0-9a-f]{1,16})\.([0-9a-f]{32})\.([0-9a-f]{64}),repository="([^"]*)",'
    r"access=(read|write|delete)"
)


@dataclass(frozen=True, slots=True)
class Token:
    """
    What a token allows.

    Attributes:
        repository: as tokens write it: two parts, slashes of the second one quoted.
    """

    repository: str
    access: str


class Tokens:
    """Makes tokens, and tells good ones."""

    def __init__(self, driver: StorageDriver, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._now = now
        self._known_key: bytes | None = None

    def make(self, name: ImageRepositoryName, access: Access) -> str:
        """Return a token for a repository, as a header says it."""
        repository = token_repository(name)
        expiry, nonce = f"{int(self._now()) + LIFETIME_SECONDS:x}", secrets.token_hex(16)
        signature = self._sign(expiry, nonce, repository, access)
        return f'Token signature={expiry}.{nonce}.{signature},repository="{repository}",access={access}'

    def read(self, text: str) -> Token | None:
        """Return what a token allows; None when it is no token, not ours, or too old."""
        match = _TOKEN.fullmatch(text.strip())
        if match is None:
            return None
        expiry, nonce, signature, repository, access = match.groups()
        is_ours = hmac.compare_digest(signature, self._sign(expiry, nonce, repository, access))
        if not is_ours or int(expiry, 16) < self._now():
            return None
        return Token(repository, access)

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._key(), "\n".join(parts).encode(), hashlib.sha256).hexdigest()

    def _key(self) -> bytes:
        if self._known_key is None:
            try:
                self._known_key = self._driver.get_content(image_layout.TOKEN_KEY)
            except PathNotFound:
                self._known_key = self._make_key()
        return self._known_key

    def _make_key(self) -> bytes:
        condition = ABSENT if self._driver.supports_if_match else None
        try:
            self._driver.put_content(image_layout.TOKEN_KEY, secrets.token_bytes(_KEY_BYTES), if_match=condition)
        except PreconditionFailed:  # another worker was faster
            pass
        return self._driver.get_content(image_layout.TOKEN_KEY)


def token_repository(name: ImageRepositoryName) -> str:
    """Return a repository's name as tokens write it: two parts, ``a/b%2Fc``."""
    return f"{name.namespace}/{quote(name.name, safe='')}"
