"""Counts the requests of clients for content of mirrored registries, as the CNCF distribution registry does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from docker_registry.http.exchange import Exchange

#: Routes and the label ``type``.
_TYPES: Final = {"v2_blobs.get_blob": "blob", "v2_manifests.get_manifest": "manifest"}

#: What is counted for each type and upstream; the names of the metrics follow ``registry_proxy_``.
COUNTED: Final = ("requests", "hits", "misses", "pushed_bytes")


class MirrorRecorder:
    """
    The counters of a worker; an observer of exchanges.

    Attributes:
        counts: by what is counted, type, and name of the upstream. A request is a miss if something was fetched for it.
    """

    def __init__(self, upstreams: Iterable[str]) -> None:
        """
        Args:
            upstreams: their names, with which the names of repositories begin.
        """
        self._upstreams = frozenset(upstreams)
        self.counts = Counter(
            {(what, each, upstream): 0 for what in COUNTED for each in _TYPES.values() for upstream in self._upstreams}
        )

    def __call__(self, exchange: Exchange) -> None:
        """Count an exchange if content of a mirrored registry was sent."""
        kind = _TYPES.get(exchange.route)
        if kind is None or exchange.method != "GET" or exchange.status not in (200, 206):
            return
        upstream = exchange.repository.partition("/")[0]
        if upstream in self._upstreams:
            is_miss = bool(exchange.upstream) and not exchange.is_cached
            self.counts["requests", kind, upstream] += 1
            self.counts["misses" if is_miss else "hits", kind, upstream] += 1
            self.counts["pushed_bytes", kind, upstream] += exchange.bytes_out
