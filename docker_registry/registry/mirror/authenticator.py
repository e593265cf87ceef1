"""
Authentication towards an upstream: answers the challenge of a response, and reuses tokens until they expire.

Sources: the CNCF distribution project, "Token Authentication Specification"; RFC 7617 (Basic). Credentials are sent to
the upstream itself, and to a token server only if it is on the same host or registrable domain, or is listed, by https
(CVE-2026-33540: other registries sent them wherever an upstream pointed).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlencode, urlsplit

from docker_registry.concurrency import KeyedLocks
from docker_registry.errors import UpstreamDenied, UpstreamError, UpstreamUnavailable
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.mirror import hosts
from docker_registry.registry.mirror.challenge import Challenge, parse_challenges
from docker_registry.registry.mirror.credentials import Credentials
from docker_registry.registry.mirror.upstream import Upstream

MAX_TOKEN_BYTES: Final = 1024 * 1024

#: Life of a token whose server names none, or a shorter one; all clients assume this.
_MIN_TOKEN_SECONDS: Final = 60.0

#: Actions of a scope that a mirror may need. Azure's registry wants ``metadata_read`` for lists of tags.
_READING: Final = frozenset({"pull", "metadata_read"})

#: Part of its life for which a token is used.
_USED_LIFE: Final = 0.8

#: Memory for the tokens of one upstream.
_TOKENS_BYTES: Final = 4 * 1024 * 1024

#: Memory for the names of token servers that were compared with the upstream's.
_RELATED_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    until: float


class TokenRequest(Protocol):
    """
    Sends a GET request to a token server, follows no redirect, and returns the body if the status is 200.

    Raises UpstreamDenied for status 401 and 403, and another UpstreamError for all others.
    """

    def __call__(self, url: str, headers: Mapping[str, str], max_bytes: int) -> bytes: ...


class Authenticator:
    """Knows how to authenticate at one upstream."""

    def __init__(
        self,
        upstream: Upstream,
        credentials: Credentials | None,
        ask: TokenRequest,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            credentials: None for anonymous access.
            ask: sends requests for tokens.
            now: the clock, seconds.
        """
        self._upstream = upstream
        self._credentials = credentials
        self._ask = ask
        self._now = now
        self._locks = KeyedLocks()
        self._tokens: BoundedCache[str, _Token] = BoundedCache(_TOKENS_BYTES, lambda token: len(token.header))
        self._related: BoundedCache[str, bool] = BoundedCache(_RELATED_BYTES)
        self._uses_basic = False

    def header(self, repository: str) -> str | None:
        """Return the Authorization header for a request in a repository; None as long as none is needed."""
        if self._uses_basic and self._credentials is not None:
            return self._credentials.get().header
        token = self._tokens.get(repository)
        return token.header if token is not None and self._now() < token.until else None

    def answer(self, repository: str, www_authenticate: str, rejected: str | None) -> str | None:
        """
        Return the Authorization header that answers a response with status 401.

        Args:
            www_authenticate: the challenges of the response.
            rejected: the header of the request; a token in it is not used again.

        Returns:
            None if there is no challenge that this registry can answer.

        Raises:
            UpstreamDenied: the token server denies access.
            UpstreamError: the token server does not issue a token, or is not one that may receive the credentials.
            OSError: the token server cannot be resolved.
        """
        challenges = {each.scheme: each for each in reversed(parse_challenges(www_authenticate))}
        if "bearer" in challenges:
            self._uses_basic = False  # the upstream has begun to issue tokens
            with self._locks.hold(repository):
                current = self.header(repository)
                if current is not None and current != rejected:  # another request got a new one meanwhile
                    return current
                return self._get_token(repository, challenges["bearer"], is_rejected=rejected is not None)
        if "basic" in challenges and self._credentials is not None and self._may_log_in(self._upstream.url):
            self._uses_basic = True
            return self._credentials.get(renew=rejected is not None).header
        return None

    def credentials_for(self, url: str) -> Credentials | None:
        """
        Return the credentials if another server may receive them too; None otherwise, or without any.

        Args:
            url: valid URL of the server.
        """
        return self._credentials if self.is_trusted(url) and self._may_log_in(url) else None

    def is_trusted(self, url: str) -> bool:
        """Return whether another server is on the upstream's registrable domain, or one of its token servers."""
        host = hosts.host_of(url)
        return host in self._upstream.token_hosts or self._is_related(host, hosts.host_of(self._upstream.url))

    # ------------------------------------------------------------------------------------------------- steps

    def _get_token(self, repository: str, challenge: Challenge, *, is_rejected: bool) -> str:
        realm = challenge.parameters.get("realm", "")
        self._check_realm(realm)
        query = {"service": challenge.parameters["service"]} if challenge.parameters.get("service") else {}
        scope = _pull_scope(challenge.parameters.get("scope", ""))
        scope = scope or (f"repository:{repository}:pull" if repository else "")
        if scope:
            query["scope"] = scope
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        token = _read_token(self._ask_with_login(url, is_rejected=is_rejected), self._now())
        if token is None:
            raise UpstreamError(
                "The token server of the upstream registry sent no token.", upstream=self._upstream.name
            )
        self._tokens.put(repository, token)
        return token.header

    def _ask_with_login(self, url: str, *, is_rejected: bool) -> bytes:
        """Ask a token server; once more if it refuses a login that has changed since it was read."""
        if self._credentials is None:
            return self._ask(url, {}, MAX_TOKEN_BYTES)
        login = self._credentials.get(renew=is_rejected)
        try:
            return self._ask(url, {"Authorization": login.header}, MAX_TOKEN_BYTES)
        except UpstreamDenied:
            renewed = login
            if not is_rejected:
                with suppress(UpstreamUnavailable):  # access is denied nevertheless
                    renewed = self._credentials.get(renew=True)
            if renewed == login:
                raise
        return self._ask(url, {"Authorization": renewed.header}, MAX_TOKEN_BYTES)

    def _check_realm(self, realm: str) -> None:
        """
        Check that a token server may be asked.

        Raises:
            UpstreamError: its URL is invalid, it may not receive the credentials, or only its own site can reach it.
            OSError: it cannot be resolved.
        """
        try:
            host, own_host = urlsplit(realm).hostname or "", urlsplit(self._upstream.url).hostname or ""
            is_valid = urlsplit(realm).scheme in ("http", "https") and bool(host) and urlsplit(realm).username is None
        except ValueError:
            is_valid = False
        if not is_valid:
            raise UpstreamError("The upstream registry names an invalid token server.", upstream=self._upstream.name)
        if self._credentials is not None and self.credentials_for(realm) is None:
            raise UpstreamError(
                "The upstream registry names a token server that may not receive its password (token_hosts).",
                upstream=self._upstream.name, token_server=host,
            )  # fmt: skip
        is_checked = host not in self._upstream.token_hosts and not hosts.is_proxied(realm)
        if is_checked and not hosts.is_safe_token_server(host, own_host):
            raise UpstreamError(
                "The upstream registry names a token server with a private address.",
                upstream=self._upstream.name, token_server=host,
            )  # fmt: skip

    def _is_related(self, host: str, own_host: str) -> bool:
        known = self._related.get(host)
        if known is None:
            known = hosts.is_related(host, own_host)
            self._related.put(host, known)
        return known

    def _may_log_in(self, url: str) -> bool:
        return urlsplit(url).scheme == "https" or self._upstream.is_insecure


def _pull_scope(scope: str) -> str:
    """
    Return a scope without all that pulling does not need; empty if nothing is left.

    The upstream chooses the scope, and receives the token: it must not get more of the account than that. The token is
    used for all requests in the repository, so the scope includes ``pull``.
    """
    parts = [each.rpartition(":") for each in scope.split(" ")]
    needed = [(resource, _READING.intersection(actions.split(","))) for resource, _, actions in parts if resource]
    return " ".join(f"{resource}:{','.join(sorted({'pull', *actions}))}" for resource, actions in needed if actions)


def _read_token(body: bytes, now: float) -> _Token | None:
    """Return the token in a response of a token server; None if there is none."""
    try:
        document: Any = json.loads(body)
        text = document.get("token") or document.get("access_token")
        seconds = document.get("expires_in")
    except (ValueError, AttributeError, RecursionError):
        return None
    # Printable ASCII: anything else could not be sent in a header.
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or " " in text:
        return None
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    life = max(seconds, _MIN_TOKEN_SECONDS) if is_number else _MIN_TOKEN_SECONDS
    return _Token(f"Bearer {text}", now + _USED_LIFE * min(life, 24 * 3600))
