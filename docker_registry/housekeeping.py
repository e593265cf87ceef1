"""Background work of a worker: purging uploads, maintaining catalog and tokens, rebuilding the search index."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import gevent

from docker_registry.errors import RegistryError
from docker_registry.metrics import listener
from docker_registry.registry.read_only import REFRESH_SECONDS
from docker_registry.registry.reclamation import MOVE_SECONDS
from docker_registry.services import Services

logger = logging.getLogger(__name__)

#: Time between two publications of the state of the upstreams.
_STATUS_SECONDS: Final = 60.0

#: How long the lease for rebuilding a search index is held at most, and the time between two attempts to take it.
_REINDEX_SECONDS: Final = 3600
_REINDEX_RETRY_SECONDS: Final = 10.0


def start(services: Services) -> None:
    """
    Read the read-only switch once, then start the greenlets of the worker, which live as long as it does.

    They watch the read-only switch, the health of the worker, access control and mirrors, publish metrics, and run
    housekeeping every ``upload_purge_interval`` seconds.
    """
    services.read_only.refresh()
    gevent.spawn(services.read_only.watch, gevent.sleep)
    gevent.spawn(services.health.watch)
    if services.access_control is not None:
        gevent.spawn(services.access_control.watch, gevent.sleep)
        gevent.spawn(services.access_control.watch_rules, gevent.sleep)
        gevent.spawn(services.access_control.renew_keys, gevent.sleep)
    mirror = services.mirror
    if mirror is not None:
        gevent.spawn(_publish_mirror_status, services)
        if mirror.pulls is not None and mirror.eviction is not None:
            gevent.spawn(mirror.pulls.watch, gevent.sleep)
            gevent.spawn(mirror.eviction.watch, gevent.sleep)
        else:
            gevent.spawn(_watch_reclamation, services)
    if services.metrics is not None:
        services.metrics.start()
        if services.config.metrics_address:
            listener.serve(services.metrics, services.config.metrics_address)
    gevent.spawn(_run, services)


def _publish_mirror_status(services: Services) -> None:
    """Publish the state of the upstreams forever; runs in a greenlet."""
    mirror, recorder = services.mirror, services.mirror_recorder
    while mirror is not None and recorder is not None:
        gevent.sleep(_STATUS_SECONDS)
        with _failure_logged("the state of the upstreams was not published"):
            mirror.publish_status(recorder.counts)


def _watch_reclamation(services: Services) -> None:
    """Reclaim the bytes of purged content in a mirror without eviction; eviction reclaims them itself."""
    while True:
        gevent.sleep(MOVE_SECONDS)
        with _failure_logged("bytes without references could not be removed"):
            if not services.read_only.is_on and _take_lease(services, "reclamation", MOVE_SECONDS / 2):
                _reclaim(services)


def _run(services: Services) -> None:
    interval_seconds = services.config.upload_purge_interval
    while True:
        if services.read_only.is_on:  # poll, so that overdue work runs within seconds after writes are allowed again
            gevent.sleep(REFRESH_SECONDS)
            continue
        run_due_work(services)
        gevent.sleep(interval_seconds)


def run_due_work(services: Services) -> None:
    """Run the steps of housekeeping, unless another process does; log a step that fails, and run the others."""
    failed = "housekeeping failed and will be retried"
    steps = [_fill_search_index]
    with _failure_logged(failed):
        # Half of the interval: the lease has ended when the next run is due, and is still held during this one.
        if _take_lease(services, "housekeeping", services.config.upload_purge_interval / 2):
            steps = [_purge, _maintain_tokens, _purge_transfers, _reclaim, _remove_leftovers, *steps]
    for step in steps:
        with _failure_logged(failed):
            if not services.read_only.is_on:
                step(services)


def _take_lease(services: Services, work: str, seconds: float) -> bool:
    return services.registry.leases.take(work, seconds, frees_space=True)


@contextmanager
def _failure_logged(message: str) -> Iterator[None]:
    """Log an error of the block instead of raising it, so that it does not end the greenlet."""
    try:
        yield
    except RegistryError as error:
        logger.warning("%s: %s", message, error)
    except Exception:
        logger.exception("%s", message)


def _purge(services: Services) -> None:
    read_only, counts = services.read_only, services.registry.uploads.counts
    purged_before = counts.purged
    try:
        _, adopted = services.registry.run_housekeeping(services.config.upload_ttl, lambda: read_only.is_on)
    except RegistryError:  # some uploads or repositories could not be read or changed; the others were
        _report(services, counts.purged - purged_before)
        raise
    # Record immediately: an upload that starts between the purge and this call is missing from the gauge.
    if services.metrics is not None and not read_only.is_on:
        services.metrics.record_open_uploads(counts.remaining)
    _report(services, counts.purged - purged_before, adopted)


def _report(services: Services, purged: int, adopted: int | None = None) -> None:
    """Log and audit the numbers of deleted uploads and, if it is known, of added repositories."""
    message = f"deleted {purged} abandoned uploads"
    if adopted is not None:
        message += f", added {adopted} repositories written by other software to the catalog"
    logger.info(message)
    if services.audit is not None and (purged or adopted):
        services.audit.record_housekeeping(message)


def _maintain_tokens(services: Services) -> None:
    if services.access_control is None or services.access_control.tokens is None:
        return
    if (changed := services.access_control.tokens.maintain()) and services.audit is not None:
        services.audit.record_housekeeping(changed)


def _purge_transfers(services: Services) -> None:
    if services.mirror is not None:
        services.mirror.transfers.purge(services.config.upload_ttl, lambda: services.read_only.is_on)


def _reclaim(services: Services) -> None:
    services.registry.reclamation.run(lambda: services.read_only.is_on)


def _remove_leftovers(services: Services) -> None:
    services.registry.driver.remove_leftovers(services.config.upload_ttl)


def _fill_search_index(services: Services) -> None:
    """
    Rebuild a search index that lacks repositories because it is new, older than this version, or misses updates.

    Meanwhile other processes wait: they share the index, which is then complete, or have one of their own to rebuild.
    They wait for about one ``upload_purge_interval`` at most, because uploads must be purged even if that host failed.
    """
    index, leases, missed = services.search_index, services.registry.leases, services.search_updates.missed
    attempts = 1 + int(services.config.upload_purge_interval / _REINDEX_RETRY_SECONDS)
    for _ in range(attempts):
        if services.read_only.is_on:
            return
        notes = missed.all()
        if index.is_complete() and not notes:
            return
        if not leases.take("reindex", _REINDEX_SECONDS, ends_with_process=True):
            gevent.sleep(_REINDEX_RETRY_SECONDS)
            continue
        try:
            logger.info("added %d repositories to the search index", index.reindex(services.search_entries.all()))
            missed.forget(notes)
        finally:
            leases.release("reindex")
        return
