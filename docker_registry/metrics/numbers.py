"""The numbers of a worker, and how those of several are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from docker_registry.metrics import busiest
from docker_registry.metrics.busiest import Busiest
from docker_registry.metrics.recorder import Labels, Series

#: Name of a metric and the values of its labels.
Key = tuple[str, ...]


@dataclass(slots=True)
class Numbers:
    """
    What a worker publishes.

    Attributes:
        series: exchanges by handler, method and code.
        actions: durations of calls of the store by driver and action: sum in seconds, and counts by bucket.
        counters: values that only grow; they are kept when the worker has ended.
        gauges: values of a live worker.
        repositories: pulls and pushes by repository.
        latest: values that concern the whole store, with the time of their observation; the latest counts.
    """

    series: dict[Labels, Series] = field(default_factory=dict)
    actions: dict[Key, tuple[float, Sequence[int]]] = field(default_factory=dict)
    counters: dict[Key, float] = field(default_factory=dict)
    gauges: dict[Key, float] = field(default_factory=dict)
    latest: dict[str, tuple[float, float]] = field(default_factory=dict)
    repositories: Busiest = field(default_factory=dict)

    def add(self, other: Numbers) -> None:
        """Add the numbers of another worker."""
        for labels, row in other.series.items():
            self.series.setdefault(labels, Series()).add(row)
        for key, (seconds, buckets) in other.actions.items():
            old_seconds, old_buckets = self.actions.get(key, (0.0, (0,) * len(buckets)))
            self.actions[key] = (old_seconds + seconds, [*map(sum, zip(old_buckets, buckets, strict=True))])
        _add(self.counters, other.counters)
        _add(self.gauges, other.gauges)
        busiest.add(self.repositories, other.repositories)
        for name, observed in other.latest.items():
            self.latest[name] = max(self.latest.get(name, observed), observed)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return {
            "series": [[*labels, *row.to_list()] for labels, row in self.series.items()],
            "actions": [[*key, seconds, [*buckets]] for key, (seconds, buckets) in self.actions.items()],
            "counters": [[*key, value] for key, value in self.counters.items()],
            "gauges": [[*key, value] for key, value in self.gauges.items()],
            "latest": self.latest,
            "repositories": self.repositories,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Numbers:
        """Return what :meth:`to_json` was made from."""
        return cls(
            {(handler, method, code): Series(*row) for handler, method, code, *row in content["series"]},
            {tuple(key): (seconds, buckets) for *key, seconds, buckets in content["actions"]},
            {tuple(key): value for *key, value in content["counters"]},
            {tuple(key): value for *key, value in content["gauges"]},
            {name: (time, value) for name, (time, value) in content["latest"].items()},
            {name: (pulls, pushes) for name, (pulls, pushes) in content["repositories"].items()},
        )


def _add(total: dict[Key, float], more: Mapping[Key, float]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0) + value
