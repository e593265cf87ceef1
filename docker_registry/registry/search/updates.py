"""Asynchronous updates of the search index: a push never waits for the index and never fails because of it."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from blinker import ANY

from docker_registry.concurrency import deadline
from docker_registry.errors import StorageUnavailable
from docker_registry.registry import events
from docker_registry.registry.names import RepositoryName
from docker_registry.registry.search.index import LookUp, SearchIndex
from docker_registry.registry.search.missed_updates import MissedUpdates

logger = logging.getLogger(__name__)

#: Names that may be queued while the index is unavailable. Further ones are dropped, and the index is rebuilt.
_MAX_WAITING: Final = 10_000


class SearchUpdates:
    """
    Updates an index after every event of a repository.

    A signal handler only queues the name, which takes microseconds. One thread (a greenlet in a worker) reads the
    current state from the store and writes that to the index. So neither the order nor the number of events matters,
    and an index that was unavailable catches up later. A note in the store has the index rebuilt if the worker ends
    before that, or if names exceeded the limit of the queue. The thread lives as long as names are queued.

    The first event of a repository updates the index at once; events that follow closely are combined into one update.
    Otherwise a repository with constant pushes would cost as much here as the pushes themselves.

    Attributes:
        missed: the notes that the index lacks changes.
        updates, failures: number of updates that were tried, and that failed.
    """

    def __init__(
        self,
        index: SearchIndex,
        look_up: LookUp,
        missed: MissedUpdates,
        *,
        min_interval_seconds: float = 0.25,
        retry_seconds: float = 5.0,
    ) -> None:
        """
        Args:
            look_up: reads the entry of a repository from the store.
            missed: the notes that the index lacks changes.
            min_interval_seconds: the shortest time between two updates of one repository.
            retry_seconds: the pause after the index or the store could not be reached.
        """
        self._index = index
        self._look_up = look_up
        self.missed = missed
        self._min_interval_seconds = min_interval_seconds
        self._retry_seconds = retry_seconds
        self._names: dict[str, None] = {}  # an ordered set
        self._paused_until: dict[str, float] = {}  # name -> monotonic time of its next update, the earliest first
        self._flushing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failing = False
        self._is_dropping = False  # whether a name was dropped since the queue was last empty
        self.updates = 0
        self.failures = 0

    @property
    def pending(self) -> int:
        """The number of queued updates."""
        return len(self._names)

    def connect(self, sender: object = ANY) -> None:
        """
        Subscribe to the events of repositories for as long as this object lives.

        Args:
            sender: the storage driver of the registry to listen to; by default all registries.
        """
        events.repository_created.connect(self._on_event, sender)
        events.repository_updated.connect(self._on_event, sender)
        events.repository_deleted.connect(self._on_event, sender)
        # Restores a repository that the index has lost or never had, with its next push.
        events.tag_created.connect(self._on_event, sender)

    def queue(self, name: str) -> None:
        """Queue an update of a repository."""
        if name in self._names:  # still queued, so the lookup will see this change
            return
        with self._lock:
            if len(self._names) >= _MAX_WAITING:
                if not self._is_dropping:
                    logger.warning("the search index misses changes, too many are queued; it will be rebuilt")
                self._is_dropping = True
                return
            self._names[name] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="search-updates", daemon=True)
                self._thread.start()

    def flush(self, timeout_seconds: float = 10.0) -> bool:
        """
        Write all queued updates without a pause between them, and wait for that.

        Returns:
            True when the queue is empty; False when the timeout expired first.
        """
        deadline = time.monotonic() + timeout_seconds
        self._flushing.set()
        while (thread := self._thread) and time.monotonic() < deadline:
            thread.join(deadline - time.monotonic())
        self._flushing.clear()
        return self._thread is None

    def finish(self, timeout_seconds: float = 2.0) -> None:
        """
        Write all queued updates before the process ends; those that take longer are noted as missed.

        Args:
            timeout_seconds: time limit for the updates; in a worker also for the note, as the store may not respond.
        """
        if self._thread is not None and (self._failing or not self.flush(timeout_seconds)):
            try:
                with deadline(timeout_seconds):
                    self.missed.note()
            except TimeoutError:
                logger.warning("the search index may lack changes, and the store could not record that in time")

    def _on_event(self, _sender: object, *, name: RepositoryName, **_: object) -> None:
        self.queue(str(name))

    def _run(self) -> None:
        while (item := self._next()) is not None:
            name, seconds = item
            if name is None:
                self._flushing.wait(seconds)
            elif not self._update(name):
                self.missed.note()
                with self._lock:
                    self._names[name] = None
                time.sleep(self._retry_seconds)
            elif self._is_dropping:
                self.missed.note()
                if not self._names:
                    self.missed.leave()
            elif not self._names:
                self.missed.settle()

    def _next(self) -> tuple[str | None, float] | None:
        """Take the next name; ``(None, seconds)`` while all queued names must wait; None when the queue is empty."""
        now = time.monotonic()
        with self._lock:
            for name in [name for name, end in self._paused_until.items() if end <= now or self._flushing.is_set()]:
                del self._paused_until[name]
            for name in self._names:
                if name not in self._paused_until:
                    del self._names[name]
                    self._paused_until[name] = now + self._min_interval_seconds
                    return name, 0.0
            if not self._names:
                self._is_dropping = False
                self._thread = None
                return None
            return None, min(self._paused_until[name] for name in self._names) - now

    def _update(self, name: str) -> bool:
        """Update one repository in the index; return False when that must be retried."""
        self.updates += 1
        try:
            entry = self._look_up(name)
            if entry is None:
                self._index.delete(name)
            else:
                self._index.put(entry)
        except StorageUnavailable as error:
            self.failures += 1
            if not self._failing:
                logger.warning("the search index is out of date and will be updated: %s", error)
            self._failing = True
            return False
        except Exception:  # a third-party index may raise anything; one bad name must not end the thread
            self.failures += 1
            logger.warning("the search index missed the change of %s", name, exc_info=True)
            return True
        if self._failing:
            logger.info("the search index is updated again")
        self._failing = False
        return True
