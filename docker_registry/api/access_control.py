"""
Access control of every request: authenticates the client, then checks the action of the route.

:data:`~docker_registry.api.routes.ACTIONS` maps each route with a repository or an image to its action, and
:data:`WITHOUT_REPOSITORY` every other route to what it requires; a test compares both with the routes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, Final

from flask import Flask, Response, request

from docker_registry import dependencies
from docker_registry.api.authorization import HOLDER, IMAGE_CHECK, Holder
from docker_registry.api.client_origin import ClientOrigin
from docker_registry.api.errors import AUTHENTICATION_ERROR
from docker_registry.api.flask_app import PRINCIPAL
from docker_registry.api.requests import MUST_PROVE
from docker_registry.api.routes import ACTIONS
from docker_registry.auth.access_control import TOKEN_PATH, AccessControl
from docker_registry.auth.client import Client
from docker_registry.auth.tokens import scopes
from docker_registry.http.exchange import CONTEXT
from docker_registry.registry.access import Action, Name
from docker_registry.registry.names import ImageId, ImageRepositoryName, RepositoryName, Tag, is_repository_name
from docker_registry.registry.v1.image_memberships import ImageMemberships


class Requirement(Enum):
    """
    What a route without a repository requires.

    ``CREDENTIALS`` may be a token that anyone gets; a ``LOGIN`` names a user, a robot or a workload.
    ``LISTING`` requires that the client could pull something; the response shows what it may pull.
    """

    NOTHING = "nothing"
    CREDENTIALS = "credentials"
    LOGIN = "login"
    LISTING = "listing"


WITHOUT_REPOSITORY: Final = {
    "health.show_liveness": Requirement.NOTHING,
    "health.show_problems": Requirement.NOTHING,
    "health.show_readiness": Requirement.NOTHING,
    "health.show_startup": Requirement.NOTHING,
    "metrics.show_metrics": Requirement.LOGIN,
    "status.ping": Requirement.NOTHING,
    "status.show_banner": Requirement.NOTHING,
    "status.show_status": Requirement.NOTHING,
    "v1_search.search": Requirement.LISTING,
    "v1_users.create_user": Requirement.LOGIN,
    "v1_users.log_in": Requirement.LOGIN,
    "v1_users.update_user": Requirement.LOGIN,
    "v2_base.check_version": Requirement.CREDENTIALS,
    "v2_base.list_repositories": Requirement.LISTING,
    "v2_token.get_token": Requirement.NOTHING,
    "v2_token.post_token": Requirement.NOTHING,
}

#: Routes of API V1 whose body names any image of the registry, which then becomes readable in the repository.
_NAMES_ANY_IMAGE: Final = frozenset({"v1_tags.put_tag"})

#: The realm of Basic authentication.
REALM: Final = "docker-registry"


def install(
    app: Flask,
    control: AccessControl,
    origin: ClientOrigin,
    images: ImageMemberships | None,
    *,
    challenge: str,
) -> None:
    """
    Install the hooks that check every request and challenge clients without credentials.

    Args:
        images: knows the repositories of images; None where API V1 is not served.
        challenge: ``bearer`` or ``basic``.
    """
    has_tokens = challenge == "bearer"

    @app.before_request
    def check_access() -> None:
        if request.method == "OPTIONS" or request.endpoint is None:
            return
        if control.rules().has_networks:
            dependencies.make_uncacheable()  # the response depends on the client's address
        client = _authenticate(control, origin)
        if client.ends != math.inf:
            dependencies.expire(time.monotonic() + client.ends - time.time())
        _remember(client)
        _describe_holder(control, client)
        requirement = WITHOUT_REPOSITORY.get(request.endpoint)
        if requirement is None:
            _check_names(control, client, images)
        else:
            _check_requirement(control, client, requirement)

    @app.after_request
    def add_challenge(response: Response) -> Response:
        if response.status_code == 401:
            is_bearer = has_tokens and request.path.startswith("/v2") and request.path != TOKEN_PATH
            response.headers["WWW-Authenticate"] = _bearer(control, origin) if is_bearer else f'Basic realm="{REALM}"'
        return response


def _authenticate(control: AccessControl, origin: ClientOrigin) -> Client:
    address = origin.address()
    client = control.find_privileged(request.method, request.path, request.headers, address)
    if client is not None:
        return client
    for_token = request.endpoint == "v2_token.get_token"
    header = request.headers.get("Authorization")
    return control.authenticate(header, address, for_token=for_token, certificate=_certificate)


def _certificate() -> Mapping[str, Any] | None:
    """Return the verified certificate of the client; None without one, and under a server that does not tell it."""
    get = getattr(request.environ.get("gunicorn.socket"), "getpeercert", None)
    return (get() or None) if get is not None else None


def _remember(client: Client) -> None:
    request.environ[PRINCIPAL] = client
    request.environ[CONTEXT].principal = client.name


def _describe_holder(control: AccessControl, client: Client) -> None:
    """Note what a token of API V1 is to say, for the routes that issue one."""
    if (request.endpoint or "").startswith("v1_repositories."):
        request.environ[HOLDER] = Holder(control.holder(client), control.holder_ends(client))


def _bearer(control: AccessControl, origin: ClientOrigin) -> str:
    """Return the one challenge of API V2 (RFC 6750, section 3)."""
    realm, service = control.challenge(origin.base_url())
    parts = [f'realm="{realm}"', f'service="{service}"']
    scope = _scope()
    if scope:
        parts.append(f'scope="{scope}"')
    error = request.environ.get(AUTHENTICATION_ERROR)
    if error:
        parts.append(f'error="{error}"')
    return f"Bearer {','.join(parts)}"


def _scope() -> str:
    """Return the scopes that the current request needs; empty if it needs none."""
    endpoint = request.endpoint or ""
    if endpoint == "v2_base.list_repositories":
        return "registry:catalog:*"
    names = [value for value in (request.view_args or {}).values() if isinstance(value, RepositoryName)]
    if endpoint not in ACTIONS or not names:
        return ""
    wanted = [scopes.needed(ACTIONS[endpoint], str(names[0]))]
    source = request.args.get("from", "")
    if endpoint == "v2_uploads.start_upload" and is_repository_name(source):
        wanted.append(scopes.needed(Action.PULL, source))
    return " ".join(wanted)


def _check_requirement(control: AccessControl, client: Client, requirement: Requirement) -> None:
    if requirement is Requirement.CREDENTIALS:
        control.check_credentials(client)
    elif requirement is Requirement.LOGIN:
        control.check_login(client)
    elif requirement is Requirement.LISTING:
        _remember(control.check_listing(client))


def _check_names(control: AccessControl, client: Client, images: ImageMemberships | None) -> None:
    values, action = request.view_args or {}, ACTIONS[request.endpoint or ""]
    for key, value in values.items():
        if isinstance(value, RepositoryName | ImageRepositoryName):
            tags: list[Tag | None] = [*_tags(values)]
            for tag in tags or [None]:
                control.check(client, action, value, tag)
            if action in (Action.PULL, Action.DELETE):
                values[key] = _without_other_content(control, client, action, value)
        elif isinstance(value, ImageId) and images is not None:
            control.check_image(client, action, value, images)
            if action is Action.PUSH and not control.policy.allows_everywhere(client, Action.PULL):
                request.environ[MUST_PROVE] = images.needs_proof(client, value)
    if request.endpoint in _NAMES_ANY_IMAGE and images is not None:
        found = images

        def may_use(image_id: str) -> bool:
            control.check_image(client, Action.PULL, ImageId.parse(image_id), found)
            return True

        request.environ[IMAGE_CHECK] = may_use


def _tags(values: dict[str, object]) -> list[Tag]:
    """Return the tags of the current request: in its path, and of a manifest that is pushed by its digest."""
    tags = [value for value in values.values() if isinstance(value, Tag)]
    if request.endpoint == "v2_manifests.put_manifest":
        tags += [Tag.parse(text) for text in request.args.getlist("tag")]
    return tags


def _without_other_content(control: AccessControl, client: Client, action: Action, name: Name) -> Name:
    """
    Return a name under which a client reaches no other repository that it may not see.

    API V2 shows the content of V1's ``foo`` under ``library/foo``, and V1 shows tags of V2's ``library/foo`` under
    ``foo``, where they have none of their own (:mod:`docker_registry.registry.names`).
    """
    other = name.fallback() if isinstance(name, ImageRepositoryName) else name.short()
    if other is None or control.policy.allows(client, action, other):
        return name
    return replace(name, is_exact=True)
