"""API V2: routes for the version check and the lists of repositories and tags."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, jsonify

from docker_registry import dependencies
from docker_registry.api import requests
from docker_registry.api.responses import link_next
from docker_registry.registry.listing_cache import Page
from docker_registry.registry.names import RepositoryName
from docker_registry.registry.oci_registry import OciRegistry


def blueprint(registry: OciRegistry, *, max_page_entries: int, listed_prefix: Callable[[], str] = str) -> Blueprint:
    """
    Build the blueprint.

    Args:
        max_page_entries: maximum number of entries on a page.
        listed_prefix: returns the beginning of the names that the current request has listed; empty for all.
    """
    bp = Blueprint("v2_base", __name__)

    @bp.get("/v2/")
    def check_version() -> Response:
        """Confirm that API V2 is served (end-1)."""
        return jsonify({})

    @bp.get("/v2/_catalog")
    def list_repositories() -> Response:
        """List the repositories, page by page."""
        page_request = requests.page(max_page_entries)
        page = registry.repositories.page(
            page_request.count, page_request.last, principal=requests.principal(), prefix=listed_prefix()
        )
        return _page_response({"repositories": page.names}, page, page_request)

    @bp.get("/v2/<path:name>/tags/list")
    def list_tags(name: RepositoryName) -> Response:
        """List the tags of a repository, page by page (end-8)."""
        repository = registry.repositories.resolve(name)
        page_request = requests.page(max_page_entries)
        may_list = registry.access.policy.tag_filter(requests.principal(), name)
        page = registry.tags.sources.page(repository, page_request.count, page_request.last, may_list)
        if page is not None:
            dependencies.make_uncacheable()
        else:
            registry.repositories.check(repository)
            page = registry.tags.page(repository, page_request.count, page_request.last, may_list)
        return _page_response({"name": requests.requested_name(name), "tags": page.names}, page, page_request)

    return bp


def _page_response(content: dict[str, object], page: Page, page_request: requests.PageRequest) -> Response:
    response = jsonify(content)
    return link_next(response, n=page_request.count, last=page.names[-1]) if page.more else response
