"""
The connection to an upstream registry: sends requests, authenticates, follows redirects, and watches its state.

Nothing of a client's request is sent to the upstream but the name and the digest or tag. Redirects are followed here,
so that credentials stay with the upstream. Answers are bounded; their content is checked where it is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

import requests

from docker_registry.concurrency import deadline
from docker_registry.errors import UpstreamDenied, UpstreamError, UpstreamLimited, UpstreamTimeout, UpstreamUnavailable
from docker_registry.registry.mirror import hosts, responses
from docker_registry.registry.mirror.adapter import UpstreamSession
from docker_registry.registry.mirror.authenticator import Authenticator
from docker_registry.registry.mirror.credentials import Credentials
from docker_registry.registry.mirror.responses import UpstreamBlob
from docker_registry.registry.mirror.status import Reachability
from docker_registry.registry.mirror.upstream import Upstream
from docker_registry.resources.circuit_breaker import CircuitBreaker
from docker_registry.resources.memory_budget import MemoryBudget

logger = logging.getLogger(__name__)

MAX_REDIRECTS: Final = 10

#: Consecutive failures after which an upstream is asked only once in this time. A failure is a connection that cannot
#: be made or breaks, a timeout, or a status of 500 or more.
_MAX_FAILURES: Final = 5
PROBE_SECONDS: Final = 30.0

OK: Final = frozenset({200})

UNAUTHORIZED: Final = 401

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

#: Status codes with which an upstream says that it has no such content.
_MISSING: Final = frozenset({404})

#: Status codes with which an upstream that works refuses a request.
_REFUSALS: Final = frozenset({401, 403, 429})

#: Below this share of its pulls, an upstream is not asked for what the store has, for this time.
_LOW_SHARE: Final = 0.1
_LIMIT_SECONDS: Final = 600.0


class UpstreamConnection:
    """
    Sends requests to one upstream; greenlets may share it.

    Attributes:
        has_credentials: whether the upstream knows this registry as a user.
        reachability: whether the upstream answers.
        pulled_bytes: bytes of manifests and blobs that the upstream has sent.
    """

    def __init__(
        self,
        upstream: Upstream,
        credentials: Credentials | None,
        memory: MemoryBudget,
        *,
        user_agent: str,
        via: Callable[[], str],
        is_offline: bool = False,
    ) -> None:
        """
        Args:
            credentials: None for anonymous access.
            memory: budget for short bodies that are being received.
            via: returns the name of this registry in Via headers, by which it recognizes its own requests.
            is_offline: never ask the upstream.
        """
        self.upstream = upstream
        self.has_credentials = credentials is not None
        self.reachability = Reachability()
        self.pulled_bytes = {"blob": 0, "manifest": 0}
        self._memory = memory
        self._is_offline = is_offline
        self._limited_until = 0.0
        self._breaker = CircuitBreaker(
            f"the upstream {upstream.name}",
            lambda: UpstreamUnavailable(upstream=upstream.name),
            max_failures=_MAX_FAILURES,
            probe_seconds=PROBE_SECONDS,
        )
        self._session = UpstreamSession(
            user_agent,
            via,
            verify=not upstream.is_insecure if upstream.ca is None else str(upstream.ca),
            client_cert=None if upstream.client_cert is None else str(upstream.client_cert),
            timeout_seconds=upstream.timeout_seconds,
            max_connections=upstream.max_connections,
        )
        self._credentials = credentials
        self._authenticator = Authenticator(upstream, credentials, self._ask_for_token)

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()

    @property
    def is_nearly_limited(self) -> bool:
        """True if a recent response of the upstream said that only a few pulls are left."""
        return time.monotonic() < self._limited_until

    def ask(
        self,
        method: str,
        repository: str,
        content: str,
        headers: Mapping[str, str] | None = None,
        accepted: Collection[int] = OK,
    ) -> requests.Response | None:
        """
        Send a request of API V2, with a token or password if the upstream wants one.

        Args:
            repository: its name at the upstream; empty for a request of none.
            content: path and query of the content below that of the repository.
            accepted: status codes of responses to return.

        Returns:
            The response, which the caller closes; None for status 404.

        Raises:
            UpstreamError: the upstream cannot be asked, or answers with another status.
        """
        path = f"{repository}/{content}" if repository else content
        url = f"{self.upstream.url}/v2/{path}"
        return self._watched(
            method, path or "v2/", lambda: self._authenticated(method, repository, url, headers or {}), accepted
        )

    def send(
        self, method: str, path: str, headers: Mapping[str, str], accepted: Collection[int] = OK
    ) -> requests.Response | None:
        """
        Send a request that is none of API V2.

        Args:
            path: path and query below the URL of the upstream.
            headers: of these, Authorization is sent to the origin of the upstream only.
            accepted: status codes of responses to return.

        Returns:
            As for :meth:`ask`.

        Raises:
            UpstreamError: as for :meth:`ask`.
        """
        others = {name: value for name, value in headers.items() if name != "Authorization"}
        url, own = f"{self.upstream.url}/{path}", headers.get("Authorization")
        return self._watched(method, path, lambda: self._follow(method, url, others, own), accepted)

    def read(self, response: requests.Response, max_bytes: int) -> bytes:
        """
        Read a short body, and close the response.

        Raises:
            UpstreamError: the body is too long or compressed, or does not arrive in time.
        """
        with response:
            return responses.read_body(response, max_bytes, self.upstream.name, self._memory)

    def blob(self, response: requests.Response, start: int = 0) -> UpstreamBlob:
        """
        Return the blob in a response, whose bytes are counted.

        Args:
            start: offset of the first byte that was requested.

        Raises:
            UpstreamError: the response is another part than the requested one.
        """
        return UpstreamBlob(response, self.upstream.name, start, self._count_blob)

    def login(self, *, renew: bool = False) -> str | None:
        """
        Return the Authorization header with the account at the upstream; None without one.

        Args:
            renew: the upstream has rejected the last one.

        Raises:
            UpstreamUnavailable: the password is not available for now.
        """
        return None if self._credentials is None else self._credentials.get(renew=renew).header

    def credentials_for(self, other: Upstream) -> Credentials | None:
        """Return the credentials if another server may receive them, as a token server may; None otherwise."""
        return self._authenticator.credentials_for(other.url)

    # ------------------------------------------------------------------------------------------------- steps

    def _watched(
        self, method: str, path: str, send: Callable[[], requests.Response], accepted: Collection[int]
    ) -> requests.Response | None:
        """Send a request unless the upstream is not asked now, log it, and watch the state of the upstream."""
        if self._is_offline:
            raise UpstreamUnavailable("The registry is offline: it serves what it has.", upstream=self.upstream.name)
        self._breaker.check()
        began, outcome = time.monotonic(), "failed"
        try:
            with responses.network_errors(self.upstream.name), deadline(2 * self.upstream.timeout_seconds):
                response = send()
            outcome = str(response.status_code)
        except UpstreamError as error:
            outcome = f"failed ({responses.cause_of(error)})"
            if isinstance(error, UpstreamUnavailable | UpstreamTimeout):
                self._breaker.record_failure(responses.cause_of(error))
                self.reachability.record(responses.cause_of(error))
            raise
        finally:
            seconds = time.monotonic() - began
            logger.info("upstream %s: %s %s %s %.3f s", self.upstream.name, method, path, outcome, seconds)
        self._record_status(response, accepted)
        if response.status_code in accepted:
            return response
        response.close()
        if response.status_code in _MISSING:
            return None
        raise responses.error_of(response, self.upstream.name)

    def _record_status(self, response: requests.Response, accepted: Collection[int]) -> None:
        status = response.status_code
        if status >= 500 and status not in accepted:
            self._breaker.record_failure(f"status {status}")
            self.reachability.record(f"It answers with status {status}.")
        else:
            self._breaker.record_success()
            self.reachability.record()
        if status in _REFUSALS and status not in accepted:
            self.reachability.record_refusal(status)
        self._record_limit(response)

    def _record_limit(self, response: requests.Response) -> None:
        """Remember whether few pulls are left (Docker Hub: ``ratelimit-limit: 100;w=21600``)."""
        limit, remaining = (
            responses.number(response.headers.get(f"ratelimit-{each}", "")) for each in ("limit", "remaining")
        )
        if limit is None or remaining is None:
            return
        self.reachability.limit, self.reachability.remaining = limit, remaining
        self._limited_until = time.monotonic() + _LIMIT_SECONDS if remaining < _LOW_SHARE * limit else 0.0

    def _count_blob(self, size: int) -> None:
        self.pulled_bytes["blob"] += size

    def _authenticated(self, method: str, repository: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Send a request; if the upstream wants other credentials, once more with these."""
        sent = self._authenticator.header(repository)
        response = self._follow(method, url, headers, sent)
        if response.status_code != UNAUTHORIZED:
            return response
        responses.skip(response)
        answer = self._authenticator.answer(repository, response.headers.get("WWW-Authenticate", ""), sent)
        return response if answer is None else self._follow(method, url, headers, answer)

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], authorization: str | None
    ) -> requests.Response:
        """Send a request, and follow redirects; credentials are sent to the origin of the first URL only."""
        first = url
        for _ in range(MAX_REDIRECTS + 1):
            is_same = hosts.is_same_origin(first, url)
            own = {"Authorization": authorization} if authorization is not None and is_same else {}
            response = self._session.open(method, url, {**headers, **own}, is_trusted=is_same)
            if response.status_code not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            responses.skip(response)
            target = hosts.redirect_target(url, location, self.upstream.url)
            if target is None:
                raise UpstreamError(
                    "The upstream registry redirects to an address that is not safe.", upstream=self.upstream.name
                )
            url = target
        raise UpstreamError("The upstream registry redirects too often.", upstream=self.upstream.name)

    def _ask_for_token(self, url: str, headers: Mapping[str, str], max_bytes: int) -> bytes:
        """Ask a token server; see :class:`~docker_registry.registry.mirror.authenticator.TokenRequest`."""
        began, outcome = time.monotonic(), "failed"
        try:
            with self._session.open("GET", url, headers, is_trusted=self._authenticator.is_trusted(url)) as response:
                outcome = str(response.status_code)
                return self._read_token(response, max_bytes)
        finally:
            seconds, host = time.monotonic() - began, hosts.host_of(url)
            logger.info("upstream %s: token of %s %s %.3f s", self.upstream.name, host, outcome, seconds)

    def _read_token(self, response: requests.Response, max_bytes: int) -> bytes:
        status = response.status_code
        if status in _REFUSALS:
            self.reachability.record()
            self.reachability.record_refusal(status)
        if status == responses.LIMITED:
            raise UpstreamLimited(retry_after_seconds=responses.retry_after(response), upstream=self.upstream.name)
        if status in _REFUSALS:
            raise UpstreamDenied(
                "The token server of the upstream registry denies access.", status=status, upstream=self.upstream.name
            )
        if status != 200:
            raise UpstreamError(
                "The token server of the upstream registry sent no token.", status=status, upstream=self.upstream.name
            )
        return self.read(response, max_bytes)
