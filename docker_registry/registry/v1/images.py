"""
Images of API V1: a JSON document, a layer, and the images below it.

What an image is was decided by the push that ended (:mod:`docker_registry.registry.v1.decisions`). The layer's bytes
are the blob of that digest, or a raw file beside the image, which old servers wrote. That one is verified, and the
decision taken, when it is first asked for (:mod:`docker_registry.registry.v1.raw_layers`). A push that died is ended by
whoever asks for its image, when all that was to be pushed has come.

An image that follows from one of API V2 (:mod:`docker_registry.registry.bridge.derived_images`) is what it is, whoever
pushes another under its id.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from docker_registry.drivers.base import Stat, StorageDriver
from docker_registry.errors import ImageUnfinished, ImageUnknown, PathNotFound
from docker_registry.registry.access import Access
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.bridge.derived_images import DerivedImage, DerivedImages
from docker_registry.registry.keyed_locks import KeyedLocks
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1 import image_layout, raw_layers
from docker_registry.registry.v1.decisions import ImageDecisions
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.registry.v1.unfinished import UnfinishedPushes

logger = logging.getLogger(__name__)

#: Memory for what a worker remembers of raw layers of dead pushes that are no good.
_REMEMBERED_BYTES: Final = 4 * 1024 * 1024

#: What an image's id takes in memory, as a text in a tuple.
_ID_BYTES: Final = 128


@dataclass(frozen=True, slots=True)
class Image:
    """
    An image without its layer.

    Attributes:
        payload: its JSON as it was pushed.
        size: bytes of its layer; None without one.
        checksums: of its layer.
    """

    payload: bytes
    size: int | None
    checksums: tuple[str, ...]


class Images:
    """All images of API V1, for those who pull."""

    def __init__(
        self,
        driver: StorageDriver,
        decisions: ImageDecisions,
        unfinished: UnfinishedPushes,
        derived: DerivedImages,
        access: Access,
        reader: LayerReader,
        *,
        abandoned_after_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            access: tells from which repositories of API V2 an image may come.
            abandoned_after_seconds: how old the mark of a push is when nobody works on it any more.
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._decisions = decisions
        self._unfinished = unfinished
        self._derived = derived
        self._access = access
        self._reader = reader
        self._abandoned_after_seconds = abandoned_after_seconds
        self._now = now
        self._verifying = KeyedLocks()
        self._no_good: BoundedCache[ImageId, tuple[Stat, tuple[str, ...]]] = BoundedCache(
            _REMEMBERED_BYTES, lambda state: _ID_BYTES * (4 + len(state[1]))
        )

    def exists(self, image_id: ImageId) -> bool:
        """Tell whether somebody has pushed, or begun to push, an image, or it follows from one of API V2."""
        if self._derived.is_known(image_id):
            return True
        return self._driver.exists(image_layout.image_json(image_id)) or bool(self._unfinished.pending(image_id))

    def get(self, image_id: ImageId) -> Image:
        """
        Return an image.

        Raises:
            ImageUnknown: it is not there.
            ImageUnfinished: a push of it is under way.
        """
        derived = self._find_derived(image_id)
        if derived is not None:
            return Image(derived.payload, derived.link.size, derived.link.checksums)
        payload = self._check_pushed(image_id)
        link = self._decisions.find(image_id, payload)
        if link is not None:
            return Image(payload, link.size, link.checksums)
        return Image(payload, self._size(image_layout.layer(image_id)), self._checksums(image_id))

    def check(self, image_id: ImageId) -> bytes:
        """
        Return an image's JSON.

        Raises:
            ImageUnknown, ImageUnfinished: as for :meth:`get`.
        """
        derived = self._find_derived(image_id)
        return derived.payload if derived is not None else self._check_pushed(image_id)

    def _find_derived(self, image_id: ImageId) -> DerivedImage | None:
        return self._derived.find(image_id, self._access.pull_filter()) if self._derived.is_known(image_id) else None

    def _check_pushed(self, image_id: ImageId) -> bytes:
        if self._unfinished.is_marked(image_id) and not self._heal(image_id):
            if not self.exists(image_id):
                raise ImageUnknown(id=str(image_id))
            raise ImageUnfinished(id=str(image_id))
        return self._decisions.get_json(image_id)

    def ancestry(self, image_id: ImageId) -> tuple[str, ...]:
        """
        Return the ids of an image and of all below it, newest first, even while it is being pushed.

        Raises:
            ImageUnknown: there is no such image.
        """
        is_derived = self._derived.is_known(image_id)
        derived = self._derived.ancestry(image_id, self._access.pull_filter()) if is_derived else None
        return derived if derived is not None else self._pushed_ancestry(image_id)

    def ancestry_anywhere(self, image_id: ImageId) -> tuple[str, ...]:
        """
        Return the same whether or not clients may see it.

        Raises:
            ImageUnknown: there is no such image.
        """
        derived = self._derived.ancestry(image_id)
        return derived if derived is not None else self._pushed_ancestry(image_id)

    def _pushed_ancestry(self, image_id: ImageId) -> tuple[str, ...]:
        try:
            ids = json.loads(self._driver.get_content(image_layout.ancestry(image_id)))
            return tuple(map(str, ids))
        except (PathNotFound, ValueError, TypeError):
            for pending in self._unfinished.pending(image_id):
                return pending.ancestry
        raise ImageUnknown(id=str(image_id))

    def find_layer(self, image_id: ImageId) -> tuple[LayerLink, StoredFile]:
        """
        Find an image's layer, verified, and where its bytes lie as clients are sent them.

        Raises:
            ImageUnknown: the image is not there, or has no layer.
            ImageUnfinished: a push of it is under way, or its layer was damaged, so that it has to be pushed again.
            Overloaded: the layer must be read first, and too many layers are being read.
        """
        derived, link, stored = self._find(image_id)
        return link, stored if derived is None else self._derived.sent_file(derived, stored)

    def find_stored_layer(self, image_id: ImageId) -> tuple[LayerLink, StoredFile]:
        """
        Find an image's layer, verified, and where its bytes lie as they are stored: perhaps in a compression that
        clients of API V1 cannot read.

        Raises:
            ImageUnknown, ImageUnfinished, Overloaded: as for :meth:`find_layer`.
        """
        _, link, file = self._find(image_id)
        return link, file

    def _find(self, image_id: ImageId) -> tuple[DerivedImage | None, LayerLink, StoredFile]:
        derived = self._find_derived(image_id)
        if derived is not None and (stored := self._derived.stored_file(image_id, derived)) is not None:
            return derived, derived.link, stored
        payload = self._check_pushed(image_id)
        link = self._decisions.find(image_id, payload)
        file = self._decisions.place(image_id, link) if link else None
        if link is None or file is None:
            link = self._verify(image_id, payload)
            file = self._decisions.place(image_id, link)
        if file is None:
            raise ImageUnknown(id=str(image_id))
        return None, link, file

    def inspect_layer(self, image_id: ImageId) -> LayerLink:
        """
        Return what an image's layer is, with the digest of its uncompressed bytes; it is read once if need be.

        Raises:
            ImageUnknown, ImageUnfinished, Overloaded: as for :meth:`find_layer`.
        """
        link, _ = self.find_stored_layer(image_id)
        if self._is_inspected(link):
            return link
        with self._verifying.hold(image_id):
            link, file = self.find_stored_layer(image_id)
            if self._is_inspected(link):  # by another request
                return link
            stored = self._decisions.stored(image_id)
            found = self._reader.inspect(self._decisions.get_json(image_id), file.read()).link
            link = replace(link, media_type=found.media_type, diff_id=found.diff_id, rules=found.rules)
            self._decisions.decide(image_id, link, stored)
            return link

    def _is_inspected(self, link: LayerLink) -> bool:
        return link.diff_id is not None or link.rules == self._reader.rules

    def folder(self, image_id: ImageId) -> str:
        """Return where what is worked out of an image may be kept."""
        return image_layout.derived(image_id) if self._derived.is_known(image_id) else image_layout.image(image_id)

    def find_link(self, image_id: ImageId, payload: bytes) -> LayerLink | None:
        """Return what is known of an image's layer; None when nothing is, or only for another JSON than *payload*."""
        return self._decisions.find(image_id, payload)

    def find_digest(self, image_id: ImageId) -> Digest | None:
        """Return the digest of the layer that was pushed for an image; None when none was, or it was not verified."""
        link = self._decisions.known(image_id)
        return link.digest if link is not None else None

    def is_whole(self, image_id: ImageId) -> bool:
        """Tell whether an image needs no push."""
        if self._find_derived(image_id) is not None or self._decisions.decided(image_id) is not None:
            return True
        if self._unfinished.is_marked(image_id) or not self._driver.exists(image_layout.image_json(image_id)):
            return False
        return self._size(image_layout.layer(image_id)) is not None

    def is_marked(self, image_id: ImageId) -> bool:
        """Tell whether an image has the mark of a push that is not finished, whether or not that can be healed."""
        return self._unfinished.is_marked(image_id)

    # ------------------------------------------------------------------------------------------------- steps

    def _verify(self, image_id: ImageId, payload: bytes) -> LayerLink:
        """Find out what the raw layer of an image is whose push had ended."""
        with self._verifying.hold(image_id):
            known = self._decisions.find(image_id, payload)  # another was faster
            if known is not None and self._decisions.place(image_id, known) is not None:
                return known
            stored = self._decisions.stored(image_id)
            try:
                link = self._verify_raw(image_id, payload, is_finished=True)
            except PathNotFound:
                raise ImageUnknown(id=str(image_id)) from None
            if link is None:
                logger.error("the layer of image %s is damaged; it can be pushed again", image_id)
                self._unfinished.mark(image_id)
                raise ImageUnfinished(id=str(image_id))
            self._decisions.keep_verified(image_id, link)
            self._decisions.decide(image_id, link, stored)
            return link

    def _heal(self, image_id: ImageId) -> bool:
        """End a push that died, when all that was to be pushed has come."""
        link = self._decisions.decided(image_id) or self._verify_abandoned(image_id)
        return link is not None and self._decisions.complete(image_id, link)

    def _verify_abandoned(self, image_id: ImageId) -> LayerLink | None:
        """Find out whether what an old server has left of a push is all that was to be pushed."""
        stored = self._decisions.stored(image_id)
        checksums = self._checksums(image_id)
        try:
            state = (self._driver.stat(image_layout.layer(image_id)), checksums)
        except PathNotFound:
            return None
        has_ancestry = self._driver.exists(image_layout.ancestry(image_id))
        if self._no_good.get(image_id) == state or not has_ancestry:
            return None
        if not checksums and not self._is_abandoned(image_id):
            return None
        with self._verifying.hold(image_id):
            try:
                payload = self._decisions.get_json(image_id)
                link = self._verify_raw(image_id, payload, is_finished=False)
                if link is not None:
                    self._decisions.keep_verified(image_id, link)
            except (ImageUnknown, PathNotFound):
                return None
        if link is None:
            self._remember(image_id, state)
        elif self._decisions.decide(image_id, link, stored):
            logger.info("image %s was not finished, but is whole: it is served", image_id)
            return link
        return self._decisions.decided(image_id)

    def _verify_raw(self, image_id: ImageId, payload: bytes, *, is_finished: bool) -> LayerLink | None:
        return raw_layers.verify(
            self._driver,
            image_layout.layer(image_id),
            payload,
            self._checksums(image_id),
            self._reader,
            is_finished=is_finished,
        )

    def _is_abandoned(self, image_id: ImageId) -> bool:
        """Tell whether nobody works on a push any more."""
        since = self._unfinished.marked_since(image_id)
        return since is not None and self._now() - since > self._abandoned_after_seconds

    def _remember(self, image_id: ImageId, state: tuple[Stat, tuple[str, ...]]) -> None:
        self._no_good.put(image_id, state)

    def _checksums(self, image_id: ImageId) -> tuple[str, ...]:
        try:
            return raw_layers.parse_checksums(self._driver.get_content(image_layout.checksum(image_id)))
        except PathNotFound:
            return ()

    def _size(self, path: str) -> int | None:
        try:
            return self._driver.get_size(path)
        except PathNotFound:
            return None
