"""A worker with short timeouts, for tests of what happens when they expire."""

from __future__ import annotations

from docker_registry.server.worker import RegistryWorker


class ImpatientWorker(RegistryWorker):
    silence_seconds = 1
    stalled_seconds = 2
