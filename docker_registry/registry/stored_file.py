"""A file of the store that a client may be sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import NotFound, PathNotFound


@dataclass(frozen=True, slots=True)
class StoredFile:
    """
    Where bytes lie, found and measured.

    Attributes:
        path: its place in the store, for a server in front that can read there by itself.
        size: bytes.
        gone: what to raise when it was removed since.
    """

    driver: StorageDriver
    path: str
    size: int
    gone: NotFound

    def open(self) -> BinaryIO | None:
        """
        Open it as a local file that the kernel can send; None where the store is not local.

        Raises:
            NotFound: removed since it was found.
        """
        try:
            return self.driver.open_file(self.path)
        except PathNotFound:
            raise self.gone from None

    def redirect_url(self) -> str | None:
        """Return a signed URL under which a client may fetch these very bytes by itself; None where there is none."""
        return self.driver.content_redirect_url(self.path)

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Read it, or a part of it, in blocks.

        Raises:
            NotFound: removed since it was found.
        """
        try:
            return self.driver.stream_read(self.path, offset, length)
        except PathNotFound:
            raise self.gone from None
