"""
Access tokens: JWTs after distribution's token authentication specification.

::

    {"iss": "docker-registry", "sub": "alice", "aud": "docker-registry", "exp": …, "nbf": …, "iat": …, "jti": "…",
     "access": [{"type": "repository", "name": "acme/web", "actions": ["pull", "push"]}],
     "denied": [{"type": "repository", "name": "acme/web", "actions": ["delete"]}], "user_version": "…"}

``denied`` remembers what the client requested and was refused. A token allows what its scopes and the current rules
both allow. It ends with the user's password: ``user_version`` is derived from the stored hash.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt

from docker_registry.auth.tokens import json_web_tokens
from docker_registry.auth.tokens.json_web_tokens import Remembered, VerifyingKey
from docker_registry.auth.tokens.scopes import Grant
from docker_registry.auth.tokens.signing_keys import ES256, RS256, SigningKeys

#: Shortest lifetime: clients treat a shorter one as 60 seconds.
MIN_SECONDS: Final = 60

_REQUIRED: Final = ["iss", "sub", "aud", "exp", "nbf", "iat"]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """
    A verified token.

    Attributes:
        user: name of the user; empty for an anonymous client.
        user_version: version of the user's password.
    """

    user: str
    user_version: str
    grant: Grant
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class Issued:
    """
    A new token.

    Attributes:
        issued_at: seconds since the Unix epoch.
        seconds: its lifetime.
    """

    text: str
    issued_at: int
    seconds: int

    def __repr__(self) -> str:
        return "Issued(…)"


class AccessTokens:
    """Issues and verifies access tokens."""

    def __init__(
        self,
        keys: SigningKeys,
        *,
        issuer: str,
        service: str,
        seconds: int = 300,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            service: the audience.
            seconds: lifetime of a token; less than 60 counts as 60.
            now: the clock; returns seconds since the Unix epoch.
        """
        self._keys = keys
        self._issuer = issuer
        self._service = service
        self._seconds = max(seconds, MIN_SECONDS)
        self._now = now
        self._verified: Remembered[AccessToken] = Remembered()

    def issue(
        self,
        user: str,
        user_version: str,
        grant: Grant,
        groups: frozenset[str] = frozenset(),
        until: float = math.inf,
    ) -> Issued:
        """
        Issue a token.

        Args:
            until: when the credentials of the user end, seconds since the Unix epoch; the token may outlive them by
                a minute at most.
        """
        key, now = self._keys.current(), int(self._now())
        seconds = int(min(self._seconds, max(until - now, MIN_SECONDS)))
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": user,
            "aud": self._service,
            "exp": now + seconds,
            "nbf": now - json_web_tokens.SKEW_SECONDS,
            "iat": now,
            "jti": secrets.token_urlsafe(12),
            "access": grant.access(),
        }
        if grant.refused:
            claims["denied"] = grant.denied()
        if user_version:
            claims["user_version"] = user_version
        if groups:
            claims["groups"] = sorted(groups)
        text = jwt.encode(claims, key.private, key.algorithm, {"kid": key.key_id})
        return Issued(text, now, seconds)

    def verify(self, text: str) -> AccessToken:
        """
        Verify a token.

        Raises:
            Unauthorized: it is malformed, expired, or not a token of this registry; the message gives the reason.
        """
        found = self._verified.get(text, self._verify)
        if found.grant.expires <= self._now():
            raise json_web_tokens.invalid("it has expired")
        return found

    def _verify(self, text: str) -> AccessToken:
        return self._read(
            json_web_tokens.decode(
                text,
                self._find,
                issuer=self._issuer,
                audience=self._service,
                algorithms=(ES256, RS256),
                required=_REQUIRED,
                now=self._now(),
            )
        )

    def _find(self, key_id: str | None) -> Sequence[VerifyingKey]:
        key = None if key_id is None else self._keys.find(key_id)
        return [] if key is None else [VerifyingKey(frozenset({key.key_id}), key.public, (key.algorithm,))]

    def _read(self, claims: dict[str, Any]) -> AccessToken:
        user, version, groups = claims["sub"], claims.get("user_version", ""), claims.get("groups", [])
        is_text = isinstance(user, str) and isinstance(version, str)
        if not is_text or not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
            raise json_web_tokens.invalid("its claims are malformed")
        try:
            grant = Grant.read(claims.get("access"), claims.get("denied"), float(claims["exp"]))
        except ValueError as error:
            raise json_web_tokens.invalid(str(error)) from None
        return AccessToken(user, version, grant, frozenset(groups))
