"""Metrics in the formats of Prometheus and OpenMetrics, under the names that the CNCF distribution registry uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from docker_registry import __version__
from docker_registry.drivers.measured import ACTION_BOUNDS
from docker_registry.metrics import families
from docker_registry.metrics.busiest import MAX_EXPOSED, busiest
from docker_registry.metrics.numbers import Key, Numbers
from docker_registry.metrics.recorder import BYTES_BOUNDS, SECONDS_BOUNDS, Series

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


def expose(numbers: Numbers, workers: int, accept: str) -> tuple[bytes, str]:
    """
    Return the metrics of a server and their content type.

    Args:
        numbers: sums over all workers.
        workers: number of live workers.
        accept: the header; selects the format.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(numbers, workers))
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:  # raised by the library for a version that is not a number
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


class _Collector:
    def __init__(self, numbers: Numbers, workers: int) -> None:
        self._numbers = numbers
        self._series = numbers.series
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; called by prometheus_client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield from self._requests()
        yield from self._histograms()
        yield self._actions()
        yield from self._repositories()
        for family in families.COUNTERS:
            metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
            yield _samples(metric, family, self._numbers.counters)
        for family in families.GAUGES:
            gauge = GaugeMetricFamily(family.name, family.help, labels=family.labels)
            yield _samples(gauge, family, self._numbers.gauges)
        _, left = self._numbers.latest.get(families.OPEN_UPLOADS.name, (0, 0))
        uploads = max(0.0, left + families.unfinished(self._numbers.counters))
        yield GaugeMetricFamily(families.OPEN_UPLOADS.name, families.OPEN_UPLOADS.help, value=uploads)
        yield GaugeMetricFamily("registry_workers", "Worker processes.", value=self._workers)
        info = GaugeMetricFamily("registry_build_info", "1, with the version of the registry.", labels=("version",))
        info.add_metric((__version__,), 1)
        yield info

    def _requests(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        requests = CounterMetricFamily(
            "registry_http_requests", "Requests that were answered.", labels=("handler", "method", "code")
        )
        hits = CounterMetricFamily(
            "registry_response_cache_hits", "Requests that were answered from the response cache.", labels=("handler",)
        )
        for labels, row in self._series.items():
            requests.add_metric(labels, row.requests)
        for handler, row in self._by_handler().items():
            hits.add_metric((handler,), row.cached)
        yield requests
        yield hits
        total = self._sum()
        yield CounterMetricFamily("registry_received_bytes", "Bytes of request bodies.", value=total.bytes_in)
        yield CounterMetricFamily("registry_sent_bytes", "Bytes of response bodies.", value=total.bytes_out)

    def _histograms(self) -> Iterator[Metric]:
        from prometheus_client.core import HistogramMetricFamily

        duration = HistogramMetricFamily(
            "registry_http_request_duration_seconds", "Time to answer a request.", labels=("handler", "method")
        )
        by_method: dict[tuple[str, str], Series] = {}
        for (handler, method, _), row in self._series.items():
            by_method.setdefault((handler, method), Series()).add(row)
        for labels, row in by_method.items():
            _add(duration, labels, SECONDS_BOUNDS, row.seconds_buckets, row.seconds)
        received = HistogramMetricFamily(
            "registry_http_request_size_bytes", "Size of request bodies.", labels=("handler",)
        )
        sent = HistogramMetricFamily(
            "registry_http_response_size_bytes", "Size of response bodies.", labels=("handler",)
        )
        for handler, row in self._by_handler().items():
            _add(received, (handler,), BYTES_BOUNDS, row.bytes_in_buckets, row.bytes_in)
            _add(sent, (handler,), BYTES_BOUNDS, row.bytes_out_buckets, row.bytes_out)
        yield duration
        yield received
        yield sent

    def _actions(self) -> Metric:
        from prometheus_client.core import HistogramMetricFamily

        actions = HistogramMetricFamily(
            "registry_storage_action_seconds", "Time of the calls of the storage driver.", labels=("driver", "action")
        )
        for labels, (seconds, buckets) in sorted(self._numbers.actions.items()):
            _add(actions, labels, ACTION_BOUNDS, buckets, seconds)
        return actions

    def _repositories(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        pulls = CounterMetricFamily("registry_repository_pulls", "Pulls by repository.", labels=("repository",))
        pushes = CounterMetricFamily("registry_repository_pushes", "Pushes by repository.", labels=("repository",))
        for name, (pulled, pushed) in busiest(self._numbers.repositories, MAX_EXPOSED).items():
            pulls.add_metric((name,), pulled)
            pushes.add_metric((name,), pushed)
        yield pulls
        yield pushes

    def _by_handler(self) -> dict[str, Series]:
        found: dict[str, Series] = {}
        for (handler, _, _), row in self._series.items():
            found.setdefault(handler, Series()).add(row)
        return found

    def _sum(self) -> Series:
        total = Series()
        for row in self._series.values():
            total.add(row)
        return total


def _samples(
    metric: CounterMetricFamily | GaugeMetricFamily, family: families.Family, values: Mapping[Key, float]
) -> Metric:
    """Add the values of a metric; 0 if it has no labels and nothing was counted."""
    found = {key[1:]: value for key, value in values.items() if key[0] == family.name}
    if not family.labels:
        found.setdefault((), 0.0)
    for labels, value in sorted(found.items()):
        metric.add_metric(labels, value)
    return metric


def _add(
    family: HistogramMetricFamily, labels: Sequence[str], bounds: Sequence[float], counts: Sequence[int], total: float
) -> None:
    names = [*map(str, bounds), "+Inf"]
    family.add_metric(labels, list(zip(names, accumulate(counts), strict=True)), total)
