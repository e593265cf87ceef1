"""Routes outside the two APIs: banner, ping, and health status."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from typing import Final

import gevent
from flask import Blueprint, Response

from docker_registry.api.responses import json_response
from docker_registry.errors import RegistryError

logger = logging.getLogger(__name__)

#: Time limit for the probes, which run concurrently.
_TIMEOUT_SECONDS: Final = 10.0

#: Checks a service; raises an error if it fails.
Probe = Callable[[], object]


def blueprint(
    *, flavor: str, version: str, v1: bool, probes: Mapping[str, Probe], standalone: str = "True"
) -> Blueprint:
    """
    Build the blueprint.

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
