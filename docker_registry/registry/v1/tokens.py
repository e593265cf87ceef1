"""
Tokens of API V1. Any worker on any host of the registry can verify them, without shared session state.

::

    Token signature=<expiry>.<nonce>.<hmac>[.<holder>],repository="acme/web",access=write

The HMAC (SHA-256) covers expiry, nonce, repository, access and holder: the user to whom a registry with users issued
the token. Its key is generated once and kept in the store.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import quote, unquote

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import PreconditionFailed
from docker_registry.registry.names import ImageRepositoryName
from docker_registry.registry.v1 import image_layout

Access = Literal["read", "write", "delete"]

logger = logging.getLogger(__name__)

#: Long enough for the push of a large image over a slow connection.
LIFETIME_SECONDS: Final = 24 * 60 * 60

_KEY_BYTES: Final = 32

#: Some clients repeat the scheme: ``Token Token signature=…``.
_TOKEN = re.compile(
    r"(?:Token )+signature=([0-9a-f]{1,16})\.([0-9a-f]{32})\.([0-9a-f]{64})(?:\.((?:[0-9a-f]{2}){1,512}))?,"
    r'repository="([^"]*)",'
    r"access=(read|write|delete)"
)


@dataclass(frozen=True, slots=True)
class Token:
    """
    The permission that a token grants.

    Attributes:
        repository: namespace and name, with slashes in the name quoted; see :func:`token_repository`.
        access: ``read``, ``write`` or ``delete``.
        holder: what :meth:`Tokens.make` was given; empty without users.
        expires: when it ends, seconds since the Unix epoch.
    """

    repository: str
    access: str
    holder: str = ""
    expires: float = field(default=math.inf, compare=False)

    @property
    def name(self) -> ImageRepositoryName:
        """The repository's name."""
        return ImageRepositoryName.parse(unquote(self.repository))


class Tokens:
    """Issues and verifies tokens."""

    def __init__(self, driver: StorageDriver, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._now = now
        self._known_key: bytes | None = None

    def make(self, name: ImageRepositoryName, access: Access, holder: str = "", until: float = math.inf) -> str:
        """
        Issue a token for a repository, as the value of a header.

        Args:
            holder: identifies the user in a registry with users; at most 512 bytes.
            until: when its credentials end, seconds since the Unix epoch; the token ends at the latest then.
        """
        repository = token_repository(name)
        expiry = f"{max(0, int(min(self._now() + LIFETIME_SECONDS, until))):x}"
        nonce = secrets.token_hex(16)
        suffix = f".{holder.encode().hex()}" if holder else ""
        signature = self._sign(expiry, nonce, repository, access, *([holder] if holder else []))
        return f'Token signature={expiry}.{nonce}.{signature}{suffix},repository="{repository}",access={access}'

    def read(self, text: str) -> Token | None:
        """Verify a token from a header; None when it is malformed, has a wrong signature, or has expired."""
        match = _TOKEN.fullmatch(text.strip())
        if match is None:
            return None
        expiry, nonce, signature, encoded, repository, access = match.groups()
        holder = bytes.fromhex(encoded or "").decode("utf-8", "replace")
        expected = self._sign(expiry, nonce, repository, access, *([holder] if holder else []))
        if not hmac.compare_digest(signature, expected) or int(expiry, 16) < self._now():
            return None
        return Token(repository, access, holder, int(expiry, 16))

    def _sign(self, *parts: str) -> str:
        return hmac.new(self._key(), "\n".join(parts).encode(), hashlib.sha256).hexdigest()

    def _key(self) -> bytes:
        if self._known_key is None:
            stored = self._driver.find_versioned(image_layout.TOKEN_KEY)
            if stored is None:
                self._known_key = self._make_key(ABSENT)
            elif len(stored.content) < _KEY_BYTES or not any(stored.content):
                # Truncated, or zeros after a crash of the host: with such a key, anyone could sign tokens.
                logger.error("the key that signs tokens of API V1 is damaged, and is replaced: all tokens are invalid")
                self._known_key = self._make_key(stored.version)
            else:
                self._known_key = stored.content
        return self._known_key

    def _make_key(self, replaced: str) -> bytes:
        """
        Store a new key, and return it, or that of a concurrent worker.

        Args:
            replaced: version of the key to replace; :data:`ABSENT` if there is none.
        """
        condition = replaced if self._driver.capabilities.if_match else None
        try:
            self._driver.put_content(image_layout.TOKEN_KEY, secrets.token_bytes(_KEY_BYTES), if_match=condition)
        except PreconditionFailed:  # another worker has created the key meanwhile
            pass
        return self._driver.get_content(image_layout.TOKEN_KEY)


def token_repository(name: ImageRepositoryName) -> str:
    """Return a repository's name in the form used in tokens: ``a/b%2Fc`` for ``a/b/c``."""
    return f"{name.namespace}/{quote(name.name, safe='')}"
