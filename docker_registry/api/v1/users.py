"""
API V1: login routes of a registry without authentication; all credentials are accepted.

Docker up to 1.10 first tries to create an account, and stores the credentials on 201. Later versions only log in.
"""

from __future__ import annotations

import json
from typing import Final

from flask import Blueprint, Response

from docker_registry.api import requests
from docker_registry.api.responses import json_response
from docker_registry.api.v1.responses import no_content
from docker_registry.errors import JsonInvalid

_MAX_USER_BYTES: Final = 64 * 1024


def blueprint() -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("v1_users", __name__)

    @bp.get("/v1/users")
    def log_in() -> Response:
        """Accept the credentials."""
        return json_response("OK")

    @bp.post("/v1/users")
    def create_user() -> Response:
        """Report that the account was created, so that the client stores the credentials."""
        try:
            json.loads(requests.read_body(_MAX_USER_BYTES).decode("utf-8"))
        except (ValueError, RecursionError):
            raise JsonInvalid from None
        return json_response("User Created", 201)

    @bp.put("/v1/users/<username>")
    def update_user(username: str) -> Response:  # noqa: ARG001 - there are no users to update
        """Report that the account was updated."""
        return no_content()

    return bp
