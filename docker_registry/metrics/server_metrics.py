"""The metrics of a server, as one of its workers sees them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import gevent
from gevent.lock import Semaphore

from docker_registry.concurrency import run_in_thread
from docker_registry.http.exchange import Exchange, Repetitions
from docker_registry.metrics.busiest import RepositoryCounts
from docker_registry.metrics.exposition import expose
from docker_registry.metrics.families import OPEN_UPLOADS, unfinished
from docker_registry.metrics.numbers import Numbers
from docker_registry.metrics.recorder import CachedSeries, Recorder, count_repeated
from docker_registry.metrics.shared import SharedNumbers

logger = logging.getLogger(__name__)

#: Time between two publications of a worker's numbers.
PUBLISH_SECONDS: Final = 1.0

#: How long a worker that ends waits for a publication in progress.
_CLOSE_SECONDS: Final = 1.0


class ServerMetrics:
    """Records the exchanges of this worker, publishes them, and sums those of all workers; an observer."""

    def __init__(
        self, folder: Path | None, collect: Callable[[Numbers], object], *, by_repository: bool = False
    ) -> None:
        """
        Args:
            folder: shared by the workers of a server; None if there is one worker.
            collect: adds what the parts of this worker have counted; it first delivers the exchanges that are waiting.
            by_repository: whether pulls and pushes are counted by repository.
        """
        self._recorder = Recorder()
        self._repositories = RepositoryCounts() if by_repository else None
        self._shared = None if folder is None else SharedNumbers(folder)
        self._collect = collect
        self._open_uploads: tuple[float, float] | None = None
        # A scrape takes a while, and a worker has few native threads, which writes of the store need too.
        self._scraping = Semaphore(1)
        self._publisher: gevent.Greenlet[[], None] | None = None

    def __call__(self, exchange: Exchange) -> None:
        """Count an exchange."""
        self._recorder(exchange)
        if self._repositories is not None:
            self._repositories(exchange)

    def prepare(self, exchange: Exchange) -> tuple[CachedSeries, int, Exchange]:
        """See :class:`~docker_registry.http.exchange.BatchObserver`."""
        return self._recorder.cached_series(exchange), exchange.bytes_out, exchange

    def observe_repeated(self, prepared: Sequence[tuple[CachedSeries, int, Exchange]], repeated: Repetitions) -> None:
        """Count exchanges that were answered from the response cache."""
        count_repeated([each[0] for each in prepared], [each[1] for each in prepared], repeated.seconds)
        if self._repositories is not None:
            for _, _, exchange in prepared:
                self._repositories(exchange)

    def start(self) -> None:
        """Publish the numbers of this worker every second, in a greenlet."""
        if self._publisher is None:
            self._publisher = gevent.spawn(self._publish_forever)

    def close(self) -> None:
        """Publish the last numbers."""
        if self._publisher is not None and self._shared is not None:
            self._publisher.kill(timeout=_CLOSE_SECONDS)
            _publish(self._shared, self._numbers())

    def record_open_uploads(self, count: int) -> None:
        """Record how many open uploads a purge found and kept."""
        total, _ = run_in_thread(self._total, self._numbers())
        self._open_uploads = (time.time(), count - unfinished(total.counters))

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """
        Return the metrics of the server and their content type; one scrape at a time.

        Args:
            accept: the header of the request.
        """
        with self._scraping:
            return run_in_thread(self._scrape, self._numbers(), accept)

    def _numbers(self) -> Numbers:
        """Return a copy of the numbers of this worker, for a thread."""
        numbers = Numbers()
        self._collect(numbers)  # before the exchanges are read, because it delivers the last ones
        numbers.series = {labels: row.copy() for labels, row in self._recorder.series.items()}
        if self._repositories is not None:
            numbers.repositories = self._repositories.snapshot()
        if self._open_uploads is not None:
            numbers.latest[OPEN_UPLOADS.name] = self._open_uploads
        return numbers

    def _publish_forever(self) -> None:
        while self._shared is not None:
            run_in_thread(_publish, self._shared, self._numbers())
            gevent.sleep(PUBLISH_SECONDS)

    def _scrape(self, numbers: Numbers, accept: str) -> tuple[bytes, str]:
        return expose(*self._total(numbers), accept)

    def _total(self, numbers: Numbers) -> tuple[Numbers, int]:
        return (numbers, 1) if self._shared is None else self._shared.total(numbers)


def _publish(shared: SharedNumbers, numbers: Numbers) -> None:
    try:
        shared.publish(numbers)
    except OSError as error:
        logger.warning("the metrics of this worker cannot be published: %s", error)
