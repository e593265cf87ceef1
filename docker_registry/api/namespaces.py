"""Replaces the name in a request that means a mirrored registry by the name that its repository has here."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlencode

from flask import Flask, Response, request

from docker_registry.api.requests import REQUESTED_NAME
from docker_registry.errors import NameInvalid, UpstreamError
from docker_registry.http.exchange import context_of
from docker_registry.registry.mirror.namespaces import Namespaces

#: Where the namespace of a request is kept, in the WSGI environment.
_NAMESPACE: Final = "docker_registry.namespace"


def install(app: Flask, namespaces: Namespaces) -> None:
    """Install the hooks; before those that check what the client may do, which must see the name here."""

    @app.url_value_preprocessor
    def replace_name(endpoint: str | None, values: MutableMapping[str, Any] | None) -> None:
        if not values or "name" not in values or not (endpoint or "").startswith("v2_"):
            return
        given = set(request.args.getlist("ns"))
        if len(given) > 1:
            raise NameInvalid("The request has several namespaces (ns).")
        namespace = next(iter(given), "")
        upstream = namespaces.find(namespace, request.host)
        if upstream is None:
            return
        prefix = f"{upstream.name}/"
        if not values["name"].startswith(prefix):
            request.environ[REQUESTED_NAME] = values["name"]
            values["name"] = f"{prefix}{values['name']}"
        context_of(request.environ).repository = values["name"]
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


def refuse_loops(app: Flask, via: Callable[[], str]) -> None:
    """
    Install the hook that refuses requests which this registry has sent itself.

    Args:
        via: returns the name of this registry in Via headers.
    """

    @app.before_request
    def refuse_own_requests() -> None:
        received = request.headers.get("Via")
        if received is not None and via() in received:
            raise UpstreamError("This registry is its own upstream.")
