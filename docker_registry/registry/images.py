"""
Images of API V1: a JSON document, a layer, and the images below it.

An image is there when its JSON is; it is served when no push of it is under way. A push that died does not block it:
what is there is looked at, and when it is all that the client meant to push, the push is ended in its place.

What is known of a layer lies in ``_blob`` (:mod:`docker_registry.registry.layer_links`). Its bytes are the blob of that
digest, or a raw file beside the image (:mod:`docker_registry.registry.raw_layers`), which is verified when it is first
asked for.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from docker_registry.drivers.base import Stat, StorageDriver
from docker_registry.errors import ImageUnfinished, ImageUnknown, PathNotFound
from docker_registry.registry import image_layout, layout, raw_layers
from docker_registry.registry.image_marks import FOREIGN, ImageMarks, Mark
from docker_registry.registry.keyed_locks import KeyedLocks
from docker_registry.registry.layer_links import LayerLink
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.stored_file import StoredFile

logger = logging.getLogger(__name__)

#: Raw layers of dead pushes of which a worker remembers that they are no good.
_MAX_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Image:
    """
    An image without its layer.

    Attributes:
        payload: its JSON as it was pushed.
        size: bytes of its layer; None without one.
        checksums: of its layer, as they lie in the store.
    """

    payload: bytes
    size: int | None
    checksums: tuple[str, ...]


class Images:
    """All images of API V1, for those who pull."""

    def __init__(
        self,
        driver: StorageDriver,
        marks: ImageMarks,
        *,
        max_unpacked_bytes: int,
        abandoned_after_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            max_unpacked_bytes: uncompressed bytes of a layer that are looked at.
            abandoned_after_seconds: how old the mark of a push is when nobody works on it any more.
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._marks = marks
        self._max_unpacked_bytes = max_unpacked_bytes
        self._abandoned_after_seconds = abandoned_after_seconds
        self._now = now
        self._verifying = KeyedLocks()
        self._no_good: dict[ImageId, tuple[Stat, bytes]] = {}

    def exists(self, image_id: ImageId) -> bool:
        """Tell whether somebody has pushed, or begun to push, an image."""
        return self._driver.exists(image_layout.image_json(image_id))

    def is_unfinished(self, image_id: ImageId) -> bool:
        """Tell whether an image has the mark of a push that is not finished, whether or not that can be healed."""
        return self._marks.get(image_id).is_in_progress

    def get(self, image_id: ImageId) -> Image:
        """
        Return an image.

        Raises:
            ImageUnknown: it is not there.
            ImageUnfinished: a push of it is under way.
        """
        payload = self.check(image_id)
        link = self.find_link(image_id, payload)
        if link is not None:
            return Image(payload, link.size, link.checksums)
        return Image(payload, self._size(image_layout.layer(image_id)), self._checksums(image_id))

    def check(self, image_id: ImageId) -> bytes:
        """
        Return an image's JSON.

        Raises:
            ImageUnknown, ImageUnfinished: as for :meth:`get`.
        """
        payload = self.get_json(image_id)
        mark = self._marks.get(image_id)
        if mark.is_in_progress and not self._heal(image_id, payload, mark):
            raise ImageUnfinished(id=str(image_id))
        return payload

    def get_json(self, image_id: ImageId) -> bytes:
        """
        Return an image's JSON even while it is being pushed.

        Raises:
            ImageUnknown: there is none.
        """
        try:
            return self._driver.get_content(image_layout.image_json(image_id))
        except PathNotFound:
            raise ImageUnknown(id=str(image_id)) from None

    def ancestry(self, image_id: ImageId) -> tuple[str, ...]:
        """
        Return the ids of an image and of all below it, newest first, even while it is being pushed.

        Raises:
            ImageUnknown: there is no such image.
        """
        try:
            ids = json.loads(self._driver.get_content(image_layout.ancestry(image_id)))
        except (PathNotFound, ValueError):
            raise ImageUnknown(id=str(image_id)) from None
        return tuple(str(ancestor) for ancestor in ids) if isinstance(ids, list) else ()

    def find_layer(self, image_id: ImageId) -> tuple[LayerLink, StoredFile]:
        """
        Find an image's layer, verified, and where its bytes lie.

        Raises:
            ImageUnknown: the image is not there, or has no layer.
            ImageUnfinished: a push of it is under way, or its layer was damaged, so that it has to be pushed again.
        """
        payload = self.check(image_id)
        link = self.find_link(image_id, payload)
        file = self.place(image_id, link) if link else None
        if link is None or file is None:
            link = self._verify(image_id, payload)
            file = self.place(image_id, link)
        if file is None:
            raise ImageUnknown(id=str(image_id))
        return link, file

    def find_link(self, image_id: ImageId, payload: bytes) -> LayerLink | None:
        """
        Return what is known of an image's layer; None when nothing is, or only for another JSON.

        Args:
            payload: the image's JSON.
        """
        try:
            link = LayerLink.parse(self._driver.get_content(image_layout.blob_link(image_id)))
        except (PathNotFound, ValueError):
            return None
        return link if link.image_json == Digest.of(payload) else None

    def place(self, image_id: ImageId, link: LayerLink) -> StoredFile | None:
        """Find where a layer's bytes lie; None when they are gone."""
        for path in (layout.blob_data(link.digest), image_layout.layer(image_id)):
            if self._size(path) == link.size:
                return StoredFile(self._driver, path, link.size, ImageUnknown(id=str(image_id)))
        return None

    def is_whole(self, image_id: ImageId) -> bool:
        """Tell whether all that makes an image is there, whether or not its push has ended."""
        try:
            payload = self.get_json(image_id)
        except ImageUnknown:
            return False
        link = self.find_link(image_id, payload)
        if link is not None and self.place(image_id, link) is not None:
            return True
        return self._size(image_layout.layer(image_id)) is not None

    def complete(self, image_id: ImageId, link: LayerLink, mark: Mark) -> bool:
        """
        End a push; harmless when several do it.

        Args:
            link: the layer, verified, and noted already.
            mark: what the mark was before all that was checked.

        Returns:
            Whether the push has ended; False when another one has begun since.
        """
        blob, beside = layout.blob_data(link.digest), image_layout.layer(image_id)
        if self._size(blob) == link.size and not self._driver.link(blob, beside):
            self._remove(beside)  # of a push before, and of no use beside the blob
        self._driver.put_content(image_layout.checksum(image_id), json.dumps(link.checksums).encode())
        return self._marks.finish(image_id, mark)

    def verify_raw(self, image_id: ImageId, payload: bytes, *, is_finished: bool) -> LayerLink | None:
        """
        Read a raw layer and note what it is; None when it is not what was pushed.

        Args:
            payload: the image's JSON.
            is_finished: whether its push had ended.

        Raises:
            PathNotFound: there is no raw layer.
        """
        link = raw_layers.verify(
            self._driver,
            image_layout.layer(image_id),
            payload,
            self._checksums(image_id),
            is_finished=is_finished,
            max_unpacked_bytes=self._max_unpacked_bytes,
        )
        if link is not None:
            self._driver.put_content(image_layout.blob_link(image_id), link.dump())
        return link

    # ------------------------------------------------------------------------------------------------- steps

    def _verify(self, image_id: ImageId, payload: bytes) -> LayerLink:
        with self._verifying.hold(image_id):
            known = self.find_link(image_id, payload)  # another was faster
            if known is not None and self.place(image_id, known) is not None:
                return known
            try:
                link = self.verify_raw(image_id, payload, is_finished=True)
            except PathNotFound:
                raise ImageUnknown(id=str(image_id)) from None
            if link is None:
                logger.error("the layer of image %s is damaged; it can be pushed again", image_id)
                self._marks.renew(image_id)
                raise ImageUnfinished(id=str(image_id))
            return link

    def _heal(self, image_id: ImageId, payload: bytes, mark: Mark) -> bool:
        """End a push that died, when all that was to be pushed has come."""
        if not self._driver.exists(image_layout.ancestry(image_id)):
            return False
        link = self.find_link(image_id, payload)
        if link is not None and self.place(image_id, link) is not None:
            return self.complete(image_id, link, mark)
        try:
            state = (self._driver.stat(image_layout.layer(image_id)), mark.content)
        except PathNotFound:
            return False
        if self._no_good.get(image_id) == state or not self._may_be_healed(image_id, mark):
            return False
        with self._verifying.hold(image_id):
            link = self.find_link(image_id, payload) or self.verify_raw(image_id, payload, is_finished=False)
        if link is None:
            self._remember(image_id, state)
            return False
        logger.info("image %s was not finished, but is whole: it is served", image_id)
        return self.complete(image_id, link, mark)

    def _may_be_healed(self, image_id: ImageId, mark: Mark) -> bool:
        """
        Tell whether a raw layer is worth reading: it has a checksum, or nobody works on it any more.

        Not where one of our own pushes has begun over it: it will have another layer.
        """
        if mark.content != FOREIGN:
            return False
        if self._checksums(image_id):
            return True
        try:
            began = self._driver.stat(image_layout.in_progress(image_id)).modified
        except PathNotFound:
            return False
        return self._now() - began > self._abandoned_after_seconds

    def _remember(self, image_id: ImageId, state: tuple[Stat, bytes]) -> None:
        if len(self._no_good) >= _MAX_REMEMBERED:
            self._no_good.clear()
        self._no_good[image_id] = state

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

    def _remove(self, path: str) -> None:
        try:
            self._driver.remove(path)
        except PathNotFound:
            pass
