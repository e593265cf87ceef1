"""What answers whatever API is asked for: that the registry is there, and how it is."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from typing import Final

import gevent
from flask import Blueprint, Response

from docker_registry.api.v1_answers import answer
from docker_registry.errors import RegistryError

logger = logging.getLogger(__name__)

#: How long all services together may take to answer.
_TIMEOUT_SECONDS: Final = 10.0

#: Tries a service out; raises what is wrong with it.
Probe = Callable[[], object]


def blueprint(*, flavor: str, version: str, v1: bool, probes: Mapping[str, Probe]) -> Blueprint:
    """
    Make the routes.

    Args:
        flavor: the configuration that runs.
        version: the registry's.
        v1: whether the paths of API V1 are there too.
        probes: what tries out each service that the registry needs.
    """
    bp = Blueprint("status", __name__)

    @bp.get("/")
    def show_banner() -> Response:
        """Say what this is."""
        return answer(f"docker-registry server ({flavor}) (v{version})")

    @bp.get("/_ping")
    def ping() -> Response:
        """Say that the registry is there, and that it needs no index beside it."""
        return answer(True, headers={"X-Docker-Registry-Standalone": "True"})

    @bp.get("/_status")
    def show_status() -> Response:
        """Try out every service at the same time, by a real write and read; 503 when one fails."""
        failures = _try_all(probes)
        document = {"host": socket.gethostname(), "services": sorted(probes), "failures": failures}
        return answer(document, 503 if failures else 200)

    if v1:
        bp.add_url_rule("/v1/_ping", view_func=ping)
        bp.add_url_rule("/v1/_status", view_func=show_status)
    return bp


def _try_all(probes: Mapping[str, Probe]) -> dict[str, str]:
    """Return what is wrong with which service."""
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
    """Return what is wrong with a service; None when nothing is."""
    try:
        probe()
    except RegistryError as error:
        return error.sentence
    except Exception:
        logger.exception("the service %s failed", name)
        return "it failed; the log says more"
    return None
