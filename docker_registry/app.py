"""The web application: routes and hooks over parts that are built elsewhere."""

from __future__ import annotations

from dataclasses import fields

from flask import Flask

from docker_registry import __version__
from docker_registry.api import (
    access_control,
    authorization,
    body_memory,
    cacheable,
    cors,
    errors,
    health,
    request_context,
    status,
)
from docker_registry.api.client_origin import ClientOrigin
from docker_registry.api.downloads import Downloads
from docker_registry.api.flask_app import Application
from docker_registry.api.v1 import images as v1_images
from docker_registry.api.v1 import private_images as v1_private_images
from docker_registry.api.v1 import properties as v1_properties
from docker_registry.api.v1 import pulls as v1_pulls
from docker_registry.api.v1 import pushes as v1_pushes
from docker_registry.api.v1 import repositories as v1_repositories
from docker_registry.api.v1 import responses as v1_responses
from docker_registry.api.v1 import search as v1_search
from docker_registry.api.v1 import tags as v1_tags
from docker_registry.api.v1 import users as v1_users
from docker_registry.api.v2 import base as v2_base
from docker_registry.api.v2 import blobs as v2_blobs
from docker_registry.api.v2 import manifests as v2_manifests
from docker_registry.api.v2 import referrers as v2_referrers
from docker_registry.api.v2 import uploads as v2_uploads
from docker_registry.config.schema import Config
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.errors import ConfigError
from docker_registry.services import Services


def create_app(services: Services) -> Flask:
    """Create the web application for the parts of a registry."""
    app = Application("docker_registry", static_folder=None)
    # A client cannot replay a streamed body after a redirect, so URLs are never corrected by redirects.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    _add_hooks(app, services)
    config = services.config
    app.register_blueprint(
        status.blueprint(flavor=config.flavor, version=__version__, v1=config.v1, probes=_probes(services))
    )
    app.register_blueprint(health.blueprint(services.health))
    downloads = Downloads(config.nginx_x_accel_redirect, redirect=config.storage_redirect)
    if config.v1:
        _add_v1(app, services, downloads)
    if config.v2:
        _add_v2(app, services, downloads)
    return app


def _add_hooks(app: Application, services: Services) -> None:
    """Install the hooks that run for every request, in this order."""
    config, registry = services.config, services.registry
    app.wsgi_app = v1_responses.WithoutTrailingSlash(app.wsgi_app)  # type: ignore[method-assign] # Flask's own way
    app.observers = services.observers
    app.health = services.health
    request_context.install(app)
    errors.install(app, v2=config.v2)
    body_memory.install(app, services.body_memory)
    if isinstance(registry.driver, CachedDriver):
        app.before_request(registry.driver.begin_request)
    if services.access_control is not None:
        access_control.install(app, services.access_control, _origin(config), registry.repositories.has_content)
    authorization.install(app, registry.access, registry.private_repositories)
    if registry.driver.notes_provenance:
        cacheable.install(app)
    cors.install(app, cors.Rules(**{entry.name: getattr(config.cors, entry.name) for entry in fields(cors.Rules)}))
    app.after_request(v1_responses.common_headers(config.flavor, __version__))
    if config.v2:
        app.after_request(v2_base.announce_version)


def _origin(config: Config) -> ClientOrigin:
    """
    Raises:
        ConfigError: a trusted proxy is neither an address nor a network.
    """
    try:
        return ClientOrigin(config.trusted_proxies, config.external_url)
    except ValueError as error:
        raise ConfigError(f"trusted_proxies: {error}") from None


def _probes(services: Services) -> dict[str, status.Probe]:
    """Return the probes of the services that ``/_status`` reports."""
    probes: dict[str, status.Probe] = {"storage": services.registry.probe}
    if services.diff_queue is not None:
        probes["redis"] = services.diff_queue.ping
    return probes


def _add_v1(app: Flask, services: Services, downloads: Downloads) -> None:
    config, registry = services.config, services.registry
    pulls = v1_pulls.Pulls(registry, downloads)
    may_delete = config.delete_tags and config.delete_manifests and config.delete_blobs
    app.register_blueprint(v1_images.blueprint(pulls))
    app.register_blueprint(v1_private_images.blueprint(pulls, registry.private_repositories))
    app.register_blueprint(v1_pushes.blueprint(registry))
    app.register_blueprint(
        v1_repositories.blueprint(registry, registry_endpoints=config.registry_endpoints, delete=config.delete_tags)
    )
    app.register_blueprint(v1_users.blueprint())
    app.register_blueprint(v1_properties.blueprint(registry, delete=may_delete))
    app.register_blueprint(
        v1_search.blueprint(services.search_index, registry.access, serve_private=config.serve_private)
    )
    app.register_blueprint(v1_tags.blueprint(registry, delete=config.delete_tags))


def _add_v2(app: Flask, services: Services, downloads: Downloads) -> None:
    config, registry = services.config, services.registry
    app.register_blueprint(v2_base.blueprint(registry, max_page_entries=config.max_page_entries))
    app.register_blueprint(v2_uploads.blueprint(registry))
    app.register_blueprint(v2_blobs.blueprint(registry, downloads, delete=config.delete_blobs))
    app.register_blueprint(
        v2_manifests.blueprint(
            registry, downloads, delete_tags=config.delete_tags, delete_manifests=config.delete_manifests
        )
    )
    app.register_blueprint(v2_referrers.blueprint(registry, max_page_entries=config.max_page_entries))
