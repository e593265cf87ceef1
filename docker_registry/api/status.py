"""What answers whatever API is asked for: that the registry is there, and how it is."""

from __future__ import annotations

from flask import Blueprint, Response

from docker_registry.api.v1_answers import answer


def blueprint(*, flavor: str, version: str) -> Blueprint:
    """
    Make the routes.

    Args:
        flavor: the configuration that runs.
        version: the registry's.
    """
    bp = Blueprint("status", __name__)

    @bp.get("/")
    def show_banner() -> Response:
        """Say what this is."""
        return answer(f"docker-registry server ({flavor}) (v{version})")

    @bp.get("/_ping")
    @bp.get("/v1/_ping")
    def ping() -> Response:
        """Say that the registry is there, and that it needs no index beside it."""
        return answer(True, headers={"X-Docker-Registry-Standalone": "True"})

    return bp
