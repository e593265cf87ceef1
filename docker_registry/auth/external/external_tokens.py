"""
Access tokens of another token server (distribution's ``auth.token``).

Its tokens decide what their holders may do; with a rules file, both must allow it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from docker_registry.auth.external import https_documents
from docker_registry.auth.external.key_sets import FileKeys, KeySource, parse_certificates, parse_jwks
from docker_registry.auth.external.remote_keys import RemoteKeys
from docker_registry.auth.tokens import json_web_tokens
from docker_registry.auth.tokens.access_tokens import AccessToken
from docker_registry.auth.tokens.json_web_tokens import ALGORITHMS, SKEW_SECONDS, Remembered
from docker_registry.auth.tokens.scopes import Grant
from docker_registry.errors import ConfigError

#: The ``denied`` claim and versions of users are our own and not read.
_REQUIRED: Final = ("iss", "aud", "exp")

_MAX_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class TokenServer:
    """
    A token server.

    Attributes:
        realm: the URL at which clients get tokens.
        service: its name for this registry, the audience of the tokens.
        issuer: the issuer of the tokens.
        algorithms: those that are accepted.
    """

    realm: str
    service: str
    issuer: str
    algorithms: tuple[str, ...]

    @classmethod
    def parse(cls, *, realm: str, service: str | None, issuer: str | None, algorithms: Collection[str]) -> TokenServer:
        """
        Check the settings of a token server.

        Args:
            algorithms: all that use public keys if empty.

        Raises:
            ConfigError: one is missing or invalid.
        """
        if not service or not issuer:
            raise ConfigError("auth.token: realm, service and issuer belong together")
        for name, text in (("realm", realm), ("service", service)):
            if not text.isprintable() or '"' in text or not text.isascii():
                raise ConfigError(f"auth.token.{name} must consist of printable ASCII characters without quotes")
        if not realm.startswith(("https://", "http://")) or " " in realm:
            raise ConfigError("auth.token.realm must be a URL that begins with https:// or http://")
        unknown = sorted(set(algorithms) - set(ALGORITHMS))
        if unknown:
            raise ConfigError(f"auth.token.signingalgorithms must be some of {', '.join(ALGORITHMS)}")
        return cls(realm, service, issuer, tuple(algorithms) or ALGORITHMS)


def open_keys(*, certificates: Path | None, jwks: str | None, ca: Path | None) -> KeySource:
    """
    Open the keys of a token server: the one source that is configured.

    Args:
        certificates: PEM file of certificates or public keys.
        jwks: JSON Web Key Set; a path, or a URL with ``https://``.
        ca: certificate authorities for the URL.

    Raises:
        ConfigError: neither or both are set, or a file cannot be used.
    """
    if (certificates is None) == (jwks is None):
        raise ConfigError("auth.token: set either rootcertbundle or jwks")
    if certificates is not None:
        return FileKeys(certificates, parse_certificates, "auth.token.rootcertbundle")
    url = jwks or ""
    if "://" not in url:
        return FileKeys(Path(os.path.expanduser(url)).absolute(), parse_jwks, "auth.token.jwks")
    https_documents.check_url("auth.token.jwks", url)
    if ca is not None and not os.path.isfile(ca):  # noqa: PTH113 - raises no PermissionError
        raise ConfigError(f"auth.token.ca: {ca} cannot be read")
    return RemoteKeys("the token server", lambda: https_documents.fetch(url, ca))


class ExternalTokens:
    """
    Verifies the tokens of a token server.

    Attributes:
        server: the token server.
        keys: its public keys.
    """

    def __init__(self, server: TokenServer, keys: KeySource, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: the clock; returns seconds since the Unix epoch.
        """
        self.server = server
        self.keys = keys
        self._now = now
        self._verified: Remembered[AccessToken] = Remembered()

    def verify(self, text: str) -> AccessToken:
        """
        Verify a token.

        Raises:
            Unauthorized: it is malformed, expired, or not a token for this registry; the message gives the reason.
            AuthorityUnavailable: the keys of the token server could not be fetched.
        """
        found = self._verified.get(text, self._verify, self.keys.version)
        if found.grant.expires <= self._now():
            raise json_web_tokens.invalid("it has expired")
        return found

    def _verify(self, text: str) -> AccessToken:
        server, now = self.server, self._now()
        claims = json_web_tokens.decode(
            text,
            self.keys.find,
            issuer=server.issuer,
            audience=server.service,
            algorithms=server.algorithms,
            required=_REQUIRED,
            now=now,
        )
        try:
            grant = Grant.read(claims.get("access"), None, float(claims["exp"]) + SKEW_SECONDS)
        except ValueError as error:
            raise json_web_tokens.invalid(str(error)) from None
        return AccessToken(_subject(claims), "", grant, frozenset())


def _subject(claims: dict[str, Any]) -> str:
    subject = claims.get("sub", "")
    if not isinstance(subject, str) or len(subject) > _MAX_NAME or not subject.isprintable():
        raise json_web_tokens.invalid("its claims are malformed")
    return subject
