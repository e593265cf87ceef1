"""
The client of an upstream registry: requests of API V2 whose answers are bounded and checked.

Nothing of a client's request is sent to the upstream but the name and the digest or tag, and nothing of the upstream's
answer is passed on before it is checked. Redirects are followed here, so that credentials stay with the upstream.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

import requests
from urllib3.exceptions import ProtocolError

from docker_registry.concurrency import deadline
from docker_registry.errors import (
    DigestInvalid,
    UpstreamDenied,
    UpstreamError,
    UpstreamLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from docker_registry.registry.manifest_payload import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from docker_registry.registry.mirror import hosts, responses
from docker_registry.registry.mirror.adapter import UpstreamSession
from docker_registry.registry.mirror.authenticator import Authenticator
from docker_registry.registry.mirror.credentials import Credentials
from docker_registry.registry.mirror.responses import TagState, UpstreamBlob, UpstreamManifest, UpstreamPage
from docker_registry.registry.mirror.status import Reachability
from docker_registry.registry.mirror.upstream import Upstream
from docker_registry.registry.names import Digest, Reference, Tag
from docker_registry.resources.circuit_breaker import CircuitBreaker
from docker_registry.resources.memory_budget import MemoryBudget

logger = logging.getLogger(__name__)

MAX_REDIRECTS: Final = 10

#: Consecutive failures after which an upstream is asked only once in this time. A failure is a connection that cannot
#: be made or breaks, a timeout, or a status of 500 or more.
_MAX_FAILURES: Final = 5
PROBE_SECONDS: Final = 30.0

_ACCEPT: Final = f"{OCI_INDEX}, {DOCKER_LIST}, {OCI_MANIFEST}, {DOCKER_MANIFEST}"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_OK: Final = frozenset({200})

#: Status codes of upstreams that do not support HEAD.
_UNSUPPORTED: Final = frozenset({405, 501})

#: Status codes with which an upstream says that it has no such content.
_MISSING: Final = frozenset({404})
_UNAUTHORIZED: Final = 401

#: Below this share of its pulls, an upstream is not asked for what the store has, for this time.
_LOW_SHARE: Final = 0.1
_LIMIT_SECONDS: Final = 600.0


class UpstreamClient:
    """
    Asks one upstream; greenlets may share it.

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
            via: returns the name of this registry in Via headers, by which it recognizes its own requests.
            memory: budget for manifests that are being received.
            is_offline: never ask the upstream.
        """
        self.upstream = upstream
        self.has_credentials = credentials is not None
        self.reachability = Reachability()
        self.pulled_bytes = {"blob": 0, "manifest": 0}
        self._memory = memory
        self._via = via
        self._is_offline = is_offline
        self._limited_until = 0.0
        self._breaker = CircuitBreaker(
            f"the upstream {upstream.name}",
            lambda: UpstreamUnavailable(upstream=upstream.name),
            max_failures=_MAX_FAILURES,
            probe_seconds=PROBE_SECONDS,
        )
        self._timeouts = min(10.0, upstream.timeout_seconds), upstream.timeout_seconds
        self._session = UpstreamSession(
            user_agent,
            verify=not upstream.is_insecure if upstream.ca is None else str(upstream.ca),
            client_cert=None if upstream.client_cert is None else str(upstream.client_cert),
            max_connections=upstream.max_connections,
        )
        self._credentials = credentials
        self._authenticator = Authenticator(upstream, credentials, self._ask_for_token)

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()

    def get_manifest(self, repository: str, reference: Reference) -> UpstreamManifest | None:
        """
        Return a manifest; None if the upstream does not have it.

        Raises:
            UpstreamError: the upstream cannot be asked, or its answer is not a manifest.
        """
        response = self._ask("GET", repository, f"manifests/{reference}", {"Accept": _ACCEPT})
        if response is None:
            return None
        payload = self.read(response, responses.MAX_MANIFEST_BYTES)
        self.pulled_bytes["manifest"] += len(payload)
        return UpstreamManifest(
            payload, responses.content_type(response), response.headers.get("Docker-Content-Digest", "")
        )

    def check_tag(self, repository: str, tag: Tag) -> TagState:
        """
        Return the target of a tag by a HEAD request, which no upstream counts as a pull.

        Raises:
            UpstreamError: the upstream cannot be asked.
        """
        response = self._ask("HEAD", repository, f"manifests/{tag}", {"Accept": _ACCEPT}, _OK | _UNSUPPORTED)
        if response is None:
            return TagState(exists=False)
        response.close()
        try:
            text = response.headers.get("Docker-Content-Digest", "") if response.status_code in _OK else ""
            return TagState(exists=True, digest=Digest.parse(text))
        except DigestInvalid:
            return TagState(exists=True)

    def check(self) -> None:
        """
        Check that the upstream answers, and accepts the credentials.

        Raises:
            UpstreamError: it does not, or does not speak API V2.
        """
        accepted = {200, _UNAUTHORIZED}
        response = self._watched(
            "GET", "v2/", lambda: self._authenticated("GET", "", f"{self.upstream.url}/v2/", {}), accepted
        )
        if response is None:
            raise UpstreamError("The upstream registry does not speak API V2.", upstream=self.upstream.name)
        response.close()
        if response.status_code == _UNAUTHORIZED and self.has_credentials:
            raise UpstreamDenied(status=_UNAUTHORIZED, upstream=self.upstream.name)

    @property
    def is_nearly_limited(self) -> bool:
        """Whether the upstream has recently announced that few pulls are left."""
        return time.monotonic() < self._limited_until

    def get_blob(
        self, repository: str, digest: Digest, start: int = 0, end: int | None = None, validator: str = ""
    ) -> UpstreamBlob | None:
        """
        Start to receive a blob, or a part of it; None if the upstream does not have it.

        Args:
            start: offset of the first byte.
            end: offset after the last byte; None for the end of the blob.
            validator: of the response that brought the bytes before *start*; empty if there is none.

        Raises:
            UpstreamError: the upstream cannot be asked, or sends another part.
        """
        headers = responses.range_headers(start, end, validator)
        accepted = _OK | {responses.PARTIAL} if headers else _OK
        response = self._ask("GET", repository, f"blobs/{digest}", headers, accepted)
        return None if response is None else self.blob(response, start)

    def get_page(self, repository: str, path: str, accept: str) -> UpstreamPage | None:
        """
        Return a page of tags or referrers; None if the upstream does not have the list.

        Args:
            path: path and query of the page, below the repository.

        Raises:
            UpstreamError: the upstream cannot be asked, or sends something else.
        """
        response = self._ask("GET", repository, path, {"Accept": accept})
        if response is None:
            return None
        with response:
            if responses.content_type(response) not in (accept, "application/json"):
                raise UpstreamError("The upstream registry sent no list.", upstream=self.upstream.name)
            payload = self.read(response, responses.MAX_MANIFEST_BYTES)
        return UpstreamPage(
            payload, responses.next_page(response, f"{self.upstream.url}/v2/{repository}/", path, self.upstream.name)
        )

    def find_blob_size(self, repository: str, digest: Digest) -> int | None:
        """
        Return the size of a blob in bytes; None if the upstream does not have it.

        Raises:
            UpstreamError: the upstream cannot be asked, or does not state the size.
        """
        response = self._ask("HEAD", repository, f"blobs/{digest}")
        if response is None:
            return None
        with response:
            size = responses.length_of(response)
        if size is None:
            raise UpstreamError(
                "The upstream registry does not state the size of the blob.", upstream=self.upstream.name
            )
        return size

    def send(
        self, method: str, path: str, headers: Mapping[str, str], accepted: Collection[int] = _OK
    ) -> requests.Response | None:
        """
        Send a request that is none of API V2; redirects are followed.

        Args:
            path: path and query below the URL of the upstream.
            headers: of these, Authorization is sent to the origin of the upstream only.
            accepted: status codes of responses to return.

        Returns:
            The response, which the caller closes; None for status 404.

        Raises:
            UpstreamError: the upstream cannot be asked, or answers with another status.
        """
        others = {name: value for name, value in headers.items() if name != "Authorization"}
        url, own = f"{self.upstream.url}/{path}", headers.get("Authorization")
        return self._watched(method, path, lambda: self._follow(method, url, others, own), accepted)

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

    def blob(self, response: requests.Response, start: int = 0) -> UpstreamBlob:
        """
        Return the blob in a response, whose bytes are counted.

        Args:
            start: offset of the first byte that was requested.
        """
        return UpstreamBlob(response, self.upstream.name, start, self._count_blob)

    def read(self, response: requests.Response, max_bytes: int) -> bytes:
        """
        Read a short body, and close the response.

        Raises:
            UpstreamError: the body is too long or compressed, or does not arrive in time.
        """
        with response:
            return responses.read_body(response, max_bytes, self.upstream.name, self._memory)

    # ------------------------------------------------------------------------------------------------- steps

    def _ask(
        self,
        method: str,
        repository: str,
        content: str,
        headers: Mapping[str, str] | None = None,
        accepted: Collection[int] = _OK,
    ) -> requests.Response | None:
        """
        Send a request of API V2.

        Args:
            content: path of the content below that of the repository.
            accepted: status codes of responses to return.

        Returns:
            The response; None for status 404.
        """
        path = f"{repository}/{content}"
        url = f"{self.upstream.url}/v2/{path}"
        return self._watched(
            method, path, lambda: self._authenticated(method, repository, url, headers or {}), accepted
        )

    def _watched(
        self, method: str, path: str, send: Callable[[], requests.Response], accepted: Collection[int]
    ) -> requests.Response | None:
        """Send a request unless the upstream is not asked now, log it, and watch the state of the upstream."""
        if self._is_offline:
            raise UpstreamUnavailable("The registry is offline: it serves what it has.", upstream=self.upstream.name)
        self._breaker.check()
        began, status = time.monotonic(), "failed"
        try:
            with responses.network_errors(self.upstream.name), deadline(2 * self.upstream.timeout_seconds):
                response = send()
            status = str(response.status_code)
        except (UpstreamUnavailable, UpstreamTimeout) as error:
            self._breaker.record_failure(error)
            self.reachability.record(error.sentence)
            raise
        finally:
            seconds = time.monotonic() - began
            logger.info("upstream %s: %s %s %s %.3f s", self.upstream.name, method, path, status, seconds)
        if response.status_code >= 500 and response.status_code not in accepted:
            self._breaker.record_failure(f"status {status}")
            self.reachability.record(f"It answers with status {status}.")
        else:
            self._breaker.record_success()
            self.reachability.record()
        self._watch_limit(response)
        if response.status_code in accepted:
            return response
        response.close()
        if response.status_code in _MISSING:
            return None
        raise responses.error_of(response, self.upstream.name)

    def _count_blob(self, size: int) -> None:
        self.pulled_bytes["blob"] += size

    def _watch_limit(self, response: requests.Response) -> None:
        """Remember whether few pulls are left (Docker Hub: ``ratelimit-limit: 100;w=21600``)."""
        limit, remaining = (
            responses.number(response.headers.get(f"ratelimit-{each}", "")) for each in ("limit", "remaining")
        )
        if limit is None or remaining is None:
            return
        self.reachability.limit, self.reachability.remaining = limit, remaining
        self._limited_until = time.monotonic() + _LIMIT_SECONDS if remaining < _LOW_SHARE * limit else 0.0

    def _authenticated(self, method: str, repository: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Send a request; if the upstream wants other credentials, once more with these."""
        sent = self._authenticator.header(repository)
        response = self._follow(method, url, headers, sent)
        if response.status_code != _UNAUTHORIZED:
            return response
        response.close()
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
            response = self._request(method, url, {**headers, **own})
            if response.status_code not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            target = hosts.redirect_target(url, location, self.upstream.url)
            if target is None:
                raise UpstreamError(
                    "The upstream registry redirects to an address that is not safe.", upstream=self.upstream.name
                )
            url = target
        raise UpstreamError("The upstream registry redirects too often.", upstream=self.upstream.name)

    def _request(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Send a request; once more if its connection was closed, as servers close idle ones at any time."""
        for is_last in (False, True):
            try:
                return self._session.request(
                    method,
                    url,
                    headers={"Via": f"1.1 {self._via()}", **headers},
                    stream=True,
                    allow_redirects=False,
                    timeout=self._timeouts,
                    verify=self._session.verify,  # else REQUESTS_CA_BUNDLE of the environment has precedence
                )
            except requests.ConnectionError as error:
                if is_last or not (error.args and isinstance(error.args[0], ProtocolError)):
                    raise
        raise AssertionError

    def _ask_for_token(self, url: str, headers: Mapping[str, str], max_bytes: int) -> bytes:
        """Ask a token server; see :class:`~docker_registry.registry.mirror.authenticator.TokenRequest`."""
        with self._request("GET", url, headers) as response:
            status = response.status_code
            if status == responses.LIMITED:
                raise UpstreamLimited(retry_after_seconds=responses.retry_after(response), upstream=self.upstream.name)
            if status != 200:
                raise UpstreamError(
                    "The token server of the upstream registry sent no token.",
                    status=status, upstream=self.upstream.name,
                )  # fmt: skip
            return self.read(response, max_bytes)
