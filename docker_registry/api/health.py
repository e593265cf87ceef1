"""Routes by which orchestrators and load balancers check a worker; without credentials, and not logged at info."""

from __future__ import annotations

from flask import Blueprint, Response

from docker_registry.api.responses import json_response
from docker_registry.http.health import Health


def blueprint(health: Health) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("health", __name__)

    @bp.get("/livez")
    def show_liveness() -> Response:
        """Confirm that the worker answers requests; touches neither the store nor another service."""
        return json_response({"status": "alive"})

    @bp.get("/readyz")
    def show_readiness() -> Response:
        """
        Return whether requests should be sent here; status 503 if not.

        The body is ``{"status": "ready"}`` or ``{"status": "not ready", "problems": {"storage": "…"}}``.
        """
        problems = health.problems()
        if problems:
            return json_response({"status": "not ready", "problems": problems}, 503)
        return json_response({"status": "ready"})

    @bp.get("/startupz")
    def show_startup() -> Response:
        """Return whether the store could be read once since the worker was started; status 503 if not."""
        return (
            json_response({"status": "started"}) if health.has_started else json_response({"status": "starting"}, 503)
        )

    @bp.get("/debug/health")
    def show_problems() -> Response:
        """Return the failed checks by name, as the CNCF distribution registry does; status 503 if there are any."""
        problems = health.problems()
        return json_response(problems, 503 if problems else 200)

    return bp
