"""What is done around serving, by commands: each says what it did, and may be interrupted and repeated."""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import Final, TextIO

from docker_registry import app
from docker_registry.config import Config
from docker_registry.errors import ConfigError, RegistryError, StorageUnavailable
from docker_registry.logs import start_logging
from docker_registry.registry import Registry
from docker_registry.registry.search.index import NullIndex
from docker_registry.registry.v1.diff_queue import RedisDiffQueue
from docker_registry.registry.v1.migration import Migration, Report

logger = logging.getLogger(__name__)

#: Exit status when something is left to be done.
INCOMPLETE: Final = 1

_BAR_WIDTH: Final = 40

#: How long a worker waits for something to do before it asks whether it is to stop.
_WAIT_SECONDS: Final = 2

#: The pause after Redis or the store could not be reached.
_RETRY_SECONDS: Final = 5.0


def migrate(config: Config, *, dry_run: bool) -> int:
    """Make the raw layers of old registries blobs, and report."""
    registry = app.create_registry(config)
    bar = ProgressBar(sys.stderr)
    report = Migration(registry.driver, registry.images, dry_run=dry_run).run(bar.show)
    bar.end()
    for line in _lines(report, dry_run=dry_run):
        print(line)
    return INCOMPLETE if report.failed else 0


def reindex(config: Config) -> int:
    """Rebuild the search index from the store, and find private repositories."""
    registry = app.create_registry(config)
    print(f"{registry.visibility.adopt()} private repositories")
    index = app.create_search(config, registry)
    if isinstance(index, NullIndex):
        print("there is no search index: search_backend is not set")
        return 0
    try:
        print(f"{index.reindex(registry.search_entries.all())} repositories in the search index")
    finally:
        index.close()
    return 0


def work_out_diffs(config: Config) -> int:
    """
    Work out the diffs that wait in Redis, until SIGTERM or SIGINT.

    Raises:
        ConfigError: there is no Redis.
    """
    queue = app.create_diff_queue(config)
    if queue is None:
        raise ConfigError("cache.host is not set: without a Redis diffs are worked out when somebody asks for them.")
    start_logging(config.loglevel)
    worker = DiffWorker(app.create_registry(config), queue)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
    return 0


class ProgressBar:
    """One line that grows, on a terminal; nothing elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_shown = stream.isatty()

    def show(self, done: int, of: int) -> None:
        """Say how far it is."""
        if self._is_shown:
            filled = _BAR_WIDTH * done // max(of, 1)
            self._stream.write(f"\r[{'#' * filled}{' ' * (_BAR_WIDTH - filled)}] {done} of {of} images")
            self._stream.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._is_shown:
            self._stream.write("\n")


class DiffWorker:
    """Takes images from the queue and works out their diffs, one after the other."""

    def __init__(self, registry: Registry, queue: RedisDiffQueue) -> None:
        self._registry = registry
        self._queue = queue
        self._is_stopped = False

    def stop(self) -> None:
        """Let :meth:`run` end after what is under way."""
        self._is_stopped = True

    def run(self) -> None:
        """Work until stopped."""
        while not self._is_stopped:
            try:
                self._work()
            except StorageUnavailable as error:
                logger.warning("tried again in %.0f seconds: %s", _RETRY_SECONDS, error)
                time.sleep(_RETRY_SECONDS)

    def _work(self) -> None:
        image_id = self._queue.pop(_WAIT_SECONDS)
        if image_id is None:
            return
        try:
            self._registry.image_files.work_out_diff(image_id)
        except StorageUnavailable:
            self._queue.push(image_id)
            raise
        except RegistryError as error:
            logger.warning("there is no diff of image %s: %s", image_id, error)
        else:
            logger.info("worked out the diff of image %s", image_id)


def _lines(report: Report, *, dry_run: bool) -> list[str]:
    would = "would become" if dry_run else "became"
    lines = [
        f"{report.migrated} layers {would} blobs ({report.migrated_bytes} bytes; {report.shared} were stored already)",
        f"{report.blobs} layers were blobs before",
        f"{len(report.unfinished)} images have to be pushed again: the push did not end, or the layer is damaged",
        *(f"  {image_id}" for image_id in report.unfinished),
        f"{len(report.without_layer)} images have no layer",
        *(f"  {image_id}" for image_id in report.without_layer),
    ]
    if report.failed:
        lines.append(f"{len(report.failed)} images could not be migrated; run this again")
        lines += [f"  {image_id}: {why}" for image_id, why in report.failed.items()]
    return lines
