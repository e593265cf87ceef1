"""API V2: the version check, the lists of tags and repositories, and what every answer carries."""

from __future__ import annotations

import re
from typing import Final

from flask import Blueprint, Response, jsonify, request

from docker_registry.api import requests
from docker_registry.registry import Registry
from docker_registry.registry.listings import Page
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
        wanted = requests.page(max_page_entries)
        page = registry.repositories.page(wanted.count, wanted.last)
        return _listed({"repositories": page.names}, page, wanted)

    @bp.get("/v2/<path:name>/tags/list")
    def list_tags(name: RepositoryName) -> Response:
        """List the tags of a repository, page by page (end-8)."""
        repository = registry.repositories.resolve(name)
        registry.repositories.check(repository)
        wanted = requests.page(max_page_entries)
        page = registry.tags.page(repository, wanted.count, wanted.last)
        return _listed({"name": str(name), "tags": page.names}, page, wanted)

    return bp


def announce_version(response: Response) -> Response:
    """Tell clients that this is API V2, except those that choose wrongly by it; a hook of the application."""
    if request.path.startswith("/v2"):
        if "Vary" in response.headers:
            response.vary.add("User-Agent")
        else:  # the same, without a set that is made to be asked once
            response.headers.add("Vary", "User-Agent")
        if not _OLD_CLIENTS.match(request.headers.get("User-Agent", "")):
            response.headers.add("Docker-Distribution-Api-Version", "registry/2.0")
    return response


def _listed(content: dict[str, object], page: Page, wanted: requests.PageRequest) -> Response:
    response = jsonify(content)
    return requests.link_next(response, n=wanted.count, last=page.names[-1]) if page.more else response
