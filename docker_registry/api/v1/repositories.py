"""API V1: routes of repositories: image lists of pushes and pulls, tokens, deletion, and the access property."""

from __future__ import annotations

import json
from typing import Final

from flask import Blueprint, Response, request

from docker_registry.api import requests
from docker_registry.api.authorization import holder
from docker_registry.api.responses import json_response, origin_headers
from docker_registry.api.v1.responses import no_content, stored_json
from docker_registry.errors import BodyInvalid, Unsupported
from docker_registry.registry.access import Access, Action, hide
from docker_registry.registry.names import ImageRepositoryName
from docker_registry.registry.private_repositories import PrivateRepositories
from docker_registry.registry.v1.legacy_registry import LegacyRegistry
from docker_registry.registry.v1.tokens import Access as TokenAccess

#: Limit for an image list; ten thousand images take one megabyte.
_MAX_LIST_BYTES: Final = 8 * 1024 * 1024

_MAX_PROPERTIES_BYTES: Final = 64 * 1024


def blueprint(legacy: LegacyRegistry, access: Access, *, registry_endpoints: str | None, delete: bool) -> Blueprint:
    """
    Build the blueprint.

    Args:
        access: decides about names that are not a parameter of the route.
        registry_endpoints: value of X-Docker-Endpoints; None for the host of the request.
        delete: whether repositories may be deleted.
    """
    bp = Blueprint("v1_repositories", __name__)

    @bp.put("/v1/repositories/<path:repository>")
    def begin_push(repository: ImageRepositoryName) -> Response:
        """Record the images that a push is going to upload, and return a write token."""
        legacy.image_repositories.put_images(
            repository, requests.read_body(_MAX_LIST_BYTES), actor=requests.actor("push")
        )
        legacy.private_images.mark_listed(repository, actor=requests.actor("push"))
        return json_response("", headers=_token(repository, "write"))

    @bp.put("/v1/repositories/<path:repository>/images")
    def put_images(repository: ImageRepositoryName) -> Response:
        """Record the images that a push has uploaded."""
        legacy.image_repositories.put_images(
            repository, requests.read_body(_MAX_LIST_BYTES), actor=requests.actor("push")
        )
        return no_content(_token(repository, "write"))

    @bp.get("/v1/repositories/<path:repository>/images")
    def list_images(repository: ImageRepositoryName) -> Response:
        """List all images that were pushed to the repository, and return a read token."""
        found = legacy.image_pulls.list_images(repository, principal=requests.principal())
        return stored_json(found.value, _token(repository, "read") | origin_headers(found.origin))

    @bp.delete("/v1/repositories/<path:repository>/images")
    def begin_delete(repository: ImageRepositoryName) -> Response:
        """Return a token for deleting the repository."""
        return no_content(_token(repository, "delete"))

    @bp.put("/v1/repositories/<path:repository>/auth")
    def authorize(repository: ImageRepositoryName) -> Response:  # noqa: ARG001 - the repository is not checked
        """Answer OK; or, if the body is an image list, start a push to a repository named ``…/auth``."""
        body = requests.read_body(_MAX_LIST_BYTES)
        if not body.lstrip().startswith(b"["):
            return json_response("OK")
        repository_named_auth = ImageRepositoryName.parse(request.path.removeprefix("/v1/repositories/"))
        is_allowed = access.policy.allows(requests.principal(), Action.PUSH, repository_named_auth)
        repository_named_auth = repository_named_auth if is_allowed else hide(repository_named_auth)
        legacy.image_repositories.put_images(repository_named_auth, body, actor=requests.actor("push"))
        legacy.private_images.mark_listed(repository_named_auth, actor=requests.actor("push"))
        return json_response("", headers=_token(repository_named_auth, "write"))

    @bp.delete("/v1/repositories/<path:repository>")
    @bp.delete("/v1/repositories/<path:repository>/tags")
    def delete_repository(repository: ImageRepositoryName) -> Response:
        """Delete a repository and all its tags."""
        if not delete:
            raise Unsupported("Deletion is disabled.")
        legacy.image_tags.delete_repository(repository, actor=requests.actor("delete"))
        return json_response(True)

    def _token(repository: ImageRepositoryName, permission: TokenAccess) -> dict[str, str]:
        client = holder()
        token = legacy.tokens.make(repository, permission, client.text, client.ends)
        return {
            "X-Docker-Endpoints": registry_endpoints or request.headers.get("Host") or request.host,
            "X-Docker-Token": token,
            "WWW-Authenticate": token,
        }

    return bp


def properties_blueprint(
    legacy: LegacyRegistry, private_repositories: PrivateRepositories, *, delete: bool
) -> Blueprint:
    """
    Build the blueprint of the access property of a repository.

    Making a repository private hides it from users, as deletion does.

    Args:
        delete: whether clients may delete tags, manifests and blobs, and therefore may hide repositories.
    """
    bp = Blueprint("v1_properties", __name__)

    @bp.get("/v1/repositories/<path:repository>/properties")
    def get_properties(repository: ImageRepositoryName) -> Response:
        """Return whether a repository is private: ``{"access": "private"}`` or ``{"access": "public"}``."""
        return json_response({"access": "private" if private_repositories.is_private(repository) else "public"})

    @bp.put("/v1/repositories/<path:repository>/properties")
    def put_properties(repository: ImageRepositoryName) -> Response:
        """Make a repository private or public; a repository that the client may not see stays unchanged."""
        private = _read_access() == "private"
        if private and not delete:
            raise Unsupported("Deletion is disabled, and so is hiding a repository.")
        if private and not private_repositories.is_private(repository):
            legacy.image_tags.check_hideable(repository)
        legacy.private_images.set_private(repository, private=private, actor=requests.actor("push"))
        return json_response(True)

    return bp


def _read_access() -> str:
    try:
        properties = json.loads(requests.read_body(_MAX_PROPERTIES_BYTES).decode("utf-8"))
    except (ValueError, RecursionError):
        raise BodyInvalid from None
    access = properties.get("access") if isinstance(properties, dict) else None
    if access not in ("private", "public"):
        raise BodyInvalid
    return str(access)
