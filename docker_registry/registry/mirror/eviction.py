"""
Eviction: removes the mirrored content that was pulled least recently, and keeps the mirrored bytes within a limit.

The links of evicted content are removed at once, its bytes by
:class:`~docker_registry.registry.reclamation.Reclamation`. Content that a repository has to which clients push is never
evicted, and does not count against the limit. Images of API V1 that came from a mirrored registry are evicted with the
content of its repositories, by their layers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound, RegistryError, StorageError, StorageFull, StorageUnavailable
from docker_registry.registry import layout, store_removal
from docker_registry.registry.actor import Actor
from docker_registry.registry.leases import Leases
from docker_registry.registry.mirror.pulls import FLUSH_SECONDS, Pulls
from docker_registry.registry.mirror.remotes import MIRROR
from docker_registry.registry.mirror.tag_records import TagRecords
from docker_registry.registry.names import Digest, ImageId, RepositoryName
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.read_only import ReadOnly

logger = logging.getLogger(__name__)

#: Time between two passes; longer if a pass takes long.
PASS_SECONDS: Final = 60.0

#: Largest share of the time that passes take.
_SHARE: Final = 0.05

#: Content that was pulled less than this ago may be in the process of being sent by any host, and stays.
RECENT_SECONDS: Final = 120.0

#: How long content counts as that of a pushed repository after it was last found there.
SHARED_SECONDS: Final = 3600.0

#: Time after which all processes have recorded the pulls that they collected while the registry was read-only.
_COLLECTED_SECONDS: Final = 2 * FLUSH_SECONDS

_LEASE: Final = "mirror-eviction"
_LEASE_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class EvictableImage:
    """
    An image of API V1 that came from a mirrored registry.

    Attributes:
        path: the file whose modification time is the time of the last pull.
        pulled: that time, seconds since the Unix epoch.
    """

    image_id: ImageId
    layer: Digest
    path: str
    pulled: float


class EvictableImages(Protocol):
    """All images of API V1 that came from a mirrored registry."""

    def all(self) -> Iterable[EvictableImage]:
        """Return the images."""
        ...

    def needed(self, ids: Collection[str]) -> Collection[str]:
        """Return those of some images that pushed content needs."""
        ...

    def evict(self, image: EvictableImage, *, actor: Actor) -> bool:
        """Remove an image; return False if it stays."""
        ...


class LayerCopies(Protocol):
    """Uncompressed copies of layers, which are removed with their layers."""

    def adopt(self) -> None:
        """Have the copies that an earlier version made counted and removed too."""
        ...

    def sizes(self, layers: Collection[Digest]) -> Mapping[Digest, int]:
        """Return the bytes of the copies of some layers."""
        ...


@dataclass(slots=True)
class _Content:
    """
    A mirrored blob or manifest.

    Attributes:
        pulled: when it was last pulled, seconds since the Unix epoch.
        links: the mirrored repositories that have it, and their links to it.
        images: the mirrored images of API V1 whose layer it is.
    """

    pulled: float = 0.0
    links: list[tuple[RepositoryName, str]] = field(default_factory=list)
    images: list[EvictableImage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Evicted:
    """
    The result of a pass.

    Attributes:
        blobs, size: number and bytes of the evicted blobs and manifests.
        left: bytes of mirrored content that are left, without what other repositories have.
        removed: bytes of previously evicted content that were removed from the store.
    """

    blobs: int
    size: int
    left: int
    removed: int


class Eviction:
    """
    Evicts mirrored content of a store, in one process at a time.

    Attributes:
        images: the mirrored images of API V1; None where there are none.
        copies: the uncompressed copies of layers, which count with their layers; None where there are none.
    """

    def __init__(
        self,
        registry: OciRegistry,
        names: Callable[[], Collection[str]],
        records: TagRecords,
        pulls: Pulls,
        read_only: ReadOnly,
        *,
        max_bytes: int | None,
        max_age_seconds: float | None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            names: returns the names of the mirrored repositories.
            max_bytes: limit for the bytes of mirrored content; None for no limit.
            max_age_seconds: time after its last pull at which content is evicted; None for no limit.
            now: the clock, seconds since the Unix epoch.
        """
        self._driver: StorageDriver = registry.driver
        self._removal = registry.removal
        self._removed = registry.blobs.removed
        self._references = registry.references
        self._reclamation = registry.reclamation
        self._leases: Leases = registry.leases
        self._slices = registry.slices
        self._names = names
        self._records = records
        self._pulls = pulls
        self._read_only = read_only
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        self._now = now
        self.images: EvictableImages | None = None
        self.copies: LayerCopies | None = None
        self._has_adopted = False
        self._copy_sizes: Mapping[Digest, int] = {}
        self._sizes: dict[Digest, int] = {}
        self._shared: set[Digest] = set()
        self._shared_until = 0.0
        self._was_read_only = 0.0

    def watch(self, sleep: Callable[[float], object]) -> None:
        """Run a pass from time to time, for ever; the body of a greenlet."""
        while True:
            began = time.monotonic()
            try:
                has_run = self.run() is not None
                pause = max(PASS_SECONDS, (time.monotonic() - began) / _SHARE)
                if has_run:  # this process runs the next pass too, because it remembers what it has read
                    self._take_lease(pause + PASS_SECONDS)
            except RegistryError as error:
                logger.warning("mirrored content could not be evicted: %s", error)
                pause = PASS_SECONDS
            sleep(pause)

    def run(self) -> Evicted | None:
        """
        Run a pass.

        Returns:
            None if another process does, or the registry is or was just read-only, so that pulls are not recorded.
        """
        if self._is_stopped():
            self._was_read_only = self._now()
        if self._now() < self._was_read_only + _COLLECTED_SECONDS or not self._take_lease(_LEASE_SECONDS):
            return None
        contents = self._contents()
        chosen, left = self._choose(contents)
        try:
            evicted = [digest for digest in chosen if not self._is_stopped() and self._try(digest, contents[digest])]
        except StorageFull:
            self._reclamation.run(self._is_stopped)  # may free the space that the records of evicted blobs need
            raise
        size = sum(map(self._size, evicted))
        result = Evicted(len(evicted), size, left, self._reclamation.run(self._is_stopped))
        if result.blobs or result.removed:
            logger.info(
                "evicted %d mirrored blobs of %d bytes, removed %d bytes of earlier ones, %d bytes are left",
                result.blobs, result.size, result.removed, result.left,
            )  # fmt: skip
        return result

    # ------------------------------------------------------------------------------------------------- steps

    def _take_lease(self, seconds: float) -> bool:
        return self._leases.take(_LEASE, seconds, ends_with_process=True, frees_space=True)

    def _is_stopped(self) -> bool:
        return self._read_only.is_on

    def _contents(self) -> dict[Digest, _Content]:
        """Return all mirrored content, and record its sizes."""
        contents: dict[Digest, _Content] = {}
        for text in self._slices.pace(self._names()):
            name = RepositoryName(text)
            for digest, link in self._references.links_of(name):
                content = contents.setdefault(digest, _Content())
                content.pulled = max(content.pulled, link.modified)
                content.links.append((name, link.path))
        for image in () if self.images is None else self.images.all():
            content = contents.setdefault(image.layer, _Content())
            content.pulled = max(content.pulled, image.pulled)
            content.images.append(image)
        sizes = self._sizes
        self._sizes = {
            digest: sizes.get(digest) or self._driver.find_size(layout.blob_data(digest)) or 0
            for digest in self._slices.pace(contents)
        }
        if self.copies is not None and not self._has_adopted:
            self.copies.adopt()
            self._has_adopted = True
        self._copy_sizes = {} if self.copies is None else self.copies.sizes(self._sizes)
        return contents

    def _choose(self, contents: dict[Digest, _Content]) -> tuple[list[Digest], int]:
        """
        Return what to evict, and the bytes that are left then.

        The links of pushed repositories are read only if something would be evicted without those that are known.
        """
        if self._now() >= self._shared_until:
            self._shared = set()
        chosen, left = self._least_recently_pulled(contents)
        if chosen:
            self._shared = self._find_shared(contents)
            self._shared_until = self._now() + SHARED_SECONDS
            chosen, left = self._least_recently_pulled(contents)
        return chosen, left

    def _find_shared(self, contents: dict[Digest, _Content]) -> set[Digest]:
        """Return the content that pushed repositories and images have too."""
        mirrored = set(self._names())
        images = {str(image.image_id) for content in contents.values() for image in content.images}
        if self.images is None or not images:
            return self._references.among(contents, lambda name: name not in mirrored)
        needed = self.images.needed(images)
        return self._references.among(
            contents, lambda name: name not in mirrored, lambda image_id: image_id in needed or image_id not in images
        )

    def _least_recently_pulled(self, contents: dict[Digest, _Content]) -> tuple[list[Digest], int]:
        """Return what exceeds the limits, without what pushed repositories are known to have, and the bytes left."""
        total = self._total(digest for digest in contents if digest not in self._shared)
        by_age = self._now() - self._max_age_seconds if self._max_age_seconds is not None else 0.0
        is_too_much = self._max_bytes is not None and total > self._max_bytes
        before = self._now() - RECENT_SECONDS if is_too_much else by_age
        keys = (
            f"{content.pulled:020.6f} {digest}"
            for digest, content in contents.items()
            if content.pulled < before and digest not in self._shared
        )
        chosen = []
        for key in self._slices.sort(keys):
            pulled, _, text = key.partition(" ")
            is_too_much = self._max_bytes is not None and total > self._max_bytes
            if not (is_too_much or float(pulled) < by_age):
                break
            chosen.append(Digest.parse(text))
            total -= self._size(chosen[-1])
        return chosen, total

    def _total(self, digests: Iterable[Digest]) -> int:
        return sum(map(self._size, self._slices.pace(digests)))

    def _size(self, digest: Digest) -> int:
        return self._sizes[digest] + self._copy_sizes.get(digest, 0)

    def _try(self, digest: Digest, content: _Content) -> bool:
        """Evict some content; return False if that is not possible now, so that the next content is evicted."""
        try:
            return self._evict(digest, content)
        except (StorageFull, StorageUnavailable):  # the next one would fail too
            raise
        except StorageError as error:
            logger.warning("%s could not be evicted: %s", digest, error)
            return False

    def _evict(self, digest: Digest, content: _Content) -> bool:
        """Remove the links and images of some content; return False if it is in use."""
        paths = [*(link for _, link in content.links), *(image.path for image in content.images)]
        ids = (image.image_id for image in content.images)
        if self._pulls.is_sending(digest) or any(map(self._pulls.is_sending_image, ids)):
            return False
        if any(self._modified(path) > content.pulled for path in paths):
            return False
        self._removed.add(digest)
        for name, link in content.links:
            if link == layout.revision_link(name, digest):
                self._records.discard_target(name, digest)
                store_removal.remove(self._driver, layout.mirrored_referrers(name, digest))
                store_removal.remove(self._driver, layout.mirrored_platform(name, digest))
            self._removal.forget(name, digest, actor=MIRROR)
        for image in content.images:
            if self.images is not None:
                self.images.evict(image, actor=MIRROR)
        return True

    def _modified(self, path: str) -> float:
        try:
            return self._driver.stat(path).modified
        except PathNotFound:
            return 0.0
