"""Hooks of a registry that mirrors others: names of upstreams, refusals, and content that is being sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Final, cast
from urllib.parse import urlencode

from flask import Flask, Response, request

from docker_registry.api.downloads import SegmentedBody
from docker_registry.api.flask_app import SAFE_METHODS
from docker_registry.api.requests import REQUESTED_NAME
from docker_registry.api.routes import CHANGES
from docker_registry.errors import ImageRepositoryUnknown, NameInvalid, Unsupported, UpstreamError
from docker_registry.http.exchange import CONTEXT, RequestContext
from docker_registry.registry.mirror.namespaces import Namespaces, name_here
from docker_registry.registry.names import ImageRepositoryName, RepositoryName

#: Where the namespace of a request is kept, in the WSGI environment.
_NAMESPACE: Final = "docker_registry.namespace"

_GET_BLOB: Final = "v2_blobs.get_blob"
_GET_LAYER: Final = frozenset({"v1_images.get_layer", "v1_private_images.get_layer"})
_SENT: Final = frozenset({200, 206})


def use_namespaces(app: Flask, namespaces: Namespaces) -> None:
    """
    Replace the name in a request that means a mirrored registry by the name that its repository has here.

    Under a host that stands for a mirrored registry, API V1 is not served: its names would be those of repositories
    that were pushed to this registry.

    Install this before the hooks that check what the client may do, which must see the name here.
    """

    @app.url_value_preprocessor
    def replace_name(endpoint: str | None, values: MutableMapping[str, Any] | None) -> None:
        if (endpoint or "").startswith("v1_") and namespaces.find("", request.host) is not None:
            raise ImageRepositoryUnknown("API V1 is not served under this host.")
        if not values or "name" not in values or not (endpoint or "").startswith("v2_"):
            return
        given = set(request.args.getlist("ns"))
        if len(given) > 1:
            raise NameInvalid("The request has several namespaces (ns).")
        namespace = next(iter(given), "")
        upstream = namespaces.find(namespace, request.host)
        if upstream is None:
            return
        name = name_here(upstream, values["name"])
        if name != values["name"]:
            request.environ[REQUESTED_NAME] = values["name"]
            values["name"] = name
        request.environ[CONTEXT].repository = values["name"]
        request.environ[_NAMESPACE] = namespace

    @app.after_request
    def name_namespace(response: Response) -> Response:
        namespace = request.environ.get(_NAMESPACE, "")
        if namespace:
            response.headers["OCI-Namespace"] = namespace
            if "Link" in response.headers:
                query = urlencode({"ns": namespace})
                response.headers["Link"] = response.headers["Link"].replace("?", f"?{query}&", 1)
        return response


def listed_prefix(namespaces: Namespaces) -> str:
    """Return the beginning of the names in the catalog that the current request asks for; empty for all names."""
    upstream = namespaces.find("", request.host)
    return "" if upstream is None else f"{upstream.name}/"


def name_in_scope(namespaces: Namespaces, name: str) -> str:
    """Return the name here of the repository that a scope names, in a request for a token."""
    upstream = namespaces.find("", request.host)
    return name if upstream is None else name_here(upstream, name)


def refuse_loops(app: Flask, via: Callable[[], str]) -> None:
    """
    Refuse requests that this registry has sent itself.

    Args:
        via: returns the name of this registry in Via headers.
    """

    @app.before_request
    def refuse_own_requests() -> None:
        received = request.headers.get("Via")
        if received is not None and via() in received:
            raise UpstreamError("This registry is its own upstream.")


def refuse_changes(app: Flask, is_mirrored: Callable[[str], bool]) -> None:
    """
    Refuse changes of repositories that mirror another registry; after the hooks that check the client.

    Args:
        is_mirrored: returns whether a repository of this name mirrors another one.
    """

    @app.before_request
    def refuse_change() -> None:
        if request.method in SAFE_METHODS or request.endpoint not in CHANGES:
            return
        for value in (request.view_args or {}).values():
            if isinstance(value, RepositoryName | ImageRepositoryName) and is_mirrored(str(value)):
                raise Unsupported("This repository mirrors another registry: it can only be pulled.", name=str(value))


def report_sending(
    app: Flask,
    sending: Callable[[str, str], AbstractContextManager[None]],
    sending_image: Callable[[str], AbstractContextManager[None]],
) -> None:
    """
    Report mirrored blobs and layers of images that are being sent, so that they are not evicted meanwhile.

    Args:
        sending: returns a context that is entered while a blob is being sent, given its repository and digest.
        sending_image: the same for the layer of an image of API V1, given its id.
    """

    @app.after_request
    def report_sent(response: Response) -> Response:
        is_blob = request.endpoint == _GET_BLOB
        if not (is_blob or request.endpoint in _GET_LAYER):
            return response
        if request.method != "GET" or response.status_code not in _SENT:
            return response
        wrapper = request.environ.get("wsgi.file_wrapper")
        context: RequestContext = request.environ[CONTEXT]
        reported = sending(context.repository, context.digest) if is_blob else sending_image(context.reference)
        if wrapper is None or not isinstance(response.response, wrapper):
            blocks = cast("Iterable[bytes]", response.response)
            response.response = _ReportedBlocks(blocks, reported)
        elif isinstance(body := getattr(response.response, "filelike", None), SegmentedBody):
            body.hold(reported)
        return response  # any other open file survives its removal


class _ReportedBlocks:
    """Blocks of a body with a context that is entered while they are read."""

    def __init__(self, blocks: Iterable[bytes], context: AbstractContextManager[None]) -> None:
        self._blocks = blocks
        self._context = context

    def __iter__(self) -> Iterator[bytes]:
        with self._context:
            yield from self._blocks

    def close(self) -> None:
        """Close the blocks; called by the WSGI server."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()
