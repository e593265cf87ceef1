"""Files of the store: as they are served to clients, and whether their content is intact."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol

from docker_registry.concurrency import run_in_thread
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import NotFound, PathNotFound
from docker_registry.registry.names import Digest


class FilePart(NamedTuple):
    """
    A part of a local file that is open.

    Attributes:
        descriptor: of the file.
        offset: first byte, from 0.
        length: bytes.
    """

    descriptor: int
    offset: int
    length: int


#: Bytes of a file, or a part of a local file that has them.
Segment = bytes | FilePart


class ServedFile(Protocol):
    """
    A file that can be sent to a client: a stored one, or one that is still being received.

    The methods are those of :class:`StoredFile`.
    """

    @property
    def path(self) -> str:
        """Storage path, also used by a front-end server that reads the store directly."""

    @property
    def size(self) -> int:
        """Bytes."""

    def open(self) -> BinaryIO | None:
        """Open the file for sendfile; None when it is not a local file."""

    def segments(self, offset: int, length: int) -> Iterator[Segment] | None:
        """Return the segments of a file that is still being received, as they arrive; None for a complete file."""

    def redirect_url(self) -> str | None:
        """Return a signed URL from which a client can download the bytes; None when there is none."""

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read the file, or a range of it, in blocks."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """
    A file in the store with its size, ready to be served.

    Attributes:
        path: storage path, also used by a front-end server that reads the store directly.
        size: bytes.
        gone: makes the error to raise when the file was removed in the meantime.
    """

    driver: StorageDriver
    path: str
    size: int
    gone: Callable[[], NotFound]

    def open(self) -> BinaryIO | None:
        """
        Open the file for sendfile; None when the store is not local.

        Raises:
            NotFound: the file was removed in the meantime.
        """
        try:
            return self.driver.open_file(self.path)
        except PathNotFound:
            raise self.gone() from None

    def segments(self, offset: int, length: int) -> None:  # noqa: ARG002
        """Return None: the file is complete."""
        return

    def redirect_url(self) -> str | None:
        """Return a signed URL from which a client can download the bytes; None when the store offers none."""
        return self.driver.content_redirect_url(self.path)

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Read the file, or a range of it, in blocks.

        Args:
            offset: first byte, from 0.
            length: bytes to read; None for all up to the end.

        Raises:
            NotFound: the file was removed in the meantime.
        """
        try:
            return self.driver.stream_read(self.path, offset, length)
        except PathNotFound:
            raise self.gone() from None


def is_intact(driver: StorageDriver, path: str, digest: Digest) -> bool:
    """
    Return whether the content of a stored file has a digest; False if the file does not exist.

    Reads the whole file; the hash is computed in a native thread.
    """
    content = hashlib.new(digest.algorithm)
    try:
        for block in driver.stream_read(path):
            run_in_thread(content.update, block)
    except PathNotFound:
        return False
    return Digest.from_hash(content) == digest
