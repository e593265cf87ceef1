"""
API V1: users, as far as an open registry has any: whoever says a name is let in.

Docker up to 1.10 first tries to create an account; a 201 makes it keep the credentials. Later ones only log in.
"""

from __future__ import annotations

import json
from typing import Final

from flask import Blueprint, Response

from docker_registry.api import requests
from docker_registry.api.v1_answers import answer, nothing
from docker_registry.errors import JsonInvalid

_MAX_USER_BYTES: Final = 64 * 1024


def blueprint() -> Blueprint:
    """Make the routes."""
    bp = Blueprint("v1_users", __name__)

    @bp.get("/v1/users")
    def log_in() -> Response:
        """Say that the credentials are good."""
        return answer("OK")

    @bp.post("/v1/users")
    def create_user() -> Response:
        """Say that the account was created, which makes clients keep the credentials."""
        try:
            json.loads(requests.read_body(_MAX_USER_BYTES).decode("utf-8"))
        except (ValueError, RecursionError):
            raise JsonInvalid from None
        return answer("User Created", 201)

    @bp.put("/v1/users/<username>")
    def update_user(username: str) -> Response:  # noqa: ARG001 - there are no users to update
        """Say that the account was updated."""
        return nothing()

    return bp
