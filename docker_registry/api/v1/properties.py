"""API V1: routes for the access property of a repository. Making one private hides it from users, as deletion does."""

from __future__ import annotations

import json
from typing import Final

from flask import Blueprint, Response

from docker_registry.api import requests
from docker_registry.api.authorization import actor
from docker_registry.api.responses import json_response
from docker_registry.errors import BodyInvalid, Unsupported
from docker_registry.registry.names import ImageRepositoryName
from docker_registry.registry.private_repositories import PrivateRepositories
from docker_registry.registry.v1.legacy_registry import LegacyRegistry

_MAX_BYTES: Final = 64 * 1024


def blueprint(legacy: LegacyRegistry, private_repositories: PrivateRepositories, *, delete: bool) -> Blueprint:
    """
    Build the blueprint.

    Args:
        delete: whether clients may delete tags, manifests and blobs, and therefore may hide repositories.
    """
    bp = Blueprint("v1_properties", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

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
        legacy.private_images.set_private(repository, private=private, actor=actor("push"))
        return json_response(True)

    return bp


def _read_access() -> str:
    try:
        properties = json.loads(requests.read_body(_MAX_BYTES).decode("utf-8"))
    except (ValueError, RecursionError):
        raise BodyInvalid from None
    access = properties.get("access") if isinstance(properties, dict) else None
    if access not in ("private", "public"):
        raise BodyInvalid
    return str(access)
