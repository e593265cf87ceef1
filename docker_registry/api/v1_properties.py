"""API V1: whether a repository is private."""

from __future__ import annotations

import json
from typing import Final

from flask import Blueprint, Response

from docker_registry.api import requests
from docker_registry.api.v1_answers import answer
from docker_registry.errors import BodyInvalid
from docker_registry.registry.names import ImageRepositoryName
from docker_registry.registry.visibility import Visibility

_MAX_BYTES: Final = 64 * 1024


def blueprint(visibility: Visibility) -> Blueprint:
    """Make the routes."""
    bp = Blueprint("v1_properties", __name__)
    bp.url_value_preprocessor(requests.parse_url_values)

    @bp.get("/v1/repositories/<path:repository>/properties")
    def get_properties(repository: ImageRepositoryName) -> Response:
        """Say whether a repository is private."""
        return answer({"access": "private" if visibility.is_private(repository) else "public"})

    @bp.put("/v1/repositories/<path:repository>/properties")
    def put_properties(repository: ImageRepositoryName) -> Response:
        """Make a repository private, or public."""
        visibility.set_private(repository, private=_read_access() == "private")
        return answer(True)

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
