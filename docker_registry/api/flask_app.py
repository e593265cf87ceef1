"""
The Flask application of both APIs, and what it does around every view: each hook is one step.

`create_app` installs the hooks in their order. A hook that only some configurations need has a module of its own, such
as access control, CORS and mirroring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Final, Protocol, cast

from flask import Flask, Request, Response, request
from flask.sessions import NullSession, SessionInterface
from flask.signals import appcontext_tearing_down, request_started, request_tearing_down
from werkzeug.local import LocalProxy
from werkzeug.routing import MapAdapter

from docker_registry import dependencies
from docker_registry.api.actions import ACTIONS
from docker_registry.api.path_prefix import PathPrefix
from docker_registry.api.responses import add_headers
from docker_registry.errors import Unsupported
from docker_registry.http.clients import OLD_CLIENTS, TrustedProxies
from docker_registry.http.exchange import CONTEXT, Observer, RequestContext
from docker_registry.http.health import Health
from docker_registry.registry.access import Access, Action, hide
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.names import (
    Digest,
    ImageId,
    ImageRepositoryName,
    RepositoryName,
    Tag,
    parse_reference,
    parse_upload_id,
)
from docker_registry.registry.read_only import ReadOnly
from docker_registry.resources.memory_budget import MemoryBudget, Reservation

#: The parser of each variable in the routes.
_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "name": RepositoryName.parse,
    "reference": parse_reference,
    "digest": Digest.parse,
    "upload_id": parse_upload_id,
    "image_id": ImageId.parse,
    "repository": ImageRepositoryName.parse,
    "tag": Tag.parse,
}

#: The variables of URLs that name a repository, and those that name something in it.
_REPOSITORIES: Final = frozenset({"name", "repository"})
_REFERENCES: Final = frozenset({"reference", "digest", "tag", "image_id", "upload_id"})

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: Routes by which clients change repositories.
CHANGES: Final = frozenset(route for route, action in ACTIONS.items() if action is not Action.PULL)

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
REFUSED_READ_ONLY: Final = CHANGES - _UNFINISHED

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

#: Routes whose responses contain information about an image's ancestors.
_ABOUT_ANCESTORS: Final = frozenset({"v1_images.get_diff"})

#: Where access control puts the principal of a request, in the WSGI environment.
PRINCIPAL: Final = "docker_registry.principal"

#: Where the memory budget for bodies is, and where the reservations of a request are kept, in the WSGI environment.
BODY_MEMORY: Final = "docker_registry.body_memory"
RESERVATIONS: Final = "docker_registry.body_reservations"

#: Headers of responses that must not be cached.
NOT_CACHED: Final = {"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "-1"}


#: Returns the current request. Flask's proxy ``request`` looks it up again for each attribute, at four calls.
current_request: Final[Callable[[], Request]] = cast("LocalProxy[Request]", request)._get_current_object  # noqa: SLF001


class _NoSessions(SessionInterface):
    """Disables sessions: every request gets the same null session."""

    def __init__(self) -> None:
        self._none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:  # noqa: ARG002 - the same for every request
        """See :class:`SessionInterface`."""
        return self._none

    def is_null_session(self, obj: object) -> bool:
        """See :class:`SessionInterface`."""
        return obj is self._none


class Application(Flask):
    """
    A Flask application without sessions, host matching and coroutines.

    It runs the same hooks as :class:`Flask`, and sends the same signals if anything receives them, in half the calls.

    Attributes:
        observers: receive each exchange, if the worker reports them.
        log_format: format of the access log.
        trusted_proxies: proxies whose headers tell the client's address.
        tls: the section ``tls`` of the configuration, for the worker.
        inflight: to which the worker reports the requests in progress.
        health: to which the worker reports that the server is stopping.
        metrics_collector: to which the worker adds its own limits; None if metrics are off.
        body_memory: memory budget for the bodies of all requests; what a request reserves is released when it ends.
        path_prefix: the path below which the registry is.
        serves_v2: whether API V2 is served, so that errors below its paths have its form.
    """

    session_interface = _NoSessions()
    observers: Sequence[Observer] = ()
    log_format: str = "text"
    trusted_proxies: TrustedProxies | None = None
    tls: object = None
    inflight: object = None
    health: Health | None = None
    metrics_collector: object = None
    body_memory: MemoryBudget
    path_prefix: PathPrefix | None = None
    serves_v2: bool = True

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match routes by path alone, ignoring the host; see :class:`Flask`."""
        if request is None:
            return None
        return MapAdapter(self.url_map, "", request.root_path, "", request.scheme, request.path, request.method)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function unchanged, because no view or hook is a coroutine; see :class:`Flask`."""
        return func

    def full_dispatch_request(self) -> Response:
        """Run the hooks and the view of the current request; see :class:`Flask`."""
        self._got_first_request = True
        if request_started.receivers:
            request_started.send(self, _async_wrapper=self.ensure_sync)
        try:
            result = self._run_view(current_request())
        except Exception as error:  # noqa: BLE001 - the handlers of errors receive it
            result = self.handle_user_exception(error)
        return self.finalize_request(result)

    def _run_view(self, request: Request) -> Any:
        """Return what the first hook that answers returned, or else the view."""
        endpoint, values = request.endpoint, request.view_args
        names = (None, *reversed(request.blueprints))
        for name in names:
            for preprocess in self.url_value_preprocessors.get(name, ()):
                preprocess(endpoint, values)
        for name in names:
            for hook in self.before_request_funcs.get(name, ()):
                result = hook()
                if result is not None:
                    return result
        if endpoint is None or values is None or request.method == "OPTIONS":  # Flask answers these requests itself
            return self.dispatch_request()
        return self.view_functions[endpoint](**values)

    def do_teardown_request(self, *arguments: Any) -> None:
        """Run the hooks that follow a request; see :class:`Flask`."""
        if self.teardown_request_funcs or request_tearing_down.receivers:
            super().do_teardown_request(*arguments)

    def do_teardown_appcontext(self, *arguments: Any) -> None:
        """Run the hooks at the end of an application context; see :class:`Flask`."""
        if self.teardown_appcontext_funcs or appcontext_tearing_down.receivers:
            super().do_teardown_appcontext(*arguments)

    def wsgi_app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request; see :class:`Flask`."""
        if CONTEXT not in environ:  # the server is not the registry's worker
            environ[CONTEXT] = RequestContext("", "")
        prefix = self.path_prefix
        if prefix is not None and (
            prefix.is_fixed or "HTTP_X_FORWARDED_PREFIX" in environ or environ.get("SCRIPT_NAME")
        ):
            start_response = prefix.apply(environ, start_response)
        path = environ.get("PATH_INFO", "")
        if path.endswith("/") and path.startswith("/v1/"):
            # No rule of a route can make the slash optional: repository names contain slashes, too.
            environ = {**environ, "PATH_INFO": path.rstrip("/")}  # the server logs the path as it is
        reservations: list[Reservation] = []
        environ[BODY_MEMORY], environ[RESERVATIONS] = self.body_memory, reservations
        try:
            return super().wsgi_app(environ, start_response)
        finally:
            for reservation in reservations:
                reservation.release()


