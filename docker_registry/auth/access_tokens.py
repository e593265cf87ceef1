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

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import jwt

from docker_registry.auth.scopes import Grant
from docker_registry.auth.signing_keys import SigningKeys
from docker_registry.errors import Unauthorized

#: Clients take a shorter life for 60 seconds.
MIN_SECONDS: Final = 60

#: Clocks of hosts may differ by this much.
_SKEW_SECONDS: Final = 60

#: Longest token that is parsed, and number of verified tokens that are remembered.
MAX_CHARACTERS: Final = 16 * 1024
MAX_REMEMBERED: Final = 10_000

#: Headers that name or carry a key, or demand extensions (RFC 7515, section 4.1); never followed.
_FORBIDDEN: Final = ("jku", "jwk", "x5u", "x5c", "crit")

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
        seconds: its life.
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
            seconds: life of a token, at least 60.
            now: the clock; returns seconds since the Unix epoch.
        """
        self._keys = keys
        self._issuer = issuer
        self._service = service
        self._seconds = max(seconds, MIN_SECONDS)
        self._now = now
        self._verified: OrderedDict[bytes, AccessToken] = OrderedDict()

    def issue(self, user: str, user_version: str, grant: Grant, groups: frozenset[str] = frozenset()) -> Issued:
        """Issue a token."""
        key, now = self._keys.current(), int(self._now())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": user,
            "aud": self._service,
            "exp": now + self._seconds,
            "nbf": now - _SKEW_SECONDS,
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
        return Issued(text, now, self._seconds)

    def verify(self, text: str) -> AccessToken:
        """
        Verify a token.

        Raises:
            Unauthorized: it is malformed, expired, or not a token of this registry; the message gives the reason.
        """
        mark = hashlib.sha256(text.encode()).digest()
        found = self._verified.get(mark)
        if found is None:
            found = self._verify(text)
            self._verified[mark] = found
            while len(self._verified) > MAX_REMEMBERED:
                self._verified.popitem(last=False)
        if found.grant.expires <= self._now():
            self._verified.pop(mark, None)
            raise _invalid("it has expired")
        return found

    def _verify(self, text: str) -> AccessToken:
        if len(text) > MAX_CHARACTERS:
            raise _invalid("it is too long")
        try:
            header = jwt.get_unverified_header(text)
        except (jwt.PyJWTError, RecursionError):
            raise _invalid("it is malformed") from None
        if any(name in header for name in _FORBIDDEN):
            raise _invalid("its header names a key or an extension")
        key = self._keys.find(header["kid"]) if isinstance(header.get("kid"), str) else None
        if key is None:
            raise _invalid("its key is unknown")
        if header.get("alg") != key.algorithm:
            raise _invalid("its algorithm is not allowed")
        try:
            claims = jwt.decode(
                text,
                key.public,
                [key.algorithm],
                audience=self._service,
                issuer=self._issuer,
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, RecursionError) as error:
            raise _invalid(_reason(error)) from None
        return self._read(claims)

    def _read(self, claims: dict[str, Any]) -> AccessToken:
        user, version, groups = claims["sub"], claims.get("user_version", ""), claims.get("groups", [])
        expires, begins = claims["exp"], claims["nbf"]
        if not all(isinstance(value, int | float) for value in (expires, begins)) or begins > self._now():
            raise _invalid("it is not valid yet, or its times are malformed")
        is_text = isinstance(user, str) and isinstance(version, str)
        if not is_text or not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
            raise _invalid("its claims are malformed")
        try:
            grant = Grant.read(claims.get("access"), claims.get("denied"), float(expires))
        except ValueError as error:
            raise _invalid(str(error)) from None
        return AccessToken(user, version, grant, frozenset(groups))


def _invalid(reason: str) -> Unauthorized:
    return Unauthorized(f"The token is not valid: {reason}.", error="invalid_token")


def _reason(error: Exception) -> str:
    for kind, reason in (
        (jwt.InvalidAudienceError, "it is for another service"),
        (jwt.InvalidIssuerError, "it is from another issuer"),
        (jwt.InvalidSignatureError, "its signature is wrong"),
        (jwt.MissingRequiredClaimError, "it lacks a claim"),
    ):
        if isinstance(error, kind):
            return reason
    return "it is malformed"
