"""Keeping a search index up to date, beside the pushes and never in their way."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from blinker import ANY

from docker_registry.errors import StorageUnavailable
from docker_registry.registry import events
from docker_registry.registry.names import RepositoryName
from docker_registry.registry.search.index import LookUp, SearchIndex

logger = logging.getLogger(__name__)

#: Names that may wait while the index is away; what comes beyond is found after a reindexing.
_MAX_WAITING: Final = 10_000


class SearchUpdates:
    """
    Tells an index of every repository to which something happened.

    A signal only notes a name, which takes microseconds; one thread (a greenlet in a worker) asks the store what is
    true by now and tells the index that. So neither the order of events nor their number matters, and an index that is
    away for a while learns everything later. The thread lives as long as names wait.

    The first event of a repository is told at once, those that follow closely together: what is pushed to all the time
    would otherwise cost as much here as the pushes themselves.
    """

    def __init__(
        self, index: SearchIndex, look_up: LookUp, *, rest_seconds: float = 0.25, retry_seconds: float = 5.0
    ) -> None:
        """
        Args:
            look_up: asks the store about a repository.
            rest_seconds: so long after a repository was told nothing more of it is.
            retry_seconds: the pause after the index or the store could not be reached.
        """
        self._index = index
        self._look_up = look_up
        self._rest_seconds = rest_seconds
        self._retry_seconds = retry_seconds
        self._names: dict[str, None] = {}  # a set that keeps its order
        self._rests: dict[str, float] = {}  # until when, on the monotonic clock; the first to end comes first
        self._hurry = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failing = False

    def connect(self, sender: object = ANY) -> None:
        """
        Listen from now on, as long as this object lives.

        Args:
            sender: the storage driver of the registry whose events count; by default all do.
        """
        events.repository_created.connect(self._on_event, sender)
        events.repository_updated.connect(self._on_event, sender)
        events.repository_deleted.connect(self._on_event, sender)
        # A repository that an index lost, or never knew, comes back with its next push.
        events.tag_created.connect(self._on_event, sender)

    def note(self, name: str) -> None:
        """Let the index be told about a repository soon."""
        if name in self._names:  # of which nobody has taken it yet, so it will be looked up after this
            return
        with self._lock:
            if len(self._names) >= _MAX_WAITING:
                return
            self._names[name] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._tell_all, name="search-updates", daemon=True)
                self._thread.start()

    def flush(self, timeout_seconds: float = 10.0) -> bool:
        """
        Wait until the index has been told of everything.

        Returns:
            Whether it has; otherwise the time is over, and names still wait.
        """
        deadline = time.monotonic() + timeout_seconds
        self._hurry.set()
        while (thread := self._thread) and time.monotonic() < deadline:
            thread.join(deadline - time.monotonic())
        self._hurry.clear()
        return self._thread is None

    def _on_event(self, _sender: object, *, name: RepositoryName, **_: object) -> None:
        self.note(str(name))

    def _tell_all(self) -> None:
        while (next_ := self._next()) is not None:
            name, seconds = next_
            if name is None:
                self._hurry.wait(seconds)
            elif not self._tell(name):
                with self._lock:
                    self._names[name] = None
                time.sleep(self._retry_seconds)

    def _next(self) -> tuple[str | None, float] | None:
        """Take the next name, or tell for how many seconds all of them rest; None where none waits any more."""
        now = time.monotonic()
        with self._lock:
            for name in [name for name, end in self._rests.items() if end <= now or self._hurry.is_set()]:
                del self._rests[name]
            for name in self._names:
                if name not in self._rests:
                    del self._names[name]
                    self._rests[name] = now + self._rest_seconds
                    return name, 0.0
            if not self._names:
                self._thread = None
                return None
            return None, min(self._rests[name] for name in self._names) - now

    def _tell(self, name: str) -> bool:
        """Tell the index about one repository; False when that must be tried again."""
        try:
            entry = self._look_up(name)
            if entry is None:
                self._index.delete(name)
            else:
                self._index.put(entry)
        except StorageUnavailable as error:
            if not self._failing:
                logger.warning("the search index is behind, and will catch up: %s", error)
            self._failing = True
            return False
        except Exception:  # the index may be anybody's, and no push may hear of it
            logger.warning("the search index was not told about %s", name, exc_info=True)
        if self._failing:
            logger.info("the search index catches up")
        self._failing = False
        return True
