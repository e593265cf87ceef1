"""The tokens of a registry: access tokens, the keys that sign them, and refresh tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from docker_registry.auth.tokens.access_tokens import AccessTokens
from docker_registry.auth.tokens.refresh_tokens import RefreshTokens
from docker_registry.auth.tokens.signing_keys import SigningKeys
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ConfigError

#: Headers cannot contain characters beyond it.
_LAST_OF_LATIN_1: Final = "\xff"


@dataclass(frozen=True, slots=True)
class Tokens:
    """
    Everything about tokens.

    Attributes:
        service: the name of this registry in challenges, and the audience of its tokens.
    """

    service: str
    keys: SigningKeys
    access: AccessTokens
    refresh: RefreshTokens

    @classmethod
    def open(
        cls,
        driver: StorageDriver,
        *,
        service: str,
        issuer: str,
        seconds: int,
        algorithm: str,
        rotation_seconds: float,
        pace: Callable[[Iterable[Any]], Iterator[Any]],
    ) -> Tokens:
        """
        Create the parts on a store.

        Args:
            seconds: life of an access token.
            algorithm: of new signing keys.
            rotation_seconds: age at which a signing key is replaced.
            pace: see :class:`RefreshTokens`.

        Raises:
            ConfigError: the service cannot be named in a challenge, or be the audience of a token.
        """
        if not service or not service.isprintable() or '"' in service or max(service) > _LAST_OF_LATIN_1:
            raise ConfigError("auth.service must consist of printable characters of Latin-1 without quotes")
        keys = SigningKeys(driver, algorithm=algorithm, rotation_seconds=rotation_seconds)
        access = AccessTokens(keys, issuer=issuer, service=service, seconds=seconds)
        return cls(service, keys, access, RefreshTokens(driver, pace=pace))

    def maintain(self) -> str:
        """Replace the signing key if it is due, and remove refresh tokens that have ended; return what was changed."""
        changed = "replaced the key that signs access tokens" if self.keys.rotate_if_due() else ""
        self.refresh.purge()
        return changed
