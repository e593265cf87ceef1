"""The responses of an upstream registry, bounded and checked."""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError, ProtocolError

from docker_registry.concurrency import deadline
from docker_registry.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from docker_registry.registry.names import Digest
from docker_registry.resources.memory_budget import MemoryBudget

#: Largest manifest that is accepted from an upstream; clients reject larger ones.
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024

#: Longest time in which a manifest, or another small body, must arrive.
MAX_MANIFEST_SECONDS: Final = 120.0

#: Largest block that is read of a body at once.
BLOCK_BYTES: Final = 256 * 1024

#: An upstream that sends less than this on average during this time counts as one that sends nothing.
MIN_BYTES_PER_SECOND: Final = 1024
PROGRESS_SECONDS: Final = 60.0

#: Longest unwanted body that is read, so that the connection can be reused.
_MAX_SKIPPED_BYTES: Final = 4096

#: Status of a response to a request with a Range.
PARTIAL: Final = 206

#: Status of a response to a client that has sent too many requests.
LIMITED: Final = 429

#: What the libraries raise when a connection fails, also in the middle of a body.
_NETWORK_ERRORS: Final = (requests.RequestException, HTTPError, OSError)

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
_DENIED: Final = frozenset({401, 403})

#: Causes of an error that are looked at.
_MAX_CAUSES: Final = 20

#: Retry-After of an upstream that names none, or names it as a date.
_RETRY_AFTER_SECONDS: Final = 60
_MAX_RETRY_AFTER_SECONDS: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class UpstreamManifest:
    """
    A manifest as an upstream sent it; only its size is checked.

    Attributes:
        content_type: its media type without parameters; empty when the upstream sent none.
        digest: the text of Docker-Content-Digest; empty when the upstream sent none.
    """

    payload: bytes
    content_type: str
    digest: str


@dataclass(frozen=True, slots=True)
class TagState:
    """
    The state of a tag at an upstream.

    Attributes:
        exists: whether the upstream has the tag, as far as it says.
        digest: its target; None if the upstream does not say.
    """

    exists: bool
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class UpstreamPage:
    """
    A page of a list, as an upstream sent it.

    Attributes:
        following: path and query of the next page, below the repository; empty on the last page.
    """

    payload: bytes
    following: str


class UpstreamBlob:
    """
    The body of a blob, which is being received.

    Attributes:
        size: bytes of the whole blob, as the upstream announces; None if it announces none.
        validator: ETag with which the rest of the same content can be requested; empty if there is none.
        is_part: whether the upstream sends a part, and not the whole blob of which the beginning is skipped.
    """

    def __init__(
        self,
        response: requests.Response,
        upstream: str,
        start: int = 0,
        count: Callable[[int], object] = lambda _: None,
    ) -> None:
        """
        Args:
            upstream: name of the upstream, for errors.
            start: offset of the first byte that was requested.
            count: is called with the size of each received block.

        Raises:
            UpstreamError: the response is another part than the requested one.
        """
        self._response = response
        self._upstream = upstream
        self._skipped = start
        self._count = count
        self.size = length_of(response)
        etag = response.headers.get("ETag", "")
        self.validator = "" if etag.startswith("W/") else etag
        self.is_part = response.status_code == PARTIAL
        if self.is_part:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start:
                response.close()
                raise UpstreamError("The upstream registry sent another part of the blob.", upstream=upstream)
            self._skipped, self.size = 0, int(match[2])

    def blocks(self) -> Iterator[bytes]:
        """
        Yield the bytes from the requested offset on, as they arrive.

        Raises:
            UpstreamTimeout: the upstream sends nothing, or too slowly.
            UpstreamUnavailable: the connection breaks before the end.
        """
        progress = Progress()
        with network_errors(self._upstream):
            while block := progress.watch(lambda: self._response.raw.read1(BLOCK_BYTES)):
                self._count(len(block))
                skipped = min(self._skipped, len(block))  # the upstream does not support ranges
                self._skipped -= skipped
                if skipped < len(block):
                    yield block[skipped:]

    def close(self) -> None:
        """Close the connection; may be called repeatedly."""
        self._response.close()


class Progress:
    """
    Checks that an upstream does not occupy a connection for ever by sending a few bytes now and then.

    Only the time spent waiting for the upstream counts, not that in which the client or the store is slow.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            now: the clock, seconds.
        """
        self._now = now
        self._waited = 0.0
        self._received = 0

    def watch(self, receive: Callable[[], bytes]) -> bytes:
        """
        Return what *receive* returns, and count its bytes and the time that it takes.

        Raises:
            UpstreamTimeout: there were too few in the last :data:`PROGRESS_SECONDS`.
        """
        began = self._now()
        block = receive()
        self._waited += self._now() - began
        self._received += len(block)
        if block and self._waited >= PROGRESS_SECONDS:
            if self._received < MIN_BYTES_PER_SECOND * self._waited:
                raise UpstreamTimeout("The upstream registry sends too slowly.")
            self._waited, self._received = 0.0, 0
        return block


