"""Collects metrics from the parts of a worker, which count in plain attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.drivers.measured import StorageTimes
from docker_registry.metrics.numbers import Numbers
from docker_registry.metrics.recorder import MirrorRecorder
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.search.updates import SearchUpdates
from docker_registry.resources.memory_budget import MemoryBudget

#: Drivers that the CNCF distribution registry has too, and their names there.
_DRIVERS: Final = {"azureblob": "azure", "file": "filesystem", "memory": "inmemory", "s3": "s3aws"}


class MetricsCollector:
    """
    Collects the metrics of a worker.

    The attributes of its parts are read once a second.
    """

    def __init__(
        self,
        registry: OciRegistry,
        search_updates: SearchUpdates,
        times: StorageTimes,
        storage: str,
    ) -> None:
        """
        Args:
            times: durations of the calls of the store.
            storage: name of its driver.
        """
        self._registry = registry
        self._search_updates = search_updates
        self._times = times
        self._driver = _DRIVERS.get(storage, storage)
        self._budgets = {"json": registry.json_budget.memory}
        self._mirrors: list[tuple[MirrorRecorder, Callable[[], Mapping[tuple[str, str], int]]]] = []
        self._connections: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._requests: Callable[[], int] = lambda: 0
        self._deliver: Callable[[], object] = lambda: None

    def add_budget(self, name: str, budget: MemoryBudget) -> None:
        """Add a memory budget to the metrics."""
        self._budgets[name] = budget

    def watch_mirror(self, recorder: MirrorRecorder, pulled_bytes: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """
        Add the content of mirrored registries to the metrics.

        Args:
            recorder: counts the requests for it.
            pulled_bytes: returns the bytes received by type and upstream.
        """
        self._mirrors.append((recorder, pulled_bytes))

    def watch_connections(self, connections: Callable[[], tuple[int, int]]) -> None:
        """
        Add the connections of the worker to the metrics.

        Args:
            connections: returns their number and its limit.
        """
        self._connections = connections

    def watch_requests(self, requests: Callable[[], int]) -> None:
        """
        Add the requests in progress to the metrics.

        Args:
            requests: returns their number.
        """
        self._requests = requests

    def watch_exchanges(self, deliver: Callable[[], object]) -> None:
        """
        Count all exchanges that have ended.

        Args:
            deliver: delivers those that are waiting to the observers of the worker.
        """
        self._deliver = deliver

    def collect(self, numbers: Numbers) -> None:
        """Deliver waiting exchanges to the observers, and add the current numbers to those of the worker."""
        self._deliver()
        self._collect_storage(numbers)
        self._collect_registry(numbers)
        counters, gauges = numbers.counters, numbers.gauges
        for name, budget in self._budgets.items():
            counters["registry_budget_waits", name] = budget.waits
            counters["registry_budget_refusals", name] = budget.refusals
            gauges["registry_budget_used_bytes", name] = budget.used_bytes
            gauges["registry_budget_limit_bytes", name] = budget.limit_bytes
        for recorder, pulled_bytes in self._mirrors:
            for (what, kind, upstream), count in recorder.counts.items():
                counters[f"registry_proxy_{what}", kind, upstream] = count
            for (kind, upstream), size in pulled_bytes().items():
                counters["registry_proxy_pulled_bytes", kind, upstream] = size
        connections, limit = self._connections()
        gauges["registry_connections",] = connections
        gauges["registry_connections_limit",] = limit
        gauges["registry_http_in_flight_requests",] = self._requests()

    def _collect_storage(self, numbers: Numbers) -> None:
        for action, times in self._times.actions.items():
            numbers.actions[self._driver, action] = (times.seconds, [*times.buckets])
        if isinstance(driver := self._registry.driver, CachedDriver):
            numbers.counters["registry_storage_cache_requests",] = driver.cache.requests
            numbers.counters["registry_storage_cache_hits",] = driver.cache.hits
            numbers.counters["registry_storage_cache_errors",] = driver.cache.errors

    def _collect_registry(self, numbers: Numbers) -> None:
        counters, uploads, search = numbers.counters, self._registry.uploads.counts, self._search_updates
        counters["registry_uploads_started",] = uploads.started
        counters["registry_uploads_ended",] = uploads.ended
        counters["registry_uploads_purged",] = uploads.purged
        counters["registry_search_updates",] = search.updates
        counters["registry_search_failures",] = search.failures
        numbers.gauges["registry_search_pending_updates",] = search.pending
        for (work, result), count in self._registry.leases.counts.items():
            counters["registry_leases", work, result] = count
