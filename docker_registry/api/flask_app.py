"""
The Flask application of both APIs, and what it does around every view: each hook is one step.

`create_app` installs the hooks in their order. A hook that only some configurations need has a module of its own, such
as access control, CORS and mirroring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from flask import Flask, Request, Response, request
from flask.sessions import NullSession, SessionInterface
from flask.signals import appcontext_tearing_down, request_finished, request_started, request_tearing_down
from werkzeug import datastructures
from werkzeug.local import LocalProxy
from werkzeug.routing import MapAdapter

from docker_registry import dependencies
from docker_registry.api.path_prefix import PathPrefix
from docker_registry.api.routes import (
    ABOUT_ANCESTORS,
    ACTIONS,
    CACHEABLE,
    PARSERS,
    REFERENCES,
    REFUSED_READ_ONLY,
    REPOSITORIES,
    V2_PATH,
    V2Routes,
    v2_routes,
)
from docker_registry.errors import Unsupported
from docker_registry.http.clients import OLD_CLIENTS, TrustedProxies
from docker_registry.http.exchange import CONTEXT, Observer, RequestContext
from docker_registry.http.health import Health
from docker_registry.registry.access import Access, Action, hide
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.names import Tag
from docker_registry.registry.read_only import ReadOnly
from docker_registry.resources.memory_budget import MemoryBudget, Reservation

if TYPE_CHECKING:
    from docker_registry.registry.v1.private_images import PrivateImages

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

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


class _Request(Request):
    """A request whose body Flask does not parse."""

    @property
    def blueprints(self) -> list[str]:
        """See :class:`Request`; asked for several times, and rarely nested."""
        endpoint = "" if self.url_rule is None else self.url_rule.endpoint
        name, _, _ = endpoint.rpartition(".")
        return super().blueprints if "." in name else [name] if name else []

    def close(self) -> None:
        """See :class:`Request`; there are no files to close."""


class Headers(datastructures.Headers):
    """
    Headers of a response that the registry makes itself.

    Werkzeug searches each value for newlines, at five calls; these values are known to have none.
    """

    def add_all(self, headers: Iterable[tuple[str, str]]) -> None:
        """Add several headers, none of which is there already."""
        self._list.extend(headers)

    def to_wsgi_list(self) -> list[tuple[str, str]]:
        """Return the headers for the server."""
        return [*self._list]

    def __contains__(self, key: str) -> bool:
        """Return whether there is a header of this name."""
        key = key.lower()
        for name, _ in self._list:  # noqa: SIM110 - a generator would be called for each name
            if name.lower() == key:
                return True
        return False


class PlainResponse(Response):
    """
    A response that is sent as it is, without the cost of Werkzeug's corrections.

    Not for the statuses 1xx, 204 and 304, which have no content.
    """

    default_mimetype = None

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        content: Iterable[bytes] = (),
        *,
        direct_passthrough: bool = False,
    ) -> None:
        """
        Args:
            headers: all headers, with Content-Length; the values contain no newlines.
            direct_passthrough: whether the server receives the object *content* itself.
        """
        own = Headers()
        super().__init__(content, status, own, direct_passthrough=direct_passthrough)
        own.add_all(headers.items())

    def get_wsgi_response(self, environ: dict[str, Any]) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        """See :class:`Response`."""
        is_head = environ["REQUEST_METHOD"] == "HEAD"
        blocks: Iterable[bytes] = self
        if self.direct_passthrough or (is_head and not self.is_sequence):
            blocks = self.get_app_iter(environ)
        elif is_head:
            self.response = ()
        return blocks, self.status, self.headers.to_wsgi_list()

    def __iter__(self) -> Iterator[bytes]:
        """Return the blocks of the content; the server calls :meth:`close` after the last one."""
        return self.iter_encoded()


class _Routes(MapAdapter):
    """Finds the route of a path; those of API V2 by one pattern, which takes a tenth of Werkzeug's time."""

    v2: V2Routes

    def match(self, *arguments: Any, **options: Any) -> Any:
        """See :class:`MapAdapter`."""
        found = V2_PATH.fullmatch(self.path_info)
        if found is not None and options == {"return_rule": True} and not arguments:  # as Flask calls it
            name, words, last = found.groups()
            rule, variable = self.v2.get((self.default_method, words, last != ""), (None, ""))
            if rule is not None:
                return rule, ({"name": name, variable: last} if variable else {"name": name})
        return super().match(*arguments, **options)


