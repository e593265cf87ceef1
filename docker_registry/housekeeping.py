"""Background work of a worker: purging uploads, adopting repositories, rebuilding the search index."""

from __future__ import annotations

import logging
from typing import Final

import gevent

from docker_registry.errors import RegistryError
from docker_registry.metrics import listener
from docker_registry.registry.read_only import REFRESH_SECONDS
from docker_registry.registry.reclamation import MOVE_SECONDS
from docker_registry.services import Services

logger = logging.getLogger(__name__)

#: Time between two publications of the state of mirrored registries.
_STATUS_SECONDS: Final = 60.0

#: How long the lease for rebuilding a search index is held.
_REINDEX_SECONDS: Final = 3600


def start(services: Services) -> None:
    """
    Watch the health of the worker, publish metrics, and run housekeeping every ``upload_purge_interval`` seconds.

    All run in greenlets that live as long as the worker.
    """
    services.read_only.refresh()
    gevent.spawn(services.read_only.watch, gevent.sleep)
    gevent.spawn(services.health.watch)
    if services.access_control is not None:
        gevent.spawn(services.access_control.watch, gevent.sleep)
    if services.mirror is not None:
        gevent.spawn(_publish_mirror_status, services)
    if services.mirror is not None and services.mirror.pulls is not None and services.mirror.eviction is not None:
        gevent.spawn(services.mirror.pulls.watch, gevent.sleep)
        gevent.spawn(services.mirror.eviction.watch, gevent.sleep)
    elif services.mirror is not None:
        gevent.spawn(_reclaim, services)
    if services.metrics is not None:
        services.metrics.start()
        if services.config.metrics_address:
            listener.serve(services.metrics, services.config.metrics_address)
    gevent.spawn(_run, services)


def _publish_mirror_status(services: Services) -> None:
    """Publish what is known of upstreams, for ever; the body of a greenlet."""
    mirror, recorder = services.mirror, services.mirror_recorder
    while mirror is not None and recorder is not None:
        gevent.sleep(_STATUS_SECONDS)
        try:
            mirror.publish_status(recorder.counts)
        except RegistryError as error:
            logger.warning("the state of the mirrored registries was not published: %s", error)


def _reclaim(services: Services) -> None:
    """Remove the bytes of purged content, where no task evicts content and does that too."""
    while True:
        gevent.sleep(MOVE_SECONDS)
        try:
            if services.read_only.why is None and services.registry.leases.take("reclamation", MOVE_SECONDS / 2):
                services.registry.reclamation.run(lambda: services.read_only.why is not None)
        except RegistryError as error:
            logger.warning("bytes without references could not be removed: %s", error)


def _run(services: Services) -> None:
    interval_seconds = services.config.upload_purge_interval
    while True:
        if services.read_only.why is not None:  # every few seconds: what is due follows when writes are allowed again
            gevent.sleep(REFRESH_SECONDS)
            continue
        try:
            # The lease lasts half of the interval: the next run of any worker finds it free, a concurrent run does not.
            if services.registry.leases.take("housekeeping", interval_seconds / 2):
                for step in (_purge, _keep_up_tokens, _remove_leftovers):
                    if services.read_only.why is None:
                        step(services)
            if services.read_only.why is None:
                _fill_search_index(services)
        except RegistryError as error:
            logger.warning("housekeeping failed and will be retried: %s", error)
        gevent.sleep(interval_seconds)


def _purge(services: Services) -> None:
    upload_ttl_seconds = services.config.upload_ttl
    read_only = services.read_only
    purged, adopted = services.registry.run_housekeeping(upload_ttl_seconds, lambda: read_only.why is not None)
    # At once: uploads that begin before it is recorded are missing in the metrics.
    if services.metrics is not None and read_only.why is None:
        services.metrics.record_uploads_left(services.registry.uploads.counts.left)
    message = f"purged {purged} abandoned uploads, adopted {adopted} repositories of other servers"
    logger.info(message)
    if services.audit is not None and (purged or adopted):
        services.audit.record_housekeeping(message)


def _keep_up_tokens(services: Services) -> None:
    if services.access_control is None or services.access_control.tokens is None:
        return
    if (changed := services.access_control.tokens.keep_up()) and services.audit is not None:
        services.audit.record_housekeeping(changed)


def _remove_leftovers(services: Services) -> None:
    def is_stopped() -> bool:
        return services.read_only.why is not None

    if services.mirror is not None:
        services.mirror.transfers.purge(services.config.upload_ttl, is_stopped)
    services.registry.reclamation.run(is_stopped)
    services.registry.driver.remove_leftovers(services.config.upload_ttl)


def _fill_search_index(services: Services) -> None:
    """Rebuild a search index that lacks repositories because it is new or older than this version."""
    index, registry = services.search_index, services.registry
    if not index.is_complete() and registry.leases.take("reindex", _REINDEX_SECONDS):
        logger.info("added %d repositories to the search index", index.reindex(services.search_entries.all()))
