"""Layers as images of Glance: sent there, pointed at, taken leave of, and swept when nothing points at them."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from docker_registry.drivers.base import ABSENT, Bytes, StorageDriver
from docker_registry.drivers.glance import pointers
from docker_registry.drivers.glance.images import GlanceImages
from docker_registry.drivers.glance.pointers import SUFFIX, Pointer
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

#: The driver's own folder in the alternate, which no list shows.
RESERVED: Final = ".glance"
_STORE: Final = f"{RESERVED}/store"
#: Another writer of the same path was quicker: so often one tries again.
MAX_TRIES: Final = 1000


class GlanceLayers:
    """The layers of one store."""

    def __init__(self, alternate: StorageDriver, images: GlanceImages) -> None:
        """
        Args:
            alternate: where the pointers are.
        """
        self._alternate = alternate
        self._images = images
        self._tag: str | None = None

    def find(self, path: str) -> Pointer | None:
        """Return what points at a layer's image; None when the layer is not in Glance."""
        return pointers.find(self._alternate, path)

    def read(self, pointer: Pointer, offset: int, length: int | None) -> Iterator[bytes]:
        """
        Read a layer in blocks; see :meth:`StorageDriver.stream_read`.

        Raises:
            ImageGone: its image was removed; at the call.
        """
        if pointer.image is None:
            return iter(())
        return self._images.read(pointer.image, pointer.size, offset, length)

    def upload(self, path: str, blocks: Iterable[Bytes]) -> Pointer:
        """Send a layer to Glance; it is nothing that anybody can find before :meth:`replace`."""
        image, size = self._images.add(path, self._loose(), blocks)
        return Pointer(image, size)

    def replace(self, path: str, pointer: Pointer, if_match: str | None = None) -> None:
        """Let a path be an image, and take leave of the one that it was."""
        old = self._point(path, pointer, if_match)
        if pointer.image:
            self._images.untag(pointer.image, self._loose())
        if old is not None:
            if old.is_shared:
                self.loosen(old)
            self.drop(old)
            return
        try:
            self._alternate.remove(path)  # from before Glance
        except PathNotFound:
            return

    def _point(self, path: str, pointer: Pointer, if_match: str | None) -> Pointer | None:
        """Publish a pointer, and return the one that it replaces."""
        for _ in range(MAX_TRIES):
            old = self.find(path)
            version = old.version if old and old.version else ABSENT
            if if_match not in (None, version):
                self.drop(pointer)
                raise PreconditionFailed(path=path)
            # Where the alternate can tell, every image is taken leave of by exactly one who replaces it.
            expected = version if self._alternate.supports_if_match else None
            try:
                self._alternate.put_content(path + SUFFIX, pointer.dump(), if_match=expected)
            except PreconditionFailed:
                continue
            return old
        raise StorageUnavailable("A layer was replaced again and again.", path=path)

    def shared(self, path: str) -> Pointer | None:
        """Return what points at a layer's image, and have it say that there may be another such pointer."""
        for _ in range(MAX_TRIES):
            pointer = self.find(path)
            if pointer is None or pointer.is_shared:
                return pointer
            shared = dataclasses.replace(pointer, is_shared=True)
            try:
                expected = pointer.version if self._alternate.supports_if_match else None
                self._alternate.put_content(path + SUFFIX, shared.dump(), if_match=expected)
            except PreconditionFailed:
                continue
            return shared
        raise StorageError("A layer was replaced again and again.", path=path)

    def retire_after(self, path: str, change: Callable[[], None]) -> None:
        """Take leave of the image that a path is, once a change has made it another."""
        old = self.find(path)
        self.loosen(old)
        change()
        if old is not None:
            self.drop(old)

    def loosen(self, pointer: Pointer | None) -> None:
        """Mark an image of which a pointer is about to go, lest it is forgotten when we die now."""
        if pointer is not None and pointer.image:
            self._images.tag(pointer.image, self._loose())

    def drop(self, pointer: Pointer) -> None:
        """Remove an image whose pointer is gone; one that may have another is left to the sweep."""
        if pointer.image and not pointer.is_shared:
            self._images.remove(pointer.image)

    def _loose(self) -> str:
        """Return the tag of images that no layer is, this store's own."""
        if self._tag is None:
            try:
                store = self._alternate.get_content(_STORE).decode()
            except PathNotFound:
                self._alternate.put_content(_STORE, secrets.token_hex(8).encode())
                store = self._alternate.get_content(_STORE).decode()
            self._tag = f"docker-registry-loose-{store}"
        return self._tag

    def sweep(self, older_than_seconds: float) -> int:
        """Remove the images that nothing points at any more, or that nothing ever did; return how many there were."""
        left = set(self._images.tagged(self._loose(), time.time() - older_than_seconds))
        named: set[str | None] = set()
        # Twice: a pointer that is moved from behind the walk to before it is met by the second.
        for _ in range(2):
            if left - named:
                named |= {pointer.image for _, pointer in pointers.below(self._alternate, "")} & left
        for image in left:
            if image in named:
                self._images.untag(image, self._loose())
            else:
                self._images.remove(image)
        return len(left - named)
