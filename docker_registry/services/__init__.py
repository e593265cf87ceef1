"""Builds a registry from its configuration: the one place that assembles its parts."""

from docker_registry.services.access import has_access_control, open_privileged_key, open_tokens
from docker_registry.services.reporting import error_reporters
from docker_registry.services.services import Services, build, import_modules
from docker_registry.services.store import open_diff_queue, open_driver, open_store, search_database, storage_folder

__all__ = [
    "Services",
    "build",
    "error_reporters",
    "has_access_control",
    "import_modules",
    "open_diff_queue",
    "open_driver",
    "open_privileged_key",
    "open_store",
    "open_tokens",
    "search_database",
    "storage_folder",
]
