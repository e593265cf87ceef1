"""The metrics beside those of requests: names, help and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Family(NamedTuple):
    """A metric; a name without ``_total``, as the libraries of Prometheus use it."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


_BUDGET: Final = ("budget",)
_MIRRORED: Final = ("type", "upstream")

COUNTERS: Final = (
    Family("registry_storage_cache_requests", "Look-ups in the Redis cache of the store."),
    Family("registry_storage_cache_hits", "Look-ups in the Redis cache of the store that found a value."),
    Family("registry_storage_cache_errors", "Calls of Redis that failed or were not tried because it is unavailable."),
    Family("registry_budget_waits", "Requests that waited for memory of a limit.", _BUDGET),
    Family("registry_budget_refusals", "Requests that were refused because a limit of memory was reached.", _BUDGET),
    Family("registry_uploads_started", "Uploads that were started."),
    Family("registry_uploads_ended", "Uploads that were committed, cancelled or refused."),
    Family("registry_uploads_purged", "Abandoned uploads that were deleted."),
    Family("registry_search_updates", "Updates of the search index."),
    Family("registry_search_failures", "Updates of the search index that failed."),
    Family("registry_proxy_requests", "Requests for content of mirrored registries.", _MIRRORED),
    Family("registry_proxy_hits", "Requests for content of mirrored registries that was in the store.", _MIRRORED),
    Family(
        "registry_proxy_misses",
        "Requests for content of mirrored registries for which something was fetched.",
        _MIRRORED,
    ),
    Family("registry_proxy_pulled_bytes", "Bytes that mirrored registries have sent.", _MIRRORED),
    Family("registry_proxy_pushed_bytes", "Bytes of mirrored content that were sent to clients.", _MIRRORED),
    Family("registry_leases", "Attempts to take a lease; the result is taken or busy.", ("work", "result")),
)

GAUGES: Final = (
    Family("registry_http_in_flight_requests", "Requests that are being answered."),
    Family("registry_budget_used_bytes", "Memory in use of a limit.", _BUDGET),
    Family("registry_budget_limit_bytes", "The limit, of all workers.", _BUDGET),
    Family("registry_connections", "Connections of clients."),
    Family("registry_connections_limit", "The limit of connections, of all workers."),
    Family("registry_search_pending_updates", "Updates of the search index that wait."),
)

#: Uploads in the store: those that the latest purge left, and those that this server has started and ended since.
OPEN_UPLOADS: Final = Family("registry_open_uploads", "Uploads that have begun and not ended.")

#: By name; used to check that no other name is published.
NAMES: Final[Mapping[str, Family]] = {family.name: family for family in (*COUNTERS, *GAUGES)}


def unfinished(counters: Mapping[tuple[str, ...], float]) -> float:
    """Return the number of uploads that were started and not ended, according to counters; may be negative."""
    started, ended, purged = (counters.get((f"registry_uploads_{what}",), 0) for what in ("started", "ended", "purged"))
    return started - ended - purged
