"""The route of the metrics on the main port."""

from __future__ import annotations

from flask import Blueprint, Response, request

from docker_registry.metrics.server_metrics import ServerMetrics


def blueprint(metrics: ServerMetrics) -> Blueprint:
    """Build the blueprint."""
    bp = Blueprint("metrics", __name__)

    @bp.get("/metrics")
    def show_metrics() -> Response:
        """Return the metrics of all workers, in the format of Prometheus or OpenMetrics."""
        content, content_type = metrics.scrape(request.headers.get("Accept", ""))
        return Response(content, content_type=content_type)

    return bp
