"""API V2: the version check, the lists of tags and repositories, and what every answer carries."""

from __future__ import annotations

import re
from typing import Final

from flask import Blueprint, Response, jsonify, request

from docker_registry.api import requests
from docker_registry.registry import Registry
from docker_registry.registry.names import RepositoryName

#: Clients of before API V2 was mature, which choose V2 wrongly when they see its version header: up to 1.11 they ping
#: under these names. Without it each of them speaks the protocol it is best at, and all they do works.
_OLD_CLIENTS: Final = re.compile(r"Go-http-client/|Go |docker/1\.(?:[0-9]|10|11)\.")


def blueprint(registry: Registry, *, max_page_entries: int) -> Blueprint:
    """
    Make the routes.

    Args:
        max_page_entries: the longest page of a list.
    """
    bp = Blueprint("v2_base", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    @bp.get("/v2/")
    def check_version() -> Response:
        """Say that API V2 is spoken here (end-1)."""
        return jsonify({})

    @bp.get("/v2/_catalog")
    def list_repositories() -> Response:
        """List the repositories, page by page."""
        names = [str(name) for name in registry.repositories.list()]
        entries, link = requests.page(names, max_page_entries)
        return _with_link(jsonify({"repositories": entries}), link)

    @bp.get("/v2/<path:name>/tags/list")
    def list_tags(name: RepositoryName) -> Response:
        """List the tags of a repository, page by page (end-8)."""
        registry.repositories.check(name)
        tags = [str(tag) for tag in registry.tags.list(name)]
        entries, link = requests.page(tags, max_page_entries)
        return _with_link(jsonify({"name": str(name), "tags": entries}), link)

    return bp


def announce_version(response: Response) -> Response:
    """Tell clients that this is API V2, except those that choose wrongly by it; a hook of the application."""
    if request.path.startswith("/v2"):
        response.vary.add("User-Agent")
        if not _OLD_CLIENTS.match(request.headers.get("User-Agent", "")):
            response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
    return response


def _with_link(response: Response, link: str | None) -> Response:
    if link:
        response.headers["Link"] = link
    return response
