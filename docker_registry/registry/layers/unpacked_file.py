"""A compressed layer of the store that clients are sent as the plain tar that it is inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from docker_registry.drivers.base import Bytes
from docker_registry.errors import StorageError
from docker_registry.registry.layers.archives import open_archive
from docker_registry.registry.stored_file import StoredFile
from docker_registry.threads import in_thread


@dataclass(frozen=True, slots=True)
class UnpackedFile(StoredFile):
    """
    As a :class:`StoredFile`, for those who read it.

    Attributes:
        size: uncompressed bytes.
    """

    @property
    def is_as_stored(self) -> bool:
        """Nobody else could send these bytes from the store."""
        return False

    def open(self) -> BinaryIO | None:
        """Return None: the kernel can send no bytes that nobody has stored."""
        return None

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read it, or a part of it, in blocks; what lies before the part is unpacked and passed over."""
        # The base class by its name: `super()` knows nothing of a class that was made anew for its slots.
        pieces = iter(open_archive(StoredFile.read(self), max_bytes=self.size))
        wanted = self.size - offset if length is None else min(length, self.size - offset)
        return self._cut(pieces, offset, wanted)

    def _cut(self, pieces: Iterator[Bytes], skipped: int, wanted: int) -> Iterator[bytes]:
        while wanted > 0:
            piece: Bytes | None = in_thread(next, pieces, None)
            if piece is None:
                raise StorageError("A layer of the store is shorter than it was.", path=self.path)
            block = bytes(piece[skipped : skipped + wanted])
            skipped -= min(skipped, len(piece))
            wanted -= len(block)
            if block:
                yield block
