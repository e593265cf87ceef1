"""
Hooks around every request of both APIs: what observers learn of it, what is refused, and headers of every response.

`create_app` installs them in their order. Authorization and access control have their own modules.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flask import Flask, Response, g, request

from docker_registry import dependencies
from docker_registry.api.authorization import ACTIONS
from docker_registry.api.flask_app import Application
from docker_registry.api.requests import RESERVATIONS
from docker_registry.api.responses import NOT_CACHED
from docker_registry.errors import Unsupported
from docker_registry.http.clients import OLD_CLIENTS
from docker_registry.http.exchange import context_of
from docker_registry.registry.access import Action
from docker_registry.registry.names import ImageRepositoryName, RepositoryName
from docker_registry.registry.read_only import ReadOnly
from docker_registry.resources.memory_budget import MemoryBudget

#: The variables of URLs that name a repository, and those that name something in it.
_REPOSITORIES: Final = ("name", "repository")
_REFERENCES: Final = ("reference", "digest", "tag", "image_id", "upload_id")

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: Routes by which clients change repositories.
_CHANGES: Final = frozenset(route for route, action in ACTIONS.items() if action is not Action.PULL)

#: Routes by which a push that has begun may finish: its blobs become complete, but nothing refers to them.
_UNFINISHED: Final = frozenset(
    {
        "v1_pushes.put_checksum",
        "v1_pushes.put_layer",
        "v2_uploads.append_chunk",
        "v2_uploads.cancel_upload",
        "v2_uploads.commit_upload",
    }
)

#: Routes that are refused while the registry is read-only.
REFUSED_READ_ONLY: Final = _CHANGES - _UNFINISHED

#: Endpoints that clients request repeatedly. None depends on the time, the client's address or chance.
_CACHEABLE: Final = frozenset(
    {
        "v1_images.get_ancestry",
        "v1_images.get_json",
        "v1_tags.get_tag",
        "v1_tags.list_tags",
        "v2_base.check_version",
        "v2_base.list_tags",
        "v2_blobs.get_blob",
        "v2_manifests.get_manifest",
    }
)

#: Endpoints that pages of any origin may read when CORS is not configured, as in docker-registry 0.7.
_OPEN_ENDPOINTS: Final = frozenset({"v1_repositories.list_images", "v1_search.search"})

_ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class CorsRules:
    """
    The CORS settings of an operator.

    Attributes:
        origins: origins whose pages may read every response; ``*`` for all; CORS is off when empty.
        methods: methods that they may use.
        headers: request headers that they may send.
        expose_headers: response headers that they may read.
        supports_credentials: whether they may send credentials.
        max_age: seconds for which a browser may cache the response to a preflight request.
    """

    origins: Sequence[str] = ()
    methods: Sequence[str] = ()
    headers: Sequence[str] = ()
    expose_headers: Sequence[str] = ()
    supports_credentials: bool = False
    max_age: int | None = None


def record_context(app: Flask) -> None:
    """Record what observers receive: route, repository, reference and digest; before all hooks that may reject."""

    @app.url_value_preprocessor
    def record_target(endpoint: str | None, values: MutableMapping[str, Any] | None) -> None:
        context = context_of(request.environ)
        context.route = endpoint or ""
        if values:
            context.repository = next((str(values[key]) for key in _REPOSITORIES if key in values), "")
            context.reference = next((str(values[key]) for key in _REFERENCES if key in values), "")
            context.digest = str(values.get("digest", ""))

    @app.after_request
    def record_digest(response: Response) -> Response:
        digest = response.headers.get("Docker-Content-Digest")
        if digest is not None:
            context_of(request.environ).digest = digest
        if response.status_code >= 400:
            _name_request(response)
        return response


def _name_request(response: Response) -> None:
    """Add the request id and the trace to an error, so that its client can tell which request failed."""
    context = context_of(request.environ)
    if context.request_id:
        response.headers["X-Request-Id"] = context.request_id
    if context.trace_id:
        response.headers["Traceparent"] = request.headers["Traceparent"]


def share_body_memory(app: Application, budget: MemoryBudget) -> None:
    """Set the budget for the bodies that an application reads; what a request reserves is released when it ends."""
    app.body_memory = budget

    @app.teardown_request
    def release(_error: BaseException | None) -> None:
        for reservation in g.pop(RESERVATIONS, ()):
            reservation.release()


def refuse_while_read_only(app: Flask, read_only: ReadOnly) -> None:
    """Refuse changes while the registry is read-only; after the hooks that check whether the client may make them."""

    @app.before_request
    def refuse_writes() -> None:
        if read_only.why is not None and request.method not in _SAFE and request.endpoint in REFUSED_READ_ONLY:
            raise Unsupported(read_only.why)


def refuse_in_mirrors(app: Flask, is_mirrored: Callable[[str], bool]) -> None:
    """
    Refuse changes of repositories that mirror another registry; after the hooks that check the client.

    Args:
        is_mirrored: returns whether a repository of this name mirrors another one.
    """

    @app.before_request
    def refuse_changes() -> None:
        if request.method in _SAFE or request.endpoint not in _CHANGES:
            return
        for value in (request.view_args or {}).values():
            if isinstance(value, RepositoryName | ImageRepositoryName) and is_mirrored(str(value)):
                raise Unsupported("This repository mirrors another registry: it can only be pulled.", name=str(value))


def declare_cacheable(app: Flask) -> None:
    """Mark responses that depend on the request and the store alone; only for a driver that records dependencies."""

    @app.after_request
    def mark_response(response: Response) -> Response:
        if (
            response.status_code in (200, 206, 304)
            and request.endpoint in _CACHEABLE
            and request.method in ("GET", "HEAD")
        ):
            dependencies.declare_cacheable()
        return response


def add_cors_headers(app: Flask, rules: CorsRules) -> None:
    """Tell browsers which pages of other origins may read responses (Fetch standard, "CORS protocol")."""

    @app.after_request
    def add_headers_for_origin(response: Response) -> Response:
        if rules.origins:
            _allow_origin(response, rules)
        elif request.endpoint in _OPEN_ENDPOINTS and request.method in ("GET", "HEAD"):
            response.headers["Access-Control-Allow-Origin"] = _ANY
            response.headers["Access-Control-Allow-Methods"] = "GET"
        return response


def _allow_origin(response: Response, rules: CorsRules) -> None:
    origin = request.headers.get("Origin")
    # With credentials, browsers require their own origin and reject `*`.
    allows_any_origin = _ANY in rules.origins and not rules.supports_credentials
    if not allows_any_origin:
        response.vary.add("Origin")
    if origin is None or not (_ANY in rules.origins or origin in rules.origins):
        return
    response.headers["Access-Control-Allow-Origin"] = _ANY if allows_any_origin else origin
    if rules.supports_credentials:
        response.headers["Access-Control-Allow-Credentials"] = "true"
    if rules.expose_headers:
        response.headers["Access-Control-Expose-Headers"] = ", ".join(rules.expose_headers)
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        response.headers["Access-Control-Allow-Methods"] = ", ".join(rules.methods)
        response.headers["Access-Control-Allow-Headers"] = ", ".join(rules.headers)
        if rules.max_age is not None:
            response.headers["Access-Control-Max-Age"] = str(rules.max_age)


def add_common_headers(app: Flask, flavor: str, version: str) -> None:
    """Add the headers that every response carries."""

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.add("X-Docker-Registry-Version", version)
        response.headers.add("X-Docker-Registry-Config", flavor)
        response.headers.add("X-Content-Type-Options", "nosniff")
        if not request.path.startswith("/v2") and "Cache-Control" not in response.headers:
            response.headers.update(NOT_CACHED)
        return response


def announce_v2(app: Flask) -> None:
    """Add the version header of API V2, except for clients that must not see it."""

    @app.after_request
    def announce_version(response: Response) -> Response:
        if request.path.startswith("/v2"):
            if "Vary" in response.headers:
                response.vary.add("User-Agent")
            else:  # the same result, without building a header set
                response.headers.add("Vary", "User-Agent")
            if not OLD_CLIENTS.match(request.headers.get("User-Agent", "")):
                response.headers.add("Docker-Distribution-Api-Version", "registry/2.0")
        return response