class ImageHider(Protocol):
    """Hides images of API V1."""

    def hide_unless_visible(self, image_id: ImageId, *, principal: Principal, with_ancestors: bool = False) -> ImageId:
        """Return the id of an image, or its hidden form; optionally also if one of its ancestors is hidden."""
        ...


def record_context(app: Flask) -> None:
    """Record what observers receive: route, repository, reference and digest; before all hooks that may reject."""

    @app.url_value_preprocessor
    def record_target(endpoint: str | None, values: MutableMapping[str, Any] | None) -> None:
        context: RequestContext = current_request().environ[CONTEXT]
        context.route = endpoint or ""
        for key, text in (values or {}).items():
            if key in _REPOSITORIES:
                context.repository = text
            elif key in _REFERENCES:
                context.reference = text
            if key == "digest":
                context.digest = text

    @app.after_request
    def record_digest(response: Response) -> Response:
        environ = current_request().environ
        context: RequestContext = environ[CONTEXT]
        for name, value in response.headers:  # faster than `get`: no name is converted
            if name == "Docker-Content-Digest":
                context.digest = value
        if response.status_code >= 400:
            _name_request(response, context, environ)
        return response


def _name_request(response: Response, context: RequestContext, environ: Mapping[str, Any]) -> None:
    """Add the request id and the trace to an error, so that its client can tell which request failed."""
    if context.request_id:
        add_headers(response, [("X-Request-Id", context.request_id)])
    if context.trace_id:
        add_headers(response, [("Traceparent", environ["HTTP_TRACEPARENT"])])


