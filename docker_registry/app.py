"""Where the parts are joined: from a configuration to a registry, and from a registry to a web application."""

from __future__ import annotations

import logging

import gevent
from flask import Flask

from docker_registry import __version__, drivers
from docker_registry.api import (
    errors,
    status,
    v1_answers,
    v1_images,
    v1_repositories,
    v1_tags,
    v1_users,
    v2_base,
    v2_blobs,
    v2_manifests,
    v2_referrers,
    v2_uploads,
)
from docker_registry.api.downloads import Downloads
from docker_registry.config import Config
from docker_registry.errors import RegistryError, StorageError
from docker_registry.registry import Registry

logger = logging.getLogger(__name__)

_PROBE = "docker/registry/v2/_probe"


def create_registry(config: Config) -> Registry:
    """
    Open the store that a configuration names and make the registry over it.

    Raises:
        ConfigError: the configuration names a driver that is not there, or something that it does not take.
        StorageError: the store cannot be used.
    """
    driver = drivers.load(config.storage)(**config.driver_options)
    return Registry(
        driver,
        max_manifest_bytes=config.max_manifest_bytes,
        check_index_children=config.check_index_children,
        immutable_tags=config.immutable_tags,
        upload_ttl_seconds=config.upload_ttl,
    )


def create_app(config: Config, registry: Registry | None = None) -> Flask:
    """
    Make the web application.

    Args:
        registry: what it serves; by default the one that the configuration names.
    """
    registry = registry or create_registry(config)
    app = Flask("docker_registry", static_folder=None)
    # A redirect cannot replay a body that was streamed, so no URL is ever "corrected" by one.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.wsgi_app = v1_answers.WithoutTrailingSlash(app.wsgi_app)  # type: ignore[method-assign] # Flask's own way
    errors.install(app)
    app.after_request(v1_answers.finish(config.flavor, __version__))
    app.after_request(v2_base.announce_version)
    downloads = Downloads(config.nginx_x_accel_redirect)
    app.register_blueprint(status.blueprint(flavor=config.flavor, version=__version__))
    if config.v1:
        _add_v1(app, config, registry, downloads)
    if config.v2:
        _add_v2(app, config, registry, downloads)
    return app


def _add_v1(app: Flask, config: Config, registry: Registry, downloads: Downloads) -> None:
    app.register_blueprint(v1_images.blueprint(registry, downloads))
    app.register_blueprint(
        v1_repositories.blueprint(registry, registry_endpoints=config.registry_endpoints, delete=config.delete_tags)
    )
    app.register_blueprint(v1_users.blueprint())
    app.register_blueprint(v1_tags.blueprint(registry, delete=config.delete_tags))


def _add_v2(app: Flask, config: Config, registry: Registry, downloads: Downloads) -> None:
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
    driver = create_registry(config).driver
    try:
        driver.put_content(_PROBE, b"1")
        driver.get_content(_PROBE)
        driver.remove(_PROBE)
    except StorageError as error:
        raise StorageError(f"The store cannot be written: {error}") from None
    return [f"docker-registry {__version__}, flavor {config.flavor} of {config.path}, storage {config.storage}"]


def start_housekeeping(registry: Registry, config: Config) -> None:
    """Start what goes on beside the requests of a worker: unfinished uploads are purged while the server runs."""
    gevent.spawn(_keep_house, registry, config)


def _keep_house(registry: Registry, config: Config) -> None:
    while True:
        try:
            # Half of the interval: the next turn of any worker finds the lease free, a turn at the same time does not.
            if registry.leases.take("housekeeping", config.upload_purge_interval / 2):
                purged, adopted = registry.keep_house(config.upload_ttl)
                logger.info("purged %d unfinished uploads, found %d repositories of others", purged, adopted)
                registry.driver.remove_leftovers(config.upload_ttl)
        except RegistryError as error:
            logger.warning("housekeeping failed and is tried again later: %s", error)
        gevent.sleep(config.upload_purge_interval)
