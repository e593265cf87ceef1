"""
Workloads: programs that another service vouches for by an OpenID Connect token, such as a job of GitHub Actions or
GitLab, or a service account of Kubernetes.

The token is accepted as a password at the token endpoint. Of each issuer the claims that a token must have are
configured, and how the workload is called in rules::

    {issuer: https://token.actions.githubusercontent.com, audience: registry.example.com,
     match: {repository_owner: acme, ref: refs/heads/*}, as: "${repository}"}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from docker_registry.auth.external import https_documents
from docker_registry.auth.external.key_sets import FileKeys, KeySource, parse_jwks
from docker_registry.auth.external.names import is_identity
from docker_registry.auth.external.remote_keys import RemoteKeys
from docker_registry.auth.rules.patterns import MAX_WILDCARDS, compile_wildcards, count_wildcards
from docker_registry.auth.tokens import json_web_tokens
from docker_registry.auth.tokens.json_web_tokens import ALGORITHMS, SKEW_SECONDS
from docker_registry.errors import AuthorityUnavailable, ConfigError, Unauthorized

#: Begins the version of an identity in access tokens.
VERSION_PREFIX: Final = "oidc:"

_DISCOVERY: Final = "/.well-known/openid-configuration"
_REQUIRED: Final = ("iss", "aud", "exp", "iat")
_CLAIM: Final = re.compile(r"\$\{([A-Za-z0-9_.:/-]{1,128})\}")


@dataclass(frozen=True, slots=True)
class Workload:
    """
    A workload whose token has been verified.

    Attributes:
        name: in rules and logs.
        groups: those that its token names.
        expires: when its token ends, seconds since the Unix epoch.
        version: identifies the settings that accepted it.
    """

    name: str
    groups: frozenset[str]
    expires: float
    version: str


class Issuer:
    """
    A service that vouches for workloads.

    Attributes:
        url: its issuer identifier, the claim ``iss``.
        keys: its public keys.
        version: changes with its settings.
    """

    def __init__(
        self,
        *,
        url: str,
        audience: str,
        match: Mapping[str, str],
        name: str,
        groups: str | None,
        ca: Path | None,
        jwks_file: Path | None,
    ) -> None:
        """
        Args:
            audience: the claim ``aud``.
            match: patterns of claims, which must all match.
            name: the name of a workload, with ``${claim}``.
            groups: the claim that names its groups.
            ca: certificate authorities for the issuer's URLs; None for those of the system.
            jwks_file: its keys, instead of those that discovery finds.

        Raises:
            ConfigError: a setting is invalid, or the file cannot be used.
        """
        https_documents.check_url("auth.oidc: issuer", url)
        if not audience or not match:
            raise ConfigError(f"auth.oidc: audience and match of {url} must not be empty")
        if not _CLAIM.search(name):
            raise ConfigError(f"auth.oidc: as of {url} must contain a claim, such as ${{sub}}")
        if not is_identity(_CLAIM.sub("x", name)):
            raise ConfigError(f"auth.oidc: as of {url} makes no name that rules can contain: {name[:100]!r}")
        if ca is not None and not os.path.isfile(ca):  # noqa: PTH113 - raises no PermissionError
            raise ConfigError(f"auth.oidc: ca: {ca} cannot be read")
        self.url = url
        self._audience = audience
        self._match = {claim: _compile(url, pattern) for claim, pattern in match.items()}
        self._name = name
        self._groups = groups
        self.keys: KeySource = (
            RemoteKeys(url, lambda: _discover(url, ca))
            if jwks_file is None
            else FileKeys(jwks_file, parse_jwks, "auth.oidc: jwks_file")
        )
        settings = json.dumps([url, audience, dict(match), name, groups], sort_keys=True)
        self.version = VERSION_PREFIX + hashlib.sha256(settings.encode()).hexdigest()[:16]

    def verify(self, text: str, now: float) -> Workload:
        """
        Verify a token.

        Raises:
            Unauthorized: it is not valid, or its claims do not match.
            AuthorityUnavailable: the keys could not be fetched.
        """
        claims = json_web_tokens.decode(
            text,
            self.keys.find,
            issuer=self.url,
            audience=self._audience,
            algorithms=ALGORITHMS,
            required=_REQUIRED,
            now=now,
        )
        expires = float(claims["exp"]) + SKEW_SECONDS
        if expires <= now:
            raise json_web_tokens.invalid("it has expired")
        for claim, pattern in self._match.items():
            if not any(pattern.fullmatch(value) for value in _texts(claims.get(claim))):
                raise json_web_tokens.invalid(f"its claim {claim} does not match")
        groups = frozenset(_texts(claims.get(self._groups)) if self._groups else ())
        return Workload(self._name_of(claims), groups, expires, self.version)

    def _name_of(self, claims: Mapping[str, Any]) -> str:
        def value(found: re.Match[str]) -> str:
            texts = _texts(claims.get(found[1]))
            if len(texts) != 1 or isinstance(claims[found[1]], list):
                raise json_web_tokens.invalid(f"it lacks the claim {found[1]}")
            return texts[0]

        name = _CLAIM.sub(value, self._name)
        if not is_identity(name):
            raise json_web_tokens.invalid("its claims make no name that rules can contain")
        return name


class Workloads:
    """
    Verifies tokens of all configured issuers.

    Attributes:
        issuers: the issuers.
    """

    def __init__(self, issuers: Sequence[Issuer], now: Callable[[], float] = time.time) -> None:
        """
        Args:
            now: the clock; returns seconds since the Unix epoch.
        """
        self.issuers = issuers
        self._now = now

    def verify(self, text: str) -> Workload:
        """
        Return the workload of a token.

        Raises:
            Unauthorized: no issuer accepts the token; the message gives the reason.
            AuthorityUnavailable: the keys of its issuer could not be fetched.
        """
        named = json_web_tokens.read_claims(text).get("iss")
        issuers = [issuer for issuer in self.issuers if issuer.url == named]
        if not issuers:
            raise json_web_tokens.invalid("its issuer is unknown")
        for number, issuer in enumerate(issuers, 1):
            try:
                return issuer.verify(text, self._now())
            except Unauthorized:
                if number == len(issuers):
                    raise
        raise json_web_tokens.invalid("its issuer is unknown")

    def knows(self, version: str) -> bool:
        """Return whether the settings that accepted an identity are still in force."""
        return any(issuer.version == version for issuer in self.issuers)


def is_token(text: str) -> bool:
    """Return whether a password has the form of a JSON Web Token."""
    return text.startswith("eyJ") and text.count(".") == 2


def _discover(url: str, ca: Path | None) -> bytes:
    """
    Return the key set of an issuer (OpenID Connect Discovery 1.0, section 4).

    Raises:
        AuthorityUnavailable: a document could not be fetched, or is not that of this issuer.
    """
    document_url = url.rstrip("/") + _DISCOVERY
    try:
        document = json.loads(https_documents.fetch(document_url, ca))
        named, keys_url = document["issuer"], str(document["jwks_uri"])
        https_documents.check_url("jwks_uri", keys_url)
    except (ValueError, KeyError, TypeError, RecursionError, ConfigError):
        raise AuthorityUnavailable(f"{document_url} is not usable.") from None
    if named != url:
        raise AuthorityUnavailable(f"{document_url} names another issuer.")
    return https_documents.fetch(keys_url, ca)


def _compile(url: str, pattern: str) -> re.Pattern[str]:
    """
    Raises:
        ConfigError: the pattern is empty or has too many wildcards.
    """
    if not pattern or count_wildcards(pattern) > MAX_WILDCARDS:
        raise ConfigError(f"auth.oidc: a pattern in match of {url} is empty or has more than {MAX_WILDCARDS} wildcards")
    return compile_wildcards(pattern)


def _texts(claim: object) -> list[str]:
    """Return the texts of a claim, which may be a list; booleans and whole numbers as JSON writes them."""
    values = claim if isinstance(claim, list) else [claim]
    return [value if isinstance(value, str) else json.dumps(value) for value in values if isinstance(value, str | int)]