def parse_url_values(app: Flask) -> None:
    """Parse the variables of a matched URL into values, after they were recorded as they are."""

    @app.url_value_preprocessor
    def parse(_endpoint: str | None, values: MutableMapping[str, Any] | None) -> None:
        for key, text in (values or {}).items():
            if key in _PARSERS and values is not None:
                values[key] = _PARSERS[key](text)


def hide_names(app: Flask, access: Access, images: ImageHider | None) -> None:
    """
    Replace each name or id that the client may not see by its hidden form, so that it does not exist for the view.

    Args:
        images: hides images of API V1; None where it is not served.
    """

    @app.before_request
    def hide_values() -> None:
        request = current_request()
        values, endpoint, environ = request.view_args or {}, request.endpoint or "", request.environ
        client: Principal = environ.get(PRINCIPAL, ANONYMOUS)
        environ[CONTEXT].principal = client.name
        for key, value in values.items():
            if isinstance(value, RepositoryName | ImageRepositoryName):
                reference = values.get("tag") or values.get("reference")
                tag = reference if isinstance(reference, Tag) else None
                if not access.policy.allows(client, ACTIONS[endpoint], value, tag):
                    values[key] = hide(value)
            elif images is not None and isinstance(value, ImageId) and not access.policy.may_pull_all(client):
                if ACTIONS[endpoint] is Action.PUSH and PRINCIPAL in environ:
                    continue  # a push may name an image that the client may not see
                with_ancestors = endpoint in _ABOUT_ANCESTORS
                values[key] = images.hide_unless_visible(value, principal=client, with_ancestors=with_ancestors)


def refuse_while_read_only(app: Flask, read_only: ReadOnly) -> None:
    """Refuse changes while the registry is read-only; after the hooks that check whether the client may make them."""

    @app.before_request
    def refuse_writes() -> None:
        if read_only.why is not None and request.method not in SAFE_METHODS and request.endpoint in REFUSED_READ_ONLY:
            raise Unsupported(read_only.why)


def declare_cacheable(app: Flask) -> None:
    """Mark responses that depend on the request and the store alone; only for a driver that records dependencies."""

    @app.after_request
    def mark_response(response: Response) -> Response:
        request = current_request()
        if (
            request.method in ("GET", "HEAD")
            and request.endpoint in _CACHEABLE
            and response.status_code in (200, 206, 304)
        ):
            dependencies.declare_cacheable()
        return response


def add_common_headers(app: Application, flavor: str, version: str) -> None:
    """Add the headers that every response carries, and the version header of API V2 to those below its paths."""

    common = (
        ("X-Docker-Registry-Version", version),
        ("X-Docker-Registry-Config", flavor),
        ("X-Content-Type-Options", "nosniff"),
    )

    @app.after_request
    def add_to_response(response: Response) -> Response:
        request, added = current_request(), [*common]
        is_v2 = request.path.startswith("/v2")
        if is_v2 and app.serves_v2:
            if "Vary" in response.headers:
                response.vary.add("User-Agent")
            else:  # the same result, without building a header set
                added.append(("Vary", "User-Agent"))
            if not OLD_CLIENTS.match(request.environ.get("HTTP_USER_AGENT", "")):  # they must not see it
                added.append(("Docker-Distribution-Api-Version", "registry/2.0"))
        add_headers(response, added)
        if not is_v2 and "Cache-Control" not in response.headers:
            response.headers.update(NOT_CACHED)
        return response
