"""Routes outside the two APIs: banner, ping, status of services, health of the worker, metrics."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from typing import Final

import gevent
from flask import Blueprint, Response, request

from docker_registry.api.responses import json_response
from docker_registry.errors import RegistryError
from docker_registry.http.health import Health
from docker_registry.metrics.server_metrics import ServerMetrics

logger = logging.getLogger(__name__)

#: Time limit for the probes, which run concurrently.
_TIMEOUT_SECONDS: Final = 10.0

#: Checks a service; raises an error if it fails.
Probe = Callable[[], object]


def blueprint(
    *, flavor: str, version: str, v1: bool, probes: Mapping[str, Probe], standalone: str = "True"
) -> Blueprint:
    """
    Build the blueprint of the banner, the ping, and the status of services.

    Args:
        flavor: name of the configuration flavor in use.
        version: version of the registry.
        v1: whether to add the paths of API V1.
        probes: the check of each service that the registry needs, by the name of the service.
        standalone: whether API V1 needs no separate index: ``True``, ``False``, or ``mirror``.
    """
    bp = Blueprint("status", __name__)

    @bp.get("/")
    def show_banner() -> Response:
        """Return name, flavor and version."""
        return json_response(f"docker-registry server ({flavor}) (v{version})")

    @bp.get("/_ping")
    def ping() -> Response:
        """Confirm that the registry is running, and tell whether it needs a separate index."""
        return json_response(True, headers={"X-Docker-Registry-Standalone": standalone})

    @bp.get("/_status")
    def show_status() -> Response:
        """
        Check all services concurrently, with real operations, and return the result; status 503 if one fails.

        The body is ``{"host": …, "services": ["storage", …], "failures": {"storage": "The store failed."}}``.
        """
        failures = _try_all(probes)
        document = {"host": socket.gethostname(), "services": sorted(probes), "failures": failures}
        return json_response(document, 503 if failures else 200)

    if v1:
        bp.add_url_rule("/v1/_ping", view_func=ping)
        bp.add_url_rule("/v1/_status", view_func=show_status)
    return bp


def health_blueprint(health: Health) -> Blueprint:
    """
    Build the blueprint of the checks by orchestrators and load balancers.

    They need no credentials, and are not logged at level info.
    """
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


def metrics_blueprint(metrics: ServerMetrics) -> Blueprint:
    """Build the blueprint of the metrics on the main port."""
    bp = Blueprint("metrics", __name__)

    @bp.get("/metrics")
    def show_metrics() -> Response:
        """Return the metrics of all workers, in the format of Prometheus or OpenMetrics."""
        content, content_type = metrics.scrape(request.headers.get("Accept", ""))
        return Response(content, content_type=content_type)

    return bp


def _try_all(probes: Mapping[str, Probe]) -> dict[str, str]:
    """Return the failures by service."""
    attempts = {name: gevent.spawn(_try, name, probe) for name, probe in probes.items()}
    gevent.joinall(list(attempts.values()), timeout=_TIMEOUT_SECONDS)
    failures = {}
    for name, attempt in attempts.items():
        reason = attempt.value if attempt.ready() else f"no answer within {_TIMEOUT_SECONDS:.0f} seconds"
        attempt.kill(block=False)
        if reason:
            failures[name] = reason
    return failures


def _try(name: str, probe: Probe) -> str | None:
    """Return the failure of a service; None if the probe succeeds."""
    try:
        probe()
    except RegistryError as error:
        return error.sentence
    except Exception:
        logger.exception("the check of %s failed", name)
        return "it failed; see the registry log"
    return None
