"""The worker with little patience, for tests of what it does when that is over."""

from __future__ import annotations

from docker_registry.server.worker import RegistryWorker


class ImpatientWorker(RegistryWorker):
    silence_seconds = 1
    stalled_seconds = 2
