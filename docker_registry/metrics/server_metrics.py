"""The metrics of a server, as one of its workers sees them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import gevent

from docker_registry.http.exchange import Exchange
from docker_registry.metrics.exposition import expose
from docker_registry.metrics.recorder import Recorder
from docker_registry.metrics.shared import SharedNumbers

logger = logging.getLogger(__name__)

#: Time between two publications of a worker's numbers.
PUBLISH_SECONDS: Final = 1.0


class ServerMetrics:
    """Records the exchanges of this worker, publishes them, and sums those of all workers; an observer."""

    def __init__(self, folder: Path | None, gauges: Callable[[], Mapping[str, float]]) -> None:
        """
        Args:
            folder: shared by the workers of a server; None if there is one worker.
            gauges: returns the gauges of this worker.
        """
        self._recorder = Recorder()
        self._shared = None if folder is None else SharedNumbers(folder)
        self._gauges = gauges

    def __call__(self, exchange: Exchange) -> None:
        """Count an exchange."""
        self._recorder(exchange)

    def publish_forever(self) -> None:
        """Publish the numbers of this worker every second; the body of a greenlet."""
        while True:
            self.publish()
            gevent.sleep(PUBLISH_SECONDS)

    def publish(self) -> None:
        """Publish the numbers of this worker."""
        if self._shared is None:
            return
        try:
            self._shared.publish(self._recorder.series, self._gauges())
        except OSError as error:
            logger.warning("the metrics of this worker cannot be published: %s", error)

    def close(self) -> None:
        """Publish the last numbers."""
        self.publish()

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """
        Return the metrics of the server and their content type.

        Args:
            accept: the header of the request.
        """
        if self._shared is None:
            return expose(self._recorder.series, self._gauges(), 1, accept)
        self.publish()
        return expose(*self._shared.total(), accept)
