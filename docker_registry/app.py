"""The web application: routes and hooks over parts that are built elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from flask import Flask

from docker_registry import __version__
from docker_registry.api import cors, errors, flask_app, status
from docker_registry.api.client_origin import ClientOrigin
from docker_registry.api.downloads import Downloads
from docker_registry.api.flask_app import Application
from docker_registry.api.path_prefix import PathPrefix
from docker_registry.api.v2 import base as v2_base
from docker_registry.api.v2 import blobs as v2_blobs
from docker_registry.api.v2 import manifests as v2_manifests
from docker_registry.api.v2 import referrers as v2_referrers
from docker_registry.api.v2 import uploads as v2_uploads
from docker_registry.config.schema import Config
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.errors import ConfigError
from docker_registry.registry import events
from docker_registry.services import Services, open_privileged_key

if TYPE_CHECKING:
    from docker_registry.auth.access_control import AccessControl
    from docker_registry.registry.mirror.mirror import Mirror
    from docker_registry.registry.v1.legacy_registry import LegacyRegistry


def import_routes(config: Config) -> None:
    """Import the routes that a configuration needs, so that workers share their memory."""
    if config.v1:
        import docker_registry.api.v1.routes  # noqa: F401


def create_app(services: Services) -> Flask:
    """Create the web application for the parts of a registry."""
    app = Application("docker_registry", static_folder=None)
    # A client cannot replay a streamed body after a redirect, so URLs are never corrected by redirects.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    config = services.config
    origin = ClientOrigin(services.trusted_proxies, services.external_url)
    _add_hooks(app, services, origin)
    app.register_blueprint(
        status.blueprint(
            flavor=config.flavor,
            version=__version__,
            v1=config.v1,
            probes=_probes(services),
            standalone="mirror" if config.mirroring.source else str(config.standalone),
        )
    )
    app.register_blueprint(status.health_blueprint(services.health))
    if services.metrics is not None and not config.metrics_address:
        app.register_blueprint(status.metrics_blueprint(services.metrics))
    downloads = Downloads(config.nginx_x_accel_redirect, redirect=config.storage_redirect)
    if config.v1 and services.legacy is not None:
        _add_v1(app, services, services.legacy, downloads)
    if config.v2:
        _add_v2(app, services, downloads, origin)
    return app


def _add_hooks(app: Application, services: Services, origin: ClientOrigin) -> None:
    """Install the hooks that run for every request, in this order."""
    config, registry = services.config, services.registry
    app.path_prefix = PathPrefix(services.trusted_proxies, services.external_url)
    app.observers = services.observers
    app.metrics_collector = services.metrics_collector
    app.health, app.brief_calls = services.health, services.brief_calls
    app.finish = services.search_updates.finish
    app.log_format, app.trusted_proxies, app.tls = config.log_format, services.trusted_proxies, config.tls
    flask_app.record_context(app)
    if services.mirror is not None:
        _add_namespaces(app, services.mirror)
    flask_app.parse_url_values(app)
    errors.install(app, v2=config.v2)
    app.body_memory = services.body_memory
    if isinstance(registry.driver, CachedDriver):
        app.before_request(registry.driver.begin_request)
    if not config.standalone:
        _add_index(app, services)
    if services.access_control is not None:
        _add_access_control(app, services, services.access_control, origin)
    flask_app.hide_names(app, registry.access, services.legacy.private_images if services.legacy is not None else None)
    flask_app.refuse_while_read_only(app, services.read_only)
    if services.mirror is not None:
        _protect_mirrored(app, services.mirror)
    rules = cors.CorsRules(**{entry.name: getattr(config.cors, entry.name) for entry in fields(cors.CorsRules)})
    cors.add_headers(app, rules)
    flask_app.complete_responses(app, config.flavor, __version__, is_tracked=registry.driver.tracks_dependencies)


def _add_namespaces(app: Application, mirror: Mirror) -> None:
    # Not imported by a registry without upstreams.
    from docker_registry.api import mirroring

    mirroring.use_namespaces(app, mirror.namespaces)
    mirroring.refuse_loops(app, mirror.via)


def _listed_prefix(mirror: Mirror | None) -> Callable[[], str]:
    if mirror is None:
        return str
    from docker_registry.api import mirroring

    return partial(mirroring.listed_prefix, mirror.namespaces)


def _name_in_scope(mirror: Mirror | None) -> Callable[[str], str]:
    if mirror is None:
        return str
    from docker_registry.api import mirroring

    return partial(mirroring.name_in_scope, mirror.namespaces)


def _protect_mirrored(app: Application, mirror: Mirror) -> None:
    from docker_registry.api import mirroring

    mirroring.refuse_changes(app, mirror.upstreams.is_mirrored)
    if mirror.pulls is not None:
        mirroring.report_sending(app, mirror.pulls.sending, mirror.pulls.sending_image)


def _add_access_control(app: Application, services: Services, control: AccessControl, origin: ClientOrigin) -> None:
    """Install access control and its token endpoint."""
    # Not imported by a registry without users: PyJWT and cryptography take time and memory.
    from docker_registry.api import access_control
    from docker_registry.api.v2 import token as v2_token

    config = services.config
    images = None if services.legacy is None else services.legacy.image_memberships
    access_control.install(app, control, origin, images, challenge=config.auth.challenge)
    if config.v2 and control.tokens is not None:
        name_in_scope = _name_in_scope(services.mirror)
        app.register_blueprint(v2_token.blueprint(control, control.tokens, origin, name_in_scope))


def _add_index(app: Application, services: Services) -> None:
    """
    Install the check of tokens by a separate Index.

    Raises:
        ConfigError: API V2 or users are configured too, or a setting is invalid.
    """
    from docker_registry.api.v1 import index_access
    from docker_registry.auth.external.index import Index

    config = services.config
    if config.v2 or services.access_control is not None:
        raise ConfigError("standalone: false, an index for API V1, needs v2: false and no users (auth)")
    index = Index(config.index_endpoint)
    index_access.install(
        app,
        index,
        privileged_key=open_privileged_key(config),
        check_tokens=not config.disable_token_auth,
        connect_before_put_image_json=partial(events.before_put_image_json.connect, sender=services.registry.driver),
    )


def _probes(services: Services) -> dict[str, status.Probe]:
    """Return the probes of the services that ``/_status`` reports."""
    probes: dict[str, status.Probe] = {"storage": services.probe_store}
    if services.diff_queue is not None:
        probes["redis"] = services.diff_queue.ping
    return probes


def _add_v1(app: Flask, services: Services, legacy: LegacyRegistry, downloads: Downloads) -> None:
    from docker_registry.api.v1 import routes

    config = services.config
    routes.add(
        app,
        services.registry,
        legacy,
        downloads,
        services.search_index,
        services.v1_mirror.search if services.v1_mirror is not None else None,
        registry_endpoints=config.registry_endpoints,
        serve_private=config.serve_private,
        delete_tags=config.delete_tags,
        may_hide=config.delete_tags and config.delete_manifests and config.delete_blobs,
    )


def _add_v2(app: Flask, services: Services, downloads: Downloads, origin: ClientOrigin) -> None:
    config, registry = services.config, services.registry
    prefix = _listed_prefix(services.mirror)
    app.register_blueprint(v2_base.blueprint(registry, max_page_entries=config.max_page_entries, listed_prefix=prefix))
    app.register_blueprint(v2_uploads.blueprint(registry, origin))
    app.register_blueprint(v2_blobs.blueprint(registry, downloads, delete=config.delete_blobs))
    app.register_blueprint(
        v2_manifests.blueprint(
            registry, downloads, delete_tags=config.delete_tags, delete_manifests=config.delete_manifests
        )
    )
    app.register_blueprint(v2_referrers.blueprint(registry, max_page_entries=config.max_page_entries))
