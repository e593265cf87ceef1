"""Pulls and pushes of the busiest repositories, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from docker_registry.http.exchange import Exchange

#: Repositories that are exposed as metrics.
MAX_EXPOSED: Final = 1000

#: Repositories that a worker counts; beyond, it forgets all but the busiest half.
MAX_COUNTED: Final = 4 * MAX_EXPOSED

#: Exchanges that are a pull (0) or a push (1). A client of API V1 sends each of these once for a pull or a push.
_COUNTED: Final = {
    ("v2_manifests.get_manifest", "GET", 200): 0,
    ("v1_repositories.list_images", "GET", 200): 0,
    ("v2_manifests.put_manifest", "PUT", 201): 1,
    ("v1_repositories.put_images", "PUT", 204): 1,
}

#: Numbers of pulls and pushes by the name of the repository in API V2.
Busiest = dict[str, tuple[int, int]]


class RepositoryCounts:
    """The pulls and pushes of a worker by repository."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}

    def __call__(self, exchange: Exchange) -> None:
        """Count an exchange if it is a pull or a push."""
        index = _COUNTED.get((exchange.route, exchange.method, exchange.status))
        if index is None:
            return
        name = exchange.repository
        if exchange.route.startswith("v1_") and "/" not in name:
            name = f"library/{name}"
        row = self._counts.get(name)
        if row is None:
            row = self._add(name)
        row[index] += 1

    def snapshot(self) -> Busiest:
        """Return a copy of the counts."""
        return {name: (pulls, pushes) for name, (pulls, pushes) in self._counts.items()}

    def _add(self, name: str) -> list[int]:
        if len(self._counts) >= MAX_COUNTED:
            self._counts = {name: [*row] for name, row in busiest(self.snapshot(), MAX_COUNTED // 2).items()}
        row = self._counts[name] = [0, 0]
        return row


def busiest(counts: Mapping[str, tuple[int, int]], limit: int) -> Busiest:
    """Return the repositories with the most pulls and pushes."""
    if len(counts) <= limit:
        return dict(counts)
    return dict(sorted(counts.items(), key=lambda item: sum(item[1]), reverse=True)[:limit])


def add(total: Busiest, more: Mapping[str, tuple[int, int]]) -> None:
    """Add the counts of another worker."""
    for name, (pulls, pushes) in more.items():
        old_pulls, old_pushes = total.get(name, (0, 0))
        total[name] = (old_pulls + pulls, old_pushes + pushes)
