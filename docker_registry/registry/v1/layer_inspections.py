"""
Background inspection of layers pushed by API V1, before API V2 needs their diff_ids.

This is only an optimization: a layer that is dropped here or lost in a crash is inspected when it is needed.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import gevent
from gevent import monkey

from docker_registry.concurrency import ignoring_client
from docker_registry.errors import Overloaded, RegistryError
from docker_registry.registry.names import ImageId
from docker_registry.registry.v1.images import Images

logger = logging.getLogger(__name__)

#: Maximum queued images; the oldest are dropped.
_MAX_WAITING: Final = 1000

_PAUSE_SECONDS: Final = 5.0


class LayerInspections:
    """Inspects layers one at a time."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._waiting: deque[ImageId] = deque(maxlen=_MAX_WAITING)
        self._is_running = False

    def add(self, image_id: ImageId) -> None:
        """Queue the layer of an image for inspection; without an event loop, inspect it immediately."""
        if not monkey.is_module_patched("threading"):
            self._inspect(image_id)
            return
        self._waiting.append(image_id)
        if not self._is_running:
            self._is_running = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            with ignoring_client():
                while self._waiting:
                    self._inspect(self._waiting.popleft())
        finally:
            self._is_running = False

    def _inspect(self, image_id: ImageId) -> None:
        try:
            self._images.inspect_layer(image_id)
        except Overloaded:
            gevent.sleep(_PAUSE_SECONDS)
        except RegistryError as error:
            logger.warning("the layer of image %s was not inspected: %s", image_id, error)