@contextmanager
def network_errors(upstream: str) -> Iterator[None]:
    """
    Turn errors of the network into those of the registry.

    Raises:
        UpstreamTimeout: the upstream sends nothing for too long.
        UpstreamUnavailable: the connection cannot be made, or breaks.
    """
    try:
        yield
    except (requests.Timeout, TimeoutError) as error:
        raise UpstreamTimeout(upstream=upstream) from error
    except _NETWORK_ERRORS as error:
        # urllib3 reports a timeout in the middle of a body as another exception of its own.
        if "timed out" in str(error):
            raise UpstreamTimeout(upstream=upstream) from error
        raise UpstreamUnavailable(upstream=upstream) from error


def cause_of(error: BaseException) -> str:
    """Return in a few words why a request to an upstream failed, for operators; contains no URL and no secret."""
    causes = list(_causes(error))
    for each in causes:
        if isinstance(each, socket.gaierror):
            return "its name cannot be resolved"
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {each.verify_message}"
        if isinstance(each, ssl.SSLError):
            return f"TLS failed: {(each.reason or 'no reason').replace('_', ' ').lower()}"
        if isinstance(each, OSError) and each.errno is not None:
            return os.strerror(each.errno).lower()
    if any(isinstance(each, ProtocolError) for each in causes):
        return "the connection was closed too early"
    return error.sentence if isinstance(error, UpstreamError) else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that caused it, as urllib3 and requests nest them."""
    found, left = set[int](), [error]
    while left and len(found) < _MAX_CAUSES:
        each = left.pop(0)
        if id(each) in found:
            continue
        found.add(id(each))
        yield each
        nested = (each.__cause__, each.__context__, getattr(each, "reason", None), *each.args)
        left += [cause for cause in nested if isinstance(cause, BaseException)]


def read_body(response: requests.Response, max_bytes: int, upstream: str, memory: MemoryBudget) -> bytes:
    """
    Read a short body.

    Args:
        upstream: name of the upstream, for errors.
        memory: budget from which the body is taken while it is received.

    Raises:
        UpstreamError: the body is compressed or longer than *max_bytes*, or cannot be received.
    """
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UpstreamError("The upstream registry compresses its answer.", upstream=upstream)
    parts = []
    with memory.reserve(0) as reserved, network_errors(upstream), deadline(MAX_MANIFEST_SECONDS):
        while block := response.raw.read1(BLOCK_BYTES):
            if reserved.size_bytes + len(block) > max_bytes:
                raise UpstreamError("The answer of the upstream registry is too large.", max_bytes=max_bytes)
            reserved.grow(len(block))
            parts.append(block)
    return b"".join(parts)


def skip(response: requests.Response) -> None:
    """Close a response whose body is not wanted. If that is short, it is read, so that the connection can be reused."""
    length = length_of(response)
    if length is not None and length <= _MAX_SKIPPED_BYTES:
        response.raw.drain_conn()
    response.close()


def error_of(response: requests.Response, upstream: str) -> UpstreamError:
    """Return the error that the status of a response means."""
    status = response.status_code
    if status == LIMITED:
        return UpstreamLimited(retry_after_seconds=retry_after(response), upstream=upstream)
    if status in _DENIED:
        return UpstreamDenied(status=status, upstream=upstream)
    return UpstreamError(status=status, upstream=upstream)


def next_page(response: requests.Response, base: str, path: str, upstream: str) -> str:
    """
    Return path and query of the next page of a list, below the repository; empty on the last page.

    Args:
        base: URL of the repository, with a slash at its end.
        path: path and query of this page, below the repository.

    Raises:
        UpstreamError: the next page is not one of this list.
    """
    target = response.links.get("next", {}).get("url", "")
    if not target:
        return ""
    try:
        url = urljoin(f"{base}{path}", target)
    except ValueError:  # not a URL
        url = ""
    if not url.startswith(f"{base}{path.partition('?')[0]}?"):
        raise UpstreamError("The next page of the upstream registry is elsewhere.", upstream=upstream)
    return url.removeprefix(base)


def range_headers(start: int, end: int | None, validator: str) -> dict[str, str]:
    """
    Return the headers that request a part of some content; none for the whole.

    Args:
        start: offset of the first byte.
        end: offset after the last byte; None for the end of the content.
        validator: of the response that brought the bytes before *start*; empty if there is none.
    """
    if not start and end is None:
        return {}
    condition = {"If-Range": validator} if validator else {}
    return {"Range": f"bytes={start}-{'' if end is None else end - 1}", **condition}


def content_type(response: requests.Response) -> str:
    """Return the media type of a response without parameters; empty if it names none."""
    return response.headers.get("Content-Type", "").partition(";")[0].strip()


def number(text: str) -> int | None:
    """Return the number at the beginning of a header, before any parameters; None if there is none."""
    digits = text.partition(";")[0].strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None


def length_of(response: requests.Response) -> int | None:
    """Return the size of a body in bytes, as Content-Length announces it; None if it does not."""
    return number(response.headers.get("Content-Length", ""))


def retry_after(response: requests.Response) -> int:
    """Return after how many seconds the upstream may be asked again."""
    seconds = number(response.headers.get("Retry-After", ""))
    return min(max(_RETRY_AFTER_SECONDS if seconds is None else seconds, 1), _MAX_RETRY_AFTER_SECONDS)
