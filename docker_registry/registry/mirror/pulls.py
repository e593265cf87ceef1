"""
When mirrored content was last pulled, for eviction.

The modification time of a link is the time of the last pull, to about ten minutes, or a quarter of the age at which
content is evicted: pulls are collected in memory, and written from time to time. A request never waits for that.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import DigestInvalid, ImageUnknown, NameInvalid, PathNotFound, RegistryError
from docker_registry.registry import layout
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.names import Digest, ImageId, RepositoryName
from docker_registry.registry.read_only import ReadOnly

logger = logging.getLogger(__name__)

#: Time between two writes of collected pulls.
FLUSH_SECONDS: Final = 30.0

#: How old the recorded time of the last pull may be before a further pull is recorded: this long, and at most this part
#: of the age at which content is evicted.
PRECISION_SECONDS: Final = 600.0
_PRECISION_OF_MAX_AGE: Final = 0.25

#: The same for a blob that is being sent.
_SENDING_SECONDS: Final = 60.0

#: Links that are remembered until the next flush; further pulls are not recorded.
_MAX_PULLED: Final = 20_000

#: Memory for links whose last record is known.
_RECORDED_BYTES: Final = 4 * 1024 * 1024


class Pulls:
    """
    The last pulls of mirrored content, as far as this process knows them.

    Attributes:
        image_links: returns the files whose modification times are those of the last pull of an image of API V1; None
            where no images are mirrored.
    """

    def __init__(
        self,
        driver: StorageDriver,
        is_mirrored: Callable[[str], bool],
        read_only: ReadOnly,
        *,
        max_age_seconds: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            is_mirrored: returns whether a repository of this name mirrors another one.
            read_only: while writes are refused, pulls are not recorded.
            max_age_seconds: time after its last pull at which content is evicted; None for no limit.
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._is_mirrored = is_mirrored
        self._read_only = read_only
        self._now = now
        self._precision_seconds = PRECISION_SECONDS
        if max_age_seconds is not None:
            self._precision_seconds = min(PRECISION_SECONDS, _PRECISION_OF_MAX_AGE * max_age_seconds)
        self.image_links: Callable[[ImageId], Iterable[str]] | None = None
        self._pulled: dict[str, None] = {}  # in the order of the pulls
        self._recorded: BoundedCache[str, float] = BoundedCache(_RECORDED_BYTES)
        self._sending: Counter[str] = Counter()

    def add(self, repository: str, digest: str, *, is_manifest: bool) -> None:
        """
        Record a pull, in memory; called for every request on the event loop.

        Args:
            repository, digest: as in a response that had the content; others are ignored.
        """
        if len(self._pulled) < _MAX_PULLED and self._is_mirrored(repository):
            self._pulled[f"{'m' if is_manifest else 'b'}{repository}@{digest}"] = None

    def add_image(self, image_id: str) -> None:
        """Record a pull of an image of API V1, as :meth:`add` does."""
        if len(self._pulled) < _MAX_PULLED and self.image_links is not None:
            self._pulled[f"i{image_id}"] = None

    def sending(self, repository: str, digest: str) -> AbstractContextManager[None]:
        """Count a blob as being sent while the context is entered."""
        return self._counting(f"b{repository}@{digest}")

    def sending_image(self, image_id: str) -> AbstractContextManager[None]:
        """Count the layer of an image of API V1 as being sent while the context is entered."""
        return self._counting(f"i{image_id}")

    @contextmanager
    def _counting(self, key: str) -> Iterator[None]:
        self._sending[key] += 1
        try:
            yield
        finally:
            self._sending[key] -= 1
            if not self._sending[key]:
                del self._sending[key]

    def is_sending(self, digest: Digest) -> bool:
        """Return whether this process is sending a blob."""
        return any(key.endswith(f"@{digest}") for key in self._sending)

    def is_sending_image(self, image_id: ImageId) -> bool:
        """Return whether this process is sending the layer of an image of API V1."""
        return f"i{image_id}" in self._sending

    def flush(self) -> None:
        """
        Write the pulls that are in progress, and those since the last flush; stop while the registry is read-only.

        Raises:
            StorageError: the store failed. The pulls that were not written stay for the next flush, which begins with
                those after the one that failed.
        """
        for key in list(self._sending):
            self._write(key, _SENDING_SECONDS)
        pulled, self._pulled = list(self._pulled), {}
        for position, key in enumerate(pulled):
            try:
                is_written = self._write(key, self._precision_seconds)
            except RegistryError:
                self._keep((*pulled[position + 1 :], key))
                raise
            if not is_written:
                self._keep(pulled[position:])
                return

    def _keep(self, left: Sequence[str]) -> None:
        """Keep pulls that were not written for the next flush."""
        self._pulled = dict.fromkeys((*left, *self._pulled)[:_MAX_PULLED])

    def _write(self, key: str, precision_seconds: float) -> bool:
        """Write a pull; return False if the registry is read-only."""
        for link in self._links(key):
            if self._read_only.is_on:
                return False
            self._record(link, precision_seconds)
        return True

    def watch(self, sleep: Callable[[float], object]) -> None:
        """Flush for ever; the body of a greenlet."""
        while True:
            sleep(FLUSH_SECONDS)
            try:
                self.flush()
            except RegistryError as error:
                logger.warning("pulls of mirrored repositories could not be recorded: %s", error)

    def _links(self, key: str) -> Iterable[str]:
        """Return the files that record the pulls of something; none if its name, id or digest is invalid."""
        try:
            if key[0] == "i":
                return self.image_links(ImageId.parse(key[1:])) if self.image_links is not None else ()
            repository, _, digest = key[1:].partition("@")
            make = layout.revision_link if key[0] == "m" else layout.layer_link
            return (make(RepositoryName.parse(repository), Digest.parse(digest)),)
        except (NameInvalid, DigestInvalid, ImageUnknown):
            return ()

    def _record(self, link: str, precision_seconds: float) -> None:
        recorded = self._recorded.get(link)
        if recorded is not None and self._now() < recorded + precision_seconds:
            return
        try:
            if recorded is None:  # perhaps another process has recorded a pull
                recorded = self._driver.stat(link).modified
            if self._now() >= recorded + precision_seconds:
                self._driver.touch(link)
                recorded = self._now()
            self._recorded.put(link, recorded)
        except PathNotFound:  # evicted
            self._recorded.forget(link)
