"""
Reading images of API V1: a JSON document, a layer, and the ancestors.

The content of an image was determined by the commit of its push (:mod:`docker_registry.registry.v1.image_commits`). The
layer is the blob with the committed digest, or a raw file in the image's folder, written by an old server. A raw layer
is verified and committed when it is first requested (:mod:`docker_registry.registry.v1.legacy_layers`). If a push died
after everything had arrived, the next request for its image completes it.

An image derived from API V2 (:mod:`docker_registry.registry.v1.sources`) takes precedence over an image that
was pushed under its id.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from docker_registry.concurrency import KeyedLocks
from docker_registry.drivers.base import Stat, StorageDriver
from docker_registry.errors import ImageUnfinished, ImageUnknown, PathNotFound
from docker_registry.registry.access import Access
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1 import image_layout, legacy_layers
from docker_registry.registry.v1.image_commits import ImageCommits
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.registry.v1.pending_pushes import PendingPushes
from docker_registry.registry.v1.sources import DerivedImage, DerivedImageSource, Permitted

logger = logging.getLogger(__name__)

#: Memory limit of the cache of invalid raw layers.
_INVALID_BYTES: Final = 4 * 1024 * 1024

#: Estimated memory of an image's id or of a checksum, as a string in a tuple.
_TEXT_BYTES: Final = 128


@dataclass(frozen=True, slots=True)
class Image:
    """
    An image without its layer.

    Attributes:
        payload: the image's JSON as it was pushed.
        size: bytes of the layer; None without a layer.
        checksums: checksums of the layer.
    """

    payload: bytes
    size: int | None
    checksums: tuple[str, ...]


class Images:
    """
    Reads the images of API V1, pushed or derived from V2.

    An image that derives from V2 must come from a repository that the given *principal* may pull from; None stands for
    the registry itself, which may read all.
    """

    def __init__(
        self,
        driver: StorageDriver,
        commits: ImageCommits,
        pending_pushes: PendingPushes,
        derived: DerivedImageSource,
        access: Access,
        reader: LayerReader,
        *,
        abandoned_after_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            derived: the images that derive from API V2.
            access: decides from which repositories of API V2 an image may come.
            abandoned_after_seconds: age of the mark of a push after which the push counts as abandoned.
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._commits = commits
        self._pending_pushes = pending_pushes
        self._derived = derived
        self._access = access
        self._reader = reader
        self._abandoned_after_seconds = abandoned_after_seconds
        self._now = now
        self._locks = KeyedLocks()
        self._invalid: BoundedCache[tuple[ImageId, bool], tuple[Stat, Digest, tuple[str, ...]]] = BoundedCache(
            _INVALID_BYTES, lambda state: _TEXT_BYTES * (5 + len(state[2]))
        )

    def exists(self, image_id: ImageId, *, principal: Principal | None = None) -> bool:
        """
        Return whether an image was pushed, has a pending push, or derives from a V2 image.

        Args:
            principal: restricts the V2 images to those that it may pull; None for all.
        """
        if self._derived.is_known(image_id):
            permitted = self._permitted(principal)
            if permitted is None or self._derived.is_permitted(image_id, permitted):
                return True
        return self.is_pushed(image_id)

    def is_pushed(self, image_id: ImageId) -> bool:
        """Return whether an image was pushed by API V1, or such a push is pending."""
        return self._driver.exists(image_layout.image_json(image_id)) or self._pending_pushes.exists(image_id)

    def get(self, image_id: ImageId, *, principal: Principal | None = ANONYMOUS) -> Image:
        """
        Return an image.

        Raises:
            ImageUnknown: the image does not exist.
            ImageUnfinished: a push of the image is not finished.
        """
        derived = self._find_derived(image_id, principal)
        if derived is not None:
            return Image(derived.payload, derived.link.size, derived.link.checksums)
        payload = self.check_pushed(image_id)
        link = self._commits.find(image_id, payload)
        if link is not None:
            return Image(payload, link.size, link.checksums)
        return Image(payload, self._driver.find_size(image_layout.layer(image_id)), self._checksums(image_id))

    def check(self, image_id: ImageId, *, principal: Principal | None = ANONYMOUS) -> bytes:
        """
        Return an image's JSON.

        Raises:
            ImageUnknown, ImageUnfinished: as for :meth:`get`.
        """
        derived = self._find_derived(image_id, principal)
        return derived.payload if derived is not None else self.check_pushed(image_id)

    def check_pushed(self, image_id: ImageId) -> bytes:
        """
        Return an image's JSON as it was pushed by API V1, even if its id also derives from API V2.

        Raises:
            ImageUnknown, ImageUnfinished: as for :meth:`get`.
        """
        if self._pending_pushes.is_marked(image_id) and not self._complete_push(image_id):
            if not self.exists(image_id):
                raise ImageUnknown(id=str(image_id))
            raise ImageUnfinished(id=str(image_id))
        return self._commits.get_json(image_id)

    def _find_derived(self, image_id: ImageId, principal: Principal | None) -> DerivedImage | None:
        return self._derived.find(image_id, self._permitted(principal)) if self._derived.is_known(image_id) else None

    def _permitted(self, principal: Principal | None) -> Permitted | None:
        return None if principal is None else self._access.pull_filter(principal)

    def ancestry(self, image_id: ImageId, *, principal: Principal | None = ANONYMOUS) -> tuple[str, ...]:
        """
        Return the ids of an image and all its ancestors, newest first, even while the image is being pushed.

        Raises:
            ImageUnknown: the image does not exist.
        """
        is_derived = self._derived.is_known(image_id)
        derived = self._derived.ancestry(image_id, self._permitted(principal)) if is_derived else None
        return derived if derived is not None else self._pushed_ancestry(image_id)

    def ancestry_anywhere(self, image_id: ImageId) -> tuple[str, ...]:
        """
        Return the ancestry as :meth:`ancestry` does, but without checking which repositories the client may see.

        Raises:
            ImageUnknown: the image does not exist.
        """
        derived = self._derived.ancestry(image_id)
        return derived if derived is not None else self._pushed_ancestry(image_id)

    def _pushed_ancestry(self, image_id: ImageId) -> tuple[str, ...]:
        try:
            ids = json.loads(self._driver.get_content(image_layout.ancestry(image_id)))
            return tuple(map(str, ids))
        except (PathNotFound, ValueError, TypeError):
            for pending in self._pending_pushes.pending(image_id):
                return pending.ancestry
        raise ImageUnknown(id=str(image_id))

    def find_layer(self, image_id: ImageId, *, principal: Principal | None = ANONYMOUS) -> tuple[LayerLink, StoredFile]:
        """
        Return an image's verified layer, and the file to send to clients of V1.

        Raises:
            ImageUnknown: the image does not exist, or has no layer.
            ImageUnfinished: a push of the image is not finished, or its layer is damaged and must be pushed again.
            Overloaded: the layer must be verified first, and too many layers are being read.
        """
        derived, link, stored = self._find(image_id, principal)
        return link, stored if derived is None else self._derived.sent_file(derived, stored)

    def find_stored_layer(
        self, image_id: ImageId, *, principal: Principal | None = ANONYMOUS
    ) -> tuple[LayerLink, StoredFile]:
        """
        Return an image's verified layer and its stored file, which clients of V1 may be unable to decompress.

        Raises:
            ImageUnknown, ImageUnfinished, Overloaded: as for :meth:`find_layer`.
        """
        _, link, file = self._find(image_id, principal)
        return link, file

    def _find(
        self, image_id: ImageId, principal: Principal | None
    ) -> tuple[DerivedImage | None, LayerLink, StoredFile]:
        derived = self._find_derived(image_id, principal)
        if derived is not None and (stored := self._derived.stored_file(image_id, derived)) is not None:
            return derived, derived.link, stored
        return None, *self.find_pushed_layer(image_id)

    def find_pushed_layer(self, image_id: ImageId) -> tuple[LayerLink, StoredFile]:
        """
        Return the verified layer that was pushed by API V1, even if the image's id also derives from API V2.

        Raises:
            ImageUnknown, ImageUnfinished, Overloaded: as for :meth:`find_layer`.
        """
        payload = self.check_pushed(image_id)
        link = self._commits.find(image_id, payload)
        file = self._commits.find_file(image_id, link) if link else None
        if link is None or file is None:
            link = self._verify(image_id, payload)
            file = self._commits.find_file(image_id, link)
        if file is None:
            raise ImageUnknown(id=str(image_id))
        return link, file

    def inspect_layer(self, image_id: ImageId, *, principal: Principal | None = ANONYMOUS) -> LayerLink:
        """
        Return an image's layer with its format and diff id; reads the layer the first time.

        Returns:
            The layer; its ``diff_id`` is None when the layer is not a readable tar, or exceeds a limit.

        Raises:
            ImageUnknown, ImageUnfinished, Overloaded: as for :meth:`find_layer`.
        """
        link, _ = self.find_stored_layer(image_id, principal=principal)
        if self._is_inspected(link):
            return link
        with self._locks.hold(("inspect", image_id)):
            link, file = self.find_stored_layer(image_id, principal=principal)
            if self._is_inspected(link):  # by a concurrent request
                return link
            stored = self._commits.stored(image_id)
            found = self._reader.inspect(self._commits.get_json(image_id), file.read()).link
            link = replace(link, media_type=found.media_type, diff_id=found.diff_id, rules=found.rules)
            self._commits.commit(image_id, link, stored)
            return link

    def _is_inspected(self, link: LayerLink) -> bool:
        return link.diff_id is not None or link.rules == self._reader.rules

    def folder(self, image_id: ImageId) -> str:
        """Return the folder for data computed from an image, such as its file list."""
        return image_layout.derived(image_id) if self._derived.is_known(image_id) else image_layout.image(image_id)

    def find_link(self, image_id: ImageId, payload: bytes) -> LayerLink | None:
        """Return the committed layer of an image; None when there is none, or its JSON was not *payload*."""
        return self._commits.find(image_id, payload)

    def find_committed(self, image_id: ImageId) -> LayerLink | None:
        """Return the committed layer of an image, even if its bytes are missing; None when none was committed."""
        return self._commits.recorded(image_id)

    def find_digest(self, image_id: ImageId) -> Digest | None:
        """Return the digest of the committed layer of a pushed image; None when none was committed."""
        link = self._commits.recorded(image_id)
        return link.digest if link is not None else None

    def is_complete(self, image_id: ImageId, *, principal: Principal | None = ANONYMOUS) -> bool:
        """Return whether an image is complete, so that clients need not push it."""
        if self._find_derived(image_id, principal) is not None or self._commits.committed(image_id) is not None:
            return True
        if self._pending_pushes.is_marked(image_id) or not self._driver.exists(image_layout.image_json(image_id)):
            return False
        return self._driver.find_size(image_layout.layer(image_id)) is not None

    def is_marked(self, image_id: ImageId) -> bool:
        """Return whether an image has the mark of an unfinished push, even if the push could be completed."""
        return self._pending_pushes.is_marked(image_id)

    # ------------------------------------------------------------------------------------------------- steps

    def _verify(self, image_id: ImageId, payload: bytes) -> LayerLink:
        """Verify and commit the raw layer of an image whose push has ended."""
        with self._locks.hold(("verify", image_id)):
            known = self._commits.find(image_id, payload)  # maybe verified by a concurrent request
            if known is not None and self._commits.find_file(image_id, known) is not None:
                return known
            stored = self._commits.stored(image_id)
            link = self._verify_raw(image_id, payload, is_finished=True)
            if link is None:
                logger.error("the layer of image %s is damaged; push it again to repair it", image_id)
                self._pending_pushes.mark(image_id)
                raise ImageUnfinished(id=str(image_id))
            self._commits.put_verified(image_id, link)
            self._commits.commit(image_id, link, stored)
            return link

    def _complete_push(self, image_id: ImageId) -> bool:
        """Complete a push that died after everything had arrived; return False when something is missing."""
        link = self._commits.committed(image_id) or self._verify_abandoned(image_id)
        return link is not None and self._commits.complete(image_id, link)

    def _verify_abandoned(self, image_id: ImageId) -> LayerLink | None:
        """Verify and commit the raw layer of a push that an old server did not finish; None if it is not valid."""
        if not self._driver.exists(image_layout.ancestry(image_id)):
            return None
        if not self._checksums(image_id) and not self._is_abandoned(image_id):
            return None
        with self._locks.hold(("verify", image_id)):
            known = self._commits.committed(image_id)  # maybe verified by a concurrent request
            if known is not None:
                return known
            stored = self._commits.stored(image_id)
            try:
                link = self._verify_raw(image_id, self._commits.get_json(image_id), is_finished=False)
                if link is not None:
                    self._commits.put_verified(image_id, link)
            except (ImageUnknown, PathNotFound):
                return None
            if link is not None and self._commits.commit(image_id, link, stored):
                logger.info("the push of image %s was not completed, but all parts exist: serving it", image_id)
                return link
        return self._commits.committed(image_id)

    def _verify_raw(self, image_id: ImageId, payload: bytes, *, is_finished: bool) -> LayerLink | None:
        """
        Return the link of a raw layer; None if it is not valid.

        An invalid layer is read only once, until it, its checksums or the image's JSON change.

        Raises:
            ImageUnknown: there is no raw layer.
        """
        path, checksums = image_layout.layer(image_id), self._checksums(image_id)
        try:
            state = (self._driver.stat(path), Digest.of(payload), checksums)
            if self._invalid.get((image_id, is_finished)) == state:
                return None
            link = legacy_layers.verify(self._driver, path, payload, checksums, self._reader, is_finished=is_finished)
        except PathNotFound:
            raise ImageUnknown(id=str(image_id)) from None
        if link is None:
            self._invalid.put((image_id, is_finished), state)
        return link

    def _is_abandoned(self, image_id: ImageId) -> bool:
        """Return whether the mark of a push is old enough to consider the push abandoned."""
        since = self._pending_pushes.marked_since(image_id)
        return since is not None and self._now() - since > self._abandoned_after_seconds

    def _checksums(self, image_id: ImageId) -> tuple[str, ...]:
        stored = self._driver.find(image_layout.checksum(image_id))
        return () if stored is None else legacy_layers.parse_checksums(stored)
