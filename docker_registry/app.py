"""Where the parts are joined: from a configuration to a registry, and from a registry to a web application."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import fields
from typing import Final

import gevent
from flask import Flask

from docker_registry import __version__, drivers
from docker_registry.api import (
    access,
    cors,
    errors,
    repeatable,
    status,
    v1_answers,
    v1_images,
    v1_private_images,
    v1_properties,
    v1_pulls,
    v1_pushes,
    v1_repositories,
    v1_search,
    v1_tags,
    v1_users,
    v2_base,
    v2_blobs,
    v2_manifests,
    v2_referrers,
    v2_uploads,
)
from docker_registry.api.application import Application
from docker_registry.api.downloads import Downloads
from docker_registry.config import Config, Redis
from docker_registry.drivers.base import StorageDriver
from docker_registry.drivers.cache import link
from docker_registry.drivers.cache.circuit import PATIENCE_SECONDS, Circuit
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.drivers.cache.leased import LeasedCache
from docker_registry.drivers.store_identity import StoreIdentity
from docker_registry.errors import RegistryError, StorageError
from docker_registry.registry import Registry
from docker_registry.registry.search import index as search
from docker_registry.registry.search.index import Entry, NullIndex, SearchIndex, open_index
from docker_registry.registry.search.updates import SearchUpdates
from docker_registry.registry.v1.diff_queue import TIMEOUT_SECONDS, RedisDiffQueue

logger = logging.getLogger(__name__)

#: Where an application keeps its search index, and what keeps that up to date.
SEARCH: Final = "docker_registry.search"

#: No other process rebuilds a search index for so long.
_REINDEX_SECONDS: Final = 3600


def load(config: Config) -> None:
    """
    Import what a configuration needs, and open nothing yet.

    Raises:
        ConfigError: it names a driver or a search index that is not there.
    """
    drivers.load(config.storage)
    search.load(config.search_backend)


def create_registry(config: Config) -> Registry:
    """
    Open the store that a configuration names and make the registry over it.

    Raises:
        ConfigError: the configuration names a driver that is not there, or something that it does not take.
        StorageError: the store cannot be used.
    """
    driver = with_cache(drivers.load(config.storage)(**config.driver_options), config)
    return Registry(
        driver,
        max_manifest_bytes=config.max_manifest_bytes,
        check_index_children=config.check_index_children,
        immutable_tags=config.immutable_tags,
        max_unpacked_bytes=config.max_unpacked_layer_bytes,
        upload_ttl_seconds=config.upload_ttl,
        serve_private=config.serve_private,
        v1_platform=config.v1_platform,
        diff_queue=create_diff_queue(config),
    )


def create_diff_queue(config: Config) -> RedisDiffQueue | None:
    """
    Make the queue of the diffs that workers are to work out; None without a Redis.

    Raises:
        ConfigError: the library for Redis is not installed.
    """
    place = _redis_place(config.cache)
    return RedisDiffQueue(link.connect(place, "cache", timeout_seconds=TIMEOUT_SECONDS)) if place.is_set else None


def with_cache(driver: StorageDriver, config: Config) -> StorageDriver:
    """
    Put the cache that a configuration asks for in front of a store.

    Raises:
        ConfigError: the Redis cannot be where it says, or the library for Redis is not installed.
    """
    place = _redis_place(config.cache_lru)
    if not place.is_set:
        return driver
    redis = link.connect(place, "cache_lru", timeout_seconds=PATIENCE_SECONDS)
    cache = LeasedCache(redis, Circuit(redis, str(place)), StoreIdentity(driver))
    return CachedDriver(driver, cache, max_bytes=config.cache_lru.max_bytes)


def _redis_place(section: Redis) -> link.RedisPlace:
    return link.RedisPlace(**{entry.name: getattr(section, entry.name) for entry in fields(link.RedisPlace)})


def create_search(config: Config, registry: Registry) -> SearchIndex:
    """
    Open the search index that a configuration names.

    Raises:
        ConfigError: there is none of that name, or something that it needs is missing.
    """
    return open_index(config.search_backend, config.sqlalchemy_index_database, registry.search_entries.look_up)


def create_app(config: Config, registry: Registry | None = None) -> Flask:
    """
    Make the web application.

    Args:
        registry: what it serves; by default the one that the configuration names.
    """
    registry = registry or create_registry(config)
    app = Application("docker_registry", static_folder=None)
    # A redirect cannot replay a body that was streamed, so no URL is ever "corrected" by one.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.wsgi_app = v1_answers.WithoutTrailingSlash(app.wsgi_app)  # type: ignore[method-assign] # Flask's own way
    errors.install(app, v2=config.v2)
    if isinstance(registry.driver, CachedDriver):
        app.before_request(registry.driver.begin_request)
    access.install(app, registry.visibility)
    if registry.driver.notes_provenance:
        repeatable.install(app)
    cors.install(app, cors.Rules(**{entry.name: getattr(config.cors, entry.name) for entry in fields(cors.Rules)}))
    app.after_request(v1_answers.finish(config.flavor, __version__))
    downloads = Downloads(config.nginx_x_accel_redirect, redirect=config.storage_redirect)
    index = create_search(config, registry)
    updates = SearchUpdates(index, registry.search_entries.look_up)
    if not isinstance(index, NullIndex):
        updates.connect(registry.driver)
    app.extensions[SEARCH] = (index, updates)  # signals know their listeners only weakly
    app.register_blueprint(
        status.blueprint(flavor=config.flavor, version=__version__, v1=config.v1, probes=_probes(config, registry))
    )
    if config.v1:
        _add_v1(app, config, registry, downloads, index)
    if config.v2:
        _add_v2(app, config, registry, downloads)
    return app


def _probes(config: Config, registry: Registry) -> dict[str, status.Probe]:
    """Return what tries out the services that a configuration asks for."""
    probes: dict[str, status.Probe] = {"storage": registry.probe}
    queue = create_diff_queue(config)
    if queue is not None:
        probes["redis"] = queue.ping
    return probes


def _add_v1(app: Flask, config: Config, registry: Registry, downloads: Downloads, index: SearchIndex) -> None:
    pulls = v1_pulls.Pulls(registry, downloads)
    app.register_blueprint(v1_images.blueprint(pulls))
    app.register_blueprint(v1_private_images.blueprint(pulls, registry.visibility))
    app.register_blueprint(v1_pushes.blueprint(registry))
    app.register_blueprint(
        v1_repositories.blueprint(registry, registry_endpoints=config.registry_endpoints, delete=config.delete_tags)
    )
    app.register_blueprint(v1_users.blueprint())
    app.register_blueprint(v1_properties.blueprint(registry.visibility))
    app.register_blueprint(v1_search.blueprint(index, serve_private=config.serve_private))
    app.register_blueprint(v1_tags.blueprint(registry, delete=config.delete_tags))


def _add_v2(app: Flask, config: Config, registry: Registry, downloads: Downloads) -> None:
    app.after_request(v2_base.announce_version)
    app.register_blueprint(v2_base.blueprint(registry, max_page_entries=config.max_page_entries))
    app.register_blueprint(v2_uploads.blueprint(registry))
    app.register_blueprint(v2_blobs.blueprint(registry, downloads, delete=config.delete_blobs))
    app.register_blueprint(
        v2_manifests.blueprint(registry, delete_tags=config.delete_tags, delete_manifests=config.delete_manifests)
    )
    app.register_blueprint(v2_referrers.blueprint(registry, max_page_entries=config.max_page_entries))


def check(config: Config) -> list[str]:
    """
    Find out before the start what would fail after it: a byte is written to the store, read and removed.

    Returns:
        Lines that are worth printing at the start.

    Raises:
        ConfigError, StorageError: as for :func:`create_registry`.
    """
    registry = create_registry(config)
    try:
        registry.probe()
    except StorageError as error:
        raise StorageError(f"The store cannot be written: {error}") from None
    create_search(config, registry).close()
    lines = [f"docker-registry {__version__}, flavor {config.flavor} of {config.path}, storage {config.storage}"]
    private = len(registry.visibility.private_names())
    if private:
        who = "everybody sees them" if config.serve_private else "nobody sees them"
        lines.append(f"{private} private {'repository' if private == 1 else 'repositories'}: {who} (serve_private)")
    return lines


def start_housekeeping(application: Flask, registry: Registry, config: Config) -> None:
    """
    Start what goes on beside the requests of a worker.

    Unfinished uploads are purged while the server runs, and a search index that does not know all repositories, being
    new or older than this version, is told of them.
    """
    index, _ = application.extensions[SEARCH]
    gevent.spawn(_keep_house, registry, config, index)


def _keep_house(registry: Registry, config: Config, index: SearchIndex) -> None:
    while True:
        try:
            # Half of the interval: the next turn of any worker finds the lease free, a turn at the same time does not.
            if registry.leases.take("housekeeping", config.upload_purge_interval / 2):
                purged, adopted = registry.keep_house(config.upload_ttl)
                logger.info("purged %d unfinished uploads, found %d repositories of others", purged, adopted)
                registry.driver.remove_leftovers(config.upload_ttl)
            if not index.is_complete() and registry.leases.take("reindex", _REINDEX_SECONDS):
                logger.info("found %d repositories for the search index", index.reindex(_in_turns(registry)))
        except RegistryError as error:
            logger.warning("housekeeping failed and is tried again later: %s", error)
        gevent.sleep(config.upload_purge_interval)


def _in_turns(registry: Registry) -> Iterator[Entry]:
    """Yield all repositories, and let requests be answered in between."""
    for entry in registry.search_entries.all():
        gevent.sleep(0)
        yield entry
