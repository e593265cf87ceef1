"""
Layers stored as Glance images: upload, publication by a pointer, deletion, and a sweep of unreferenced images.

An image is tagged as unreferenced from its upload until its pointer is published, and again before its pointer is
replaced or removed, so that the sweep finds it after a crash.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from docker_registry.drivers.base import ABSENT, Bytes, StorageDriver
from docker_registry.drivers.glance import pointers
from docker_registry.drivers.glance.images import GlanceImages
from docker_registry.drivers.glance.pointers import SUFFIX, Pointer
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

#: Folder in the alternate for the driver's internal files; hidden from listings and rejected as a path.
RESERVED: Final = ".glance"
_STORE: Final = f"{RESERVED}/store"
#: Maximum number of attempts when concurrent writers replace the same path.
MAX_ATTEMPTS: Final = 1000


class GlanceLayers:
    """Stores, reads and deletes the layers of one store in Glance."""

    def __init__(self, alternate: StorageDriver, images: GlanceImages) -> None:
        """
        Args:
            alternate: the driver that stores the pointers.
        """
        self._alternate = alternate
        self._images = images
        self._tag: str | None = None

    def find(self, path: str) -> Pointer | None:
        """Return a layer's pointer; None if the layer is not in Glance."""
        return pointers.find(self._alternate, path)

    def read(self, pointer: Pointer, offset: int, length: int | None) -> Iterator[bytes]:
        """
        Return an iterator over a layer's blocks; see :meth:`StorageDriver.stream_read`.

        Raises:
            ImageMissing: the layer's image does not exist; raised by the call itself.
        """
        if pointer.image is None:
            return iter(())
        return self._images.read(pointer.image, pointer.size, offset, length)

    def upload(self, path: str, blocks: Iterable[Bytes]) -> Pointer:
        """Upload a layer to Glance and return its pointer, which :meth:`replace` publishes."""
        image, size = self._images.add(path, self._unreferenced_tag(), blocks)
        return Pointer(image, size)

    def replace(self, path: str, pointer: Pointer, if_match: str | None = None) -> None:
        """
        Publish a pointer under a path, and delete the image that it replaces.

        Args:
            if_match: replace only this version of the pointer; see :meth:`StorageDriver.put_content`.

        Raises:
            PreconditionFailed: the path has another version; the new image was deleted.
            StorageUnavailable: concurrent writers replaced the path too often.
        """
        old = self._publish(path, pointer, if_match)
        if pointer.image:
            self._images.untag(pointer.image, self._unreferenced_tag())
        if old is not None:
            self.delete_image(old)
            return
        try:
            self._alternate.remove(path)  # a layer written before Glance was configured
        except PathNotFound:
            return

    def _publish(self, path: str, pointer: Pointer, if_match: str | None) -> Pointer | None:
        """Publish a pointer and return the one that it replaces, if any, whose image is tagged as unreferenced."""
        for _ in range(MAX_ATTEMPTS):
            old = self.find(path)
            version = old.version if old and old.version else ABSENT
            if if_match not in (None, version):
                self.delete_image(pointer)
                raise PreconditionFailed(path=path)
            self.tag_unreferenced(old)
            # With conditional puts, exactly one writer replaces each pointer, and so deletes its image.
            expected = version if self._alternate.capabilities.if_match else None
            try:
                self._alternate.put_content(path + SUFFIX, pointer.dump(), if_match=expected)
            except PreconditionFailed:
                continue
            return old
        raise StorageUnavailable("A layer was replaced repeatedly.", path=path)

    def mark_shared(self, path: str) -> Pointer | None:
        """Return a layer's pointer, after marking it as shared; None if the layer is not in Glance."""
        for _ in range(MAX_ATTEMPTS):
            pointer = self.find(path)
            if pointer is None or pointer.is_shared:
                return pointer
            shared = dataclasses.replace(pointer, is_shared=True)
            try:
                expected = pointer.version if self._alternate.capabilities.if_match else None
                self._alternate.put_content(path + SUFFIX, shared.dump(), if_match=expected)
            except PreconditionFailed:
                continue
            return shared
        raise StorageError("A layer was replaced repeatedly.", path=path)

    def find_before_move(self, path: str) -> Pointer | None:
        """
        Return the pointer of a layer that will be moved, None if the layer is not in Glance.

        If the alternate moves a file by copying it, the pointer is marked as shared, because for a moment, or for
        longer after a crash, there are two.
        """
        return self.mark_shared(path) if self._alternate.capabilities.move_copies else self.find(path)

    def replace_by(self, path: str, change: Callable[[], None]) -> None:
        """Run a change that replaces the pointer of a path, then delete the image that it replaced."""
        old = self.find(path)
        self.tag_unreferenced(old)
        change()
        if old is not None:
            self.delete_image(old)

    def tag_unreferenced(self, pointer: Pointer | None) -> None:
        """Tag an image whose pointer is about to be replaced or removed, so that the sweep finds it after a crash."""
        if pointer is not None and pointer.image:
            self._images.tag(pointer.image, self._unreferenced_tag())

    def delete_image(self, pointer: Pointer) -> None:
        """Delete the image of a removed pointer; an image that may have another pointer is left to the sweep."""
        if pointer.image and not pointer.is_shared:
            self._images.remove(pointer.image)

    def _unreferenced_tag(self) -> str:
        """Return this store's tag for unreferenced images; the store's ID is created on first use."""
        if self._tag is None:
            try:
                store = self._alternate.get_content(_STORE).decode()
            except PathNotFound:
                condition = ABSENT if self._alternate.capabilities.if_match else None
                with suppress(PreconditionFailed):  # another process created it first
                    self._alternate.put_content(_STORE, secrets.token_hex(8).encode(), if_match=condition)
                store = self._alternate.get_content(_STORE).decode()
            self._tag = f"docker-registry-loose-{store}"
        return self._tag

    def sweep(self, older_than_seconds: float) -> int:
        """Delete unreferenced images that were updated at least *older_than_seconds* ago; return their number."""
        candidates = set(self._images.tagged(self._unreferenced_tag(), time.time() - older_than_seconds))
        referenced: set[str | None] = set()
        # Walk twice: the first walk misses a pointer that is moved from a part not yet listed to one already listed.
        for _ in range(2):
            if candidates - referenced:
                referenced |= {pointer.image for _, pointer in pointers.list_below(self._alternate, "")} & candidates
        for image in candidates:
            if image in referenced:
                self._images.untag(image, self._unreferenced_tag())
            else:
                self._images.remove(image)
        return len(candidates - referenced)
