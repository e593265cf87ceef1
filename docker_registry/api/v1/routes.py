"""API V1: all routes."""

from __future__ import annotations

from flask import Flask

from docker_registry.api.downloads import Downloads
from docker_registry.api.v1 import images, pushes, repositories, search, tags, users
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.search.index import SearchIndex
from docker_registry.registry.v1.legacy_registry import LegacyRegistry


def add(
    app: Flask,
    oci: OciRegistry,
    legacy: LegacyRegistry,
    downloads: Downloads,
    search_index: SearchIndex,
    search_elsewhere: search.Search | None = None,
    *,
    registry_endpoints: str | None,
    serve_private: bool,
    delete_tags: bool,
    may_hide: bool,
) -> None:
    """
    Add all routes of API V1 to an application.

    Args:
        search_elsewhere: searches the registry that this one mirrors; None if there is none.
        registry_endpoints: value of X-Docker-Endpoints; None for the host of the request.
        serve_private: whether searches find private repositories.
        delete_tags: whether clients may delete tags and repositories.
        may_hide: whether clients may make repositories private.
    """
    pulls = images.Pulls(legacy, downloads)
    for blueprint in (
        images.blueprint(pulls),
        images.private_blueprint(pulls, legacy.private_images),
        pushes.blueprint(legacy),
        repositories.blueprint(legacy, oci.access, registry_endpoints=registry_endpoints, delete=delete_tags),
        users.blueprint(),
        repositories.properties_blueprint(legacy, oci.private_repositories, delete=may_hide),
        search.blueprint(search_index, oci.access, search_elsewhere, serve_private=serve_private),
        tags.blueprint(legacy, oci.access, delete=delete_tags),
    ):
        app.register_blueprint(blueprint)
