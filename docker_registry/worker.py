"""Documented name of the gunicorn worker: ``-k docker_registry.worker.RegistryWorker``."""

from __future__ import annotations

from docker_registry.server.worker import RegistryWorker

__all__ = ["RegistryWorker"]
