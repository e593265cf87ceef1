"""
The state of upstreams, as the workers of all hosts have last published it.

Each worker adds what it has counted since it last did, by compare-and-swap::

    docker/registry/v2/_mirror/_status/docker.io
    {"is_reachable": true, "since": 1767225600.0, "reason": "", "limit": 100, "remaining": 87, "asked": 1767229200.0,
     "requests": 130, "hits": 120, "misses": 10, "pulled_bytes": 1000, "pushed_bytes": 9000}
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final

from docker_registry.drivers.base import StorageDriver, Versioned
from docker_registry.registry import layout, stored_document

#: Status of a response to a client that has sent too many requests.
_LIMITED: Final = 429

#: What is counted; sums over all workers.
COUNTED: Final = ("requests", "hits", "misses", "pulled_bytes", "pushed_bytes")


@dataclass(slots=True)
class Reachability:
    """
    Whether an upstream answers, as far as a worker knows.

    Attributes:
        is_reachable: None before it was first asked.
        since: for how long that has been so, seconds since the Unix epoch.
        reason: why it is not reachable.
        asked: when it was last asked.
        limit, remaining: pulls that it allows, and those that are left, if it announces them.
        refused: when it last refused a request, because it limits pulls or denies access; 0.0 if it never did.
        refusal: why it refused that request.
    """

    is_reachable: bool | None = None
    since: float = 0.0
    reason: str = ""
    asked: float = 0.0
    limit: int | None = None
    remaining: int | None = None
    refused: float = 0.0
    refusal: str = ""

    def record(self, reason: str = "") -> None:
        """Record that the upstream was asked; *reason* says why it did not answer, and is empty if it did."""
        self.asked = time.time()
        if self.is_reachable is not (not reason):
            self.is_reachable, self.since = not reason, self.asked
        self.reason = reason

    def record_refusal(self, status: int) -> None:
        """Record that the upstream denied access or limits pulls; *status* is that of its response."""
        self.refused = time.time()
        self.refusal = (
            f"it limits pulls (status {status})" if status == _LIMITED else f"it denies access (status {status})"
        )


@dataclass(slots=True)
class UpstreamStatus(Reachability):
    """
    The published state of an upstream: whether it answers, and what all workers have counted.

    Attributes:
        requests: requests of clients for its content.
        hits, misses: those for content that was in the store, and the others.
        pulled_bytes, pushed_bytes: bytes that it has sent, and bytes that were sent to clients.
    """

    requests: int = 0
    hits: int = 0
    misses: int = 0
    pulled_bytes: int = 0
    pushed_bytes: int = 0

    @property
    def saved_bytes(self) -> int:
        """Bytes that clients would have pulled from the upstream otherwise."""
        return max(self.pushed_bytes - self.pulled_bytes, 0)


class StatusRecords:
    """The published state of all upstreams."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def find(self, upstream: str) -> UpstreamStatus:
        """Return the state of an upstream; nothing is known of one that was never asked."""
        return _read(self._driver.find(_path(upstream)) or b"")

    def add(self, upstream: str, state: Reachability, counts: Mapping[str, int]) -> None:
        """
        Publish the state of an upstream.

        Args:
            state: what the worker knows; all but the refusal is ignored if another worker has asked later.
            counts: what the worker has counted since it last published, by the names in :data:`COUNTED`.
        """

        def merge(stored: Versioned | None) -> bytes:
            known = _read(b"" if stored is None else stored.content)
            document = asdict(known) | {what: getattr(known, what) + counts.get(what, 0) for what in COUNTED}
            if state.asked > known.asked:
                document |= asdict(state) | {"since": _since(state, known)}
            last = max(state, known, key=lambda each: each.refused)
            document |= {"refused": last.refused, "refusal": last.refusal}
            return json.dumps(document).encode()

        stored_document.change(self._driver, _path(upstream), merge)


def _since(state: Reachability, known: Reachability) -> float:
    """Return since when a newer state has lasted; *known* is what all workers have published."""
    if state.is_reachable == known.is_reachable:
        return known.since
    return max(state.since, known.asked)  # the worker may not have seen the state before, which another one has


def _path(upstream: str) -> str:
    return f"{layout.MIRROR}/_status/{upstream}"


def _read(content: bytes) -> UpstreamStatus:
    try:
        document = stored_document.parse(content)
        known = {each.name for each in fields(UpstreamStatus)}
        return UpstreamStatus(**{name: value for name, value in document.items() if name in known})
    except (ValueError, TypeError, AttributeError):
        return UpstreamStatus()
