"""A registry of both APIs on one store, as the application assembles it, with all services in one place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

from docker_registry.drivers.base import StorageDriver
from docker_registry.registry.bridge.bridge import Bridge
from docker_registry.registry.layers.limits import LayerLimits
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.search.entries import SearchEntries
from docker_registry.registry.v1.files import DiffQueue
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.registry.v1.legacy_registry import LegacyRegistry
from docker_registry.services import Services

#: An application with its ``services``.
Opened = TypeVar("Opened", bound=Any)


class Registry(OciRegistry):
    """An OCI registry with the services of API V1 as further attributes."""

    def __init__(
        self,
        driver: StorageDriver,
        *,
        layer_limits: LayerLimits | None = None,
        upload_ttl_seconds: float = 7 * 24 * 3600,
        v1_platform: str = "linux/amd64",
        diff_queue: DiffQueue | None = None,
        now: Callable[[], float] = time.time,
        **options: Any,
    ) -> None:
        """
        Args:
            options: those of :class:`OciRegistry`.
        """
        super().__init__(driver, **options)
        reader = LayerReader(layer_limits)
        bridge = Bridge(self, reader, platform=v1_platform)
        self.legacy = LegacyRegistry(
            self, reader, bridge.images, upload_ttl_seconds=upload_ttl_seconds, diff_queue=diff_queue, now=now
        )
        bridge.connect(self.legacy)
        self.tokens = self.legacy.tokens
        self.images = self.legacy.images
        self.image_files = self.legacy.image_files
        self.image_repositories = self.legacy.image_repositories
        self.private_images = self.legacy.private_images
        self.image_pushes = self.legacy.image_pushes
        self.image_tags = self.legacy.image_tags
        self.image_tag_pushes = self.legacy.image_tag_pushes
        self.search_entries = SearchEntries(
            self.repositories, self.private_repositories, self.slices, self.image_repositories
        )


@contextmanager
def closing_services(open_one: Callable[..., Opened]) -> Iterator[Callable[..., Opened]]:
    """Yield a function that opens applications as *open_one* does, and close their services at the end."""
    with ExitStack() as opened:

        def open_and_keep(*args: Any, **options: Any) -> Opened:
            application = open_one(*args, **options)
            opened.callback(application.services.close)
            return application

        yield open_and_keep


def both_registries(services: Services) -> SimpleNamespace:
    """Return the services of both APIs of an application, in one place; ``sources`` are those of API V2."""
    return SimpleNamespace(**{**vars(services.require_legacy()), **vars(services.registry)})
