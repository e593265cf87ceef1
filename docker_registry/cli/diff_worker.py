"""``docker-registry diff-worker``: compute the diffs of images that are queued in Redis."""

from __future__ import annotations

import argparse
import logging
import signal
import time
from typing import TYPE_CHECKING, Final

from docker_registry.cli.command import Command, load_store_config
from docker_registry.errors import ConfigError, RegistryError, StorageUnavailable

if TYPE_CHECKING:
    from docker_registry.registry.read_only import ReadOnly
    from docker_registry.registry.v1.diff_queue import RedisDiffQueue
    from docker_registry.registry.v1.files import ImageFiles

logger = logging.getLogger(__name__)

#: How long a worker waits for an image before it checks whether it was stopped.
_WAIT_SECONDS: Final = 2

#: The pause after Redis or the store was unreachable.
_RETRY_SECONDS: Final = 5.0


def run(_: argparse.Namespace) -> int:
    """
    Compute the diffs that are queued in Redis, until SIGTERM or SIGINT arrives.

    Raises:
        ConfigError: no Redis is configured.
    """
    from docker_registry import services
    from docker_registry.logs.setup import start_logging

    config = load_store_config()
    with services.build(config, v1=True) as built:
        if built.diff_queue is None:
            raise ConfigError("cache.host is not set: without Redis, a diff is computed when a client asks for it.")
        start_logging(config.loglevel, config.log_format)
        worker = DiffWorker(built.require_legacy().image_files, built.diff_queue, built.read_only)
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, lambda *_: worker.stop())
        worker.run()
    return 0


class DiffWorker:
    """Takes images from the queue and computes their diffs, one at a time, unless the registry is read-only."""

    def __init__(self, image_files: ImageFiles, queue: RedisDiffQueue, read_only: ReadOnly) -> None:
        self._image_files = image_files
        self._queue = queue
        self._read_only = read_only
        self._is_stopped = False

    def stop(self) -> None:
        """Make :meth:`run` return after the diff in progress."""
        self._is_stopped = True

    def run(self) -> None:
        """Process the queue until :meth:`stop` is called; pause and retry when Redis or the store is unavailable."""
        while not self._is_stopped:
            self._read_only.refresh()
            if self._read_only.is_on:
                time.sleep(_WAIT_SECONDS)
                continue
            try:
                self._compute_next()
            except StorageUnavailable as error:
                logger.warning("retrying in %.0f seconds: %s", _RETRY_SECONDS, error)
                time.sleep(_RETRY_SECONDS)

    def _compute_next(self) -> None:
        image_id = self._queue.pop(_WAIT_SECONDS)
        if image_id is None:
            return
        try:
            self._image_files.compute_diff(image_id)
        except StorageUnavailable:
            self._queue.push(image_id)
            raise
        except RegistryError as error:
            logger.warning("the diff of image %s failed: %s", image_id, error)
        else:
            logger.info("computed the diff of image %s", image_id)


COMMAND: Final = Command("diff-worker", "compute the diffs of images that are queued in Redis", run)
