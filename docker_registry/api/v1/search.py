"""API V1: the search route, which ``docker search`` and ``podman search`` use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from flask import Blueprint, Response, request

from docker_registry.api import requests
from docker_registry.api.responses import json_response
from docker_registry.errors import NameInvalid, PageInvalid
from docker_registry.registry.access import Access, Repository
from docker_registry.registry.names import ImageRepositoryName, RepositoryName
from docker_registry.registry.search.index import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Page, Result, SearchIndex

#: Matches of a query that are examined for a client that may not pull from every repository.
_MAX_MATCHES: Final = 1000

_MAX_NUMBER: Final = 10**9


#: Returns at most a number of repositories whose names contain a text.
Search = Callable[[str, int], Sequence[Result]]


def blueprint(
    index: SearchIndex, access: Access, search_elsewhere: Search | None = None, *, serve_private: bool
) -> Blueprint:
    """
    Build the blueprint.

    Args:
        access: filters the results by what the client may see, because the index may lag behind.
        search_elsewhere: searches the registry that this one mirrors, when there is no result here.
        serve_private: whether results include private repositories.
    """
    bp = Blueprint("v1_search", __name__)

    @bp.get("/v1/search")
    def search() -> Response:
        """
        Search repositories by a part of their name.

        Docker sends the number of results as ``n``. If the query has ``page`` or ``page_size``, the response includes
        ``page``, ``page_size`` and ``num_pages``.
        """
        has_pages = "page" in request.args or "page_size" in request.args
        size = _number("page_size", _number("n", DEFAULT_PAGE_SIZE))
        query, number, size = request.args.get("q", ""), max(_number("page", 1), 1), min(max(size, 1), MAX_PAGE_SIZE)
        if requests.is_restricted() and access.pull_filter(requests.principal()) is not None:
            page = _pullable(index, access, query, number, size)
        else:
            private = serve_private or requests.is_restricted()
            page = _visible(index.search(query, page=number, page_size=size, private=private), access)
        if search_elsewhere is not None and not page.num_results:
            results = tuple(each for each in search_elsewhere(query, size) if _may_pull(each.name, access))
            page = replace(page, results=results, num_results=len(results))
        return json_response(_document(page) | (_paging(page) if has_pages else {}))

    return bp


def _pullable(index: SearchIndex, access: Access, query: str, page: int, size: int) -> Page:
    """
    Return a page of the repositories that the client may pull, counted without the others.

    Only the first :data:`_MAX_MATCHES` matches are examined.
    """
    results: list[Result] = []
    for number in range(1, _MAX_MATCHES // MAX_PAGE_SIZE + 1):
        found = index.search(query, page=number, page_size=MAX_PAGE_SIZE, private=True)
        results += [result for result in found.results if _may_pull(result.name, access)]
        if number * MAX_PAGE_SIZE >= found.num_results:
            break
    return Page(query, page, size, len(results), tuple(results[(page - 1) * size : page * size]))


def _visible(page: Page, access: Access) -> Page:
    """Return the page without repositories that the client may not see."""
    if access.pull_filter(requests.principal()) is None:
        return page
    results = tuple(result for result in page.results if _may_pull(result.name, access))
    hidden = len(page.results) - len(results)
    return replace(page, results=results, num_results=page.num_results - hidden)


def _may_pull(name: str, access: Access) -> bool:
    try:
        return access.may_pull(requests.principal(), _name(name))
    except NameInvalid:  # an entry that another program wrote
        return False


def _name(text: str) -> Repository:
    try:
        return ImageRepositoryName.parse(text)
    except NameInvalid:  # a name that is valid in API V2 only
        return RepositoryName.parse(text)


def _document(page: Page) -> dict[str, Any]:
    return {
        "query": page.query,
        "num_results": page.num_results,
        "results": [
            {
                "name": result.name,
                "description": result.description,
                "star_count": result.star_count,
                "is_official": result.is_official,
                "is_automated": result.is_automated,
            }
            for result in page.results
        ],
    }


def _paging(page: Page) -> dict[str, Any]:
    return {"page": page.page, "page_size": page.page_size, "num_pages": page.num_pages}


def _number(key: str, default: int) -> int:
    text = request.args.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(_MAX_NUMBER)):
        raise PageInvalid(**{key: text[:64]})
    return int(text)
