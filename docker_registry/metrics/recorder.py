"""
Counts exchanges in plain numbers.

A counter of prometheus_client in its multiprocess mode takes as long as a fifth of a cached response; adding to a few
attributes takes a fortieth.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from operator import attrgetter
from typing import Any, Final

from docker_registry.http.exchange import Exchange, Repetitions

#: Upper bounds of histogram buckets. A layer takes minutes.
SECONDS_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
BYTES_BOUNDS: Final = (1024.0, 16384.0, 262144.0, 1048576.0, 16777216.0, 268435456.0, 4294967296.0)

#: Routes and the label ``handler``, whose values are those of the CNCF distribution registry where it has the route.
_HANDLERS: Final = {
    "v2_base.check_version": "base",
    "v2_base.list_repositories": "catalog",
    "v2_base.list_tags": "tags",
    "v2_blobs.delete_blob": "blob",
    "v2_blobs.get_blob": "blob",
    "v2_manifests.delete_manifest": "manifest",
    "v2_manifests.get_manifest": "manifest",
    "v2_manifests.put_manifest": "manifest",
    "v2_uploads.start_upload": "blob_upload",
}

#: Values for other routes, by the beginning of their names.
_OTHER_HANDLERS: Final = {"v2_uploads.": "blob_upload_chunk", "v2_referrers.": "referrers", "v1_": "v1"}

#: Methods with a label of their own; clients may send any word.
_METHODS: Final = frozenset({"delete", "get", "head", "options", "patch", "post", "put"})

OTHER: Final = "other"

#: Routes that pull, and the label ``type`` of the metrics of mirrors.
_PULLED_TYPES: Final = {"v2_blobs.get_blob": "blob", "v2_manifests.get_manifest": "manifest"}

#: What is counted for each type and upstream; the names of the metrics follow ``registry_proxy_``.
MIRROR_COUNTS: Final = ("requests", "hits", "misses", "pushed_bytes")


@dataclass(slots=True)
class Series:
    """The numbers of all exchanges with the same labels; bucket counts are not cumulative."""

    requests: int = 0
    cached: int = 0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds_buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS_BOUNDS) + 1))
    bytes_in_buckets: list[int] = field(default_factory=lambda: [0] * (len(BYTES_BOUNDS) + 1))
    bytes_out_buckets: list[int] = field(default_factory=lambda: [0] * (len(BYTES_BOUNDS) + 1))

    def add(self, other: Series) -> None:
        """Add the numbers of another worker."""
        self.requests += other.requests
        self.cached += other.cached
        self.seconds += other.seconds
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        for mine, theirs in (
            (self.seconds_buckets, other.seconds_buckets),
            (self.bytes_in_buckets, other.bytes_in_buckets),
            (self.bytes_out_buckets, other.bytes_out_buckets),
        ):
            mine[:] = map(sum, zip(mine, theirs, strict=True))

    def copy(self) -> Series:
        """Return a copy, for another thread."""
        copied = Series()
        copied.add(self)
        return copied

    def to_list(self) -> list[Any]:
        """Return the numbers for JSON."""
        return [
            self.requests, self.cached, self.seconds, self.bytes_in, self.bytes_out,
            self.seconds_buckets, self.bytes_in_buckets, self.bytes_out_buckets,
        ]  # fmt: skip


#: Fields of an exchange; one call instead of one for each.
_KEY_OF: Final = attrgetter("route", "method", "status")
_NUMBERS_OF: Final = attrgetter("is_cached", "seconds", "bytes_in", "bytes_out")

#: Labels: handler, method, code.
Labels = tuple[str, str, str]


@dataclass(slots=True, eq=False)
class CachedSeries:
    """
    Counts exchanges that were answered from the response cache, of one series and with responses of about one size.

    Attributes:
        bucket: of the response in the histogram of sizes.
    """

    series: Series
    bucket: int

    def add(self, sizes: Sequence[int], seconds: Sequence[float]) -> None:
        """
        Count exchanges.

        Args:
            sizes: of the responses, in bytes.
            seconds: durations.
        """
        count, series = len(sizes), self.series
        series.requests += count
        series.cached += count
        series.seconds += sum(seconds)
        series.bytes_out += sum(sizes)
        series.bytes_out_buckets[self.bucket] += count
        series.bytes_in_buckets[0] += count
        if max(seconds) <= SECONDS_BOUNDS[0]:
            series.seconds_buckets[0] += count
            return
        for each in seconds:
            series.seconds_buckets[bisect_left(SECONDS_BOUNDS, each)] += 1


def count_repeated(rows: Sequence[CachedSeries], sizes: Sequence[int], seconds: Sequence[float]) -> None:
    """
    Count exchanges that were answered from the response cache.

    Args:
        rows: the series of each.
        sizes, seconds: see :meth:`CachedSeries.add`.
    """
    if rows.count(rows[0]) == len(rows):  # the usual case
        rows[0].add(sizes, seconds)
        return
    for row in set(rows):  # a few
        is_its = [each is row for each in rows]
        row.add([*compress(sizes, is_its)], [*compress(seconds, is_its)])


class Recorder:
    """The counters of a worker; an observer of exchanges."""

    def __init__(self) -> None:
        self.series: dict[Labels, Series] = {}
        self._by_exchange: dict[tuple[str, str, int], Series] = {}
        self._cached: dict[tuple[int, int], CachedSeries] = {}  # a series lives as long as the recorder

    def __call__(self, exchange: Exchange) -> None:
        """Count an exchange."""
        series = self._by_exchange.get(_KEY_OF(exchange)) or self._find(exchange)
        is_cached, seconds, bytes_in, bytes_out = _NUMBERS_OF(exchange)
        series.requests += 1
        series.cached += is_cached
        series.seconds += seconds
        series.bytes_out += bytes_out
        series.seconds_buckets[bisect_left(SECONDS_BOUNDS, seconds)] += 1
        series.bytes_out_buckets[bisect_left(BYTES_BOUNDS, bytes_out)] += 1
        if bytes_in:
            series.bytes_in += bytes_in
            series.bytes_in_buckets[bisect_left(BYTES_BOUNDS, bytes_in)] += 1
        else:
            series.bytes_in_buckets[0] += 1

    def cached_series(self, exchange: Exchange) -> CachedSeries:
        """Return the series that counts the repetitions of an exchange from the response cache."""
        series, bucket = self._find(exchange), bisect_left(BYTES_BOUNDS, exchange.bytes_out)
        return self._cached.setdefault((id(series), bucket), CachedSeries(series, bucket))

    def _find(self, exchange: Exchange) -> Series:
        method = exchange.method.lower()
        labels = (handler_of(exchange.route), method if method in _METHODS else OTHER, str(exchange.status))
        series = self.series.setdefault(labels, Series())
        if method in _METHODS:  # the keys stay few: routes, methods and status codes are the registry's
            self._by_exchange[_KEY_OF(exchange)] = series
        return series


def handler_of(route: str) -> str:
    """Return the label ``handler`` of a route."""
    known = _HANDLERS.get(route)
    if known is not None:
        return known
    return next((name for prefix, name in _OTHER_HANDLERS.items() if route.startswith(prefix)), OTHER)


class MirrorRecorder:
    """
    Counts the requests for content of mirrored registries, as the CNCF distribution registry does; an observer.

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
            {
                (what, each, upstream): 0
                for what in MIRROR_COUNTS
                for each in _PULLED_TYPES.values()
                for upstream in self._upstreams
            }
        )

    def __call__(self, exchange: Exchange) -> None:
        """Count an exchange if content of a mirrored registry was sent."""
        kind = _PULLED_TYPES.get(exchange.route)
        if kind is None or exchange.method != "GET" or exchange.status not in (200, 206):
            return
        upstream = exchange.repository.partition("/")[0]
        if upstream in self._upstreams:
            is_miss = bool(exchange.upstream) and not exchange.is_cached
            self.counts["requests", kind, upstream] += 1
            self.counts["misses" if is_miss else "hits", kind, upstream] += 1
            self.counts["pushed_bytes", kind, upstream] += exchange.bytes_out

    def prepare(self, exchange: Exchange) -> Exchange:
        """See :class:`~docker_registry.http.exchange.BatchObserver`."""
        return exchange

    def observe_repeated(self, prepared: Sequence[Exchange], repeated: Repetitions) -> None:  # noqa: ARG002
        """Count exchanges that were answered from the response cache."""
        for exchange in prepared:
            self(exchange)