class Application(Flask):
    """
    A Flask application without sessions, host matching and coroutines.

    It runs the same hooks as :class:`Flask`, and sends the same signals if anything receives them, in half the calls.

    Attributes:
        observers: receive each exchange, if the worker reports them.
        log_format: format of the access log.
        trusted_proxies: proxies whose headers tell the client's address.
        tls: the section ``tls`` of the configuration, for the worker.
        brief_calls: to which the worker tells whether it serves a single client.
        health: to which the worker reports that the server is stopping.
        metrics_collector: to which the worker adds its own limits; None if metrics are off.
        finish: the worker calls it after its last request, for work that requests have left to the background.
        body_memory: memory budget for the bodies of all requests; what a request reserves is released when it ends.
        path_prefix: the path below which the registry is.
        serves_v2: whether API V2 is served, so that errors below its paths have its form.
    """

    request_class = _Request
    session_interface = _NoSessions()
    observers: Sequence[Observer] = ()
    log_format: str = "text"
    trusted_proxies: TrustedProxies | None = None
    tls: object = None
    brief_calls: object = None
    health: Health | None = None
    metrics_collector: object = None
    finish: Callable[[], object] | None = None
    body_memory: MemoryBudget
    path_prefix: PathPrefix | None = None
    serves_v2: bool = True

    @cached_property
    def v2_routes(self) -> V2Routes:
        """The routes below the repositories of API V2."""
        return v2_routes(self.url_map.iter_rules())

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match routes by path alone, ignoring the host; see :class:`Flask`."""
        if request is None:
            return None
        routes = _Routes(self.url_map, "", request.root_path, "", request.scheme, request.path, request.method)
        routes.v2 = self.v2_routes
        return routes

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function unchanged, because no view or hook is a coroutine; see :class:`Flask`."""
        return func

    def full_dispatch_request(self) -> Response:
        """Run the hooks and the view of the current request; see :class:`Flask`."""
        self._got_first_request = True
        try:
            if request_started.receivers:
                request_started.send(self, _async_wrapper=self.ensure_sync)
            result = self._run_view(current_request())
        except Exception as error:  # noqa: BLE001 - the handlers of errors receive it
            result = self.handle_user_exception(error)
        response = self.process_response(result if isinstance(result, Response) else self.make_response(result))
        if request_finished.receivers:
            request_finished.send(self, _async_wrapper=self.ensure_sync, response=response)
        return response

    def _run_view(self, request: Request) -> Any:
        """Return what the first hook that answers returned, or else the view."""
        endpoint = request.endpoint
        names = (None, *reversed(request.blueprints))
        for name in names:
            for preprocess in self.url_value_preprocessors[name]:
                preprocess(endpoint, request.view_args)
        for name in names:
            for hook in self.before_request_funcs[name]:
                result = hook()
                if result is not None:
                    return result
        values = request.view_args  # a hook may have replaced them
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


def record_context(app: Flask) -> None:
    """Record what a request is for, for observers; before all hooks that may reject it."""

    @app.url_value_preprocessor
    def record_target(endpoint: str | None, values: MutableMapping[str, Any] | None) -> None:
        context: RequestContext = current_request().environ[CONTEXT]
        context.route = endpoint or ""
        for key, text in (values or {}).items():
            if key in REPOSITORIES:
                context.repository = text
            elif key in REFERENCES:
                context.reference = text
            if key == "digest":
                context.digest = text


def parse_url_values(app: Flask) -> None:
    """Parse the variables of a matched URL into values, after they were recorded as they are."""

    @app.url_value_preprocessor
    def parse(_endpoint: str | None, values: MutableMapping[str, Any] | None) -> None:
        for key, text in (values or {}).items():
            if key in PARSERS and values is not None:
                values[key] = PARSERS[key](text)


def hide_names(app: Flask, access: Access, images: PrivateImages | None) -> None:
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
            if key in REPOSITORIES:
                reference = values.get("tag") or values.get("reference")
                tag = reference if isinstance(reference, Tag) else None
                if not access.policy.allows(client, ACTIONS[endpoint], value, tag):
                    values[key] = hide(value)
            elif key == "image_id" and images is not None and not access.policy.may_pull_all(client):
                if ACTIONS[endpoint] is Action.PUSH and PRINCIPAL in environ:
                    continue  # a push may name an image that the client may not see
                with_ancestors = endpoint in ABOUT_ANCESTORS
                values[key] = images.hide_unless_visible(value, principal=client, with_ancestors=with_ancestors)


def refuse_while_read_only(app: Flask, read_only: ReadOnly) -> None:
    """Refuse changes while the registry is read-only; after the hooks that check whether the client may make them."""

    @app.before_request
    def refuse_writes() -> None:
        if read_only.why is not None and request.method not in SAFE_METHODS and request.endpoint in REFUSED_READ_ONLY:
            raise Unsupported(read_only.why)


def complete_responses(app: Application, flavor: str, version: str, *, is_tracked: bool) -> None:
    """
    Tell observers what a response contains, mark it as cacheable, and add the headers that every response carries.

    This is one hook because it runs for every request: it looks once at the request and at each header.

    Args:
        is_tracked: whether the driver records dependencies, so that some responses depend on the request and on these
            alone.
    """
    cacheable = CACHEABLE if is_tracked else frozenset()
    common = (
        ("X-Docker-Registry-Version", version),
        ("X-Docker-Registry-Config", flavor),
        ("X-Content-Type-Options", "nosniff"),
    )

    @app.after_request
    def complete(response: Response) -> Response:
        request, headers, status = current_request(), response.headers, response.status_code
        environ = request.environ
        context: RequestContext = environ[CONTEXT]
        by_name = dict(headers.to_wsgi_list())  # each look-up in `headers` would convert all names
        context.digest = by_name.get("Docker-Content-Digest", context.digest)
        added, is_v2 = [*common], request.path.startswith("/v2")
        if is_v2 and app.serves_v2:
            if "Vary" not in by_name:
                added += [("Vary", "User-Agent")]
            elif "User-Agent" not in by_name["Vary"]:
                response.vary.add("User-Agent")
            if not OLD_CLIENTS.match(environ.get("HTTP_USER_AGENT", "")):  # they must not see it
                added += [("Docker-Distribution-Api-Version", "registry/2.0")]
        headers.add_all(added) if isinstance(headers, Headers) else headers.extend(added)
        if not is_v2 and "Cache-Control" not in headers:
            headers.update(NOT_CACHED)
        if status >= 400:
            _name_request(response, context, environ)
        elif request.method in ("GET", "HEAD") and request.endpoint in cacheable and status in (200, 206, 304):
            dependencies.declare_cacheable()
        return response


def _name_request(response: Response, context: RequestContext, environ: Mapping[str, Any]) -> None:
    """Add the request id and the trace to an error, so that its client can tell which request failed."""
    if context.request_id:
        response.headers["X-Request-Id"] = context.request_id
    if context.trace_id:
        response.headers["Traceparent"] = environ["HTTP_TRACEPARENT"]
