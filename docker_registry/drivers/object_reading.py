"""Read an object of a remote store; after a lost connection, the read resumes with the same version."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar, Final, Protocol

from docker_registry.errors import StorageError, StorageUnavailable

_BLOCK_BYTES: Final = 256 * 1024
#: Maximum number of consecutive resumes of a read that receive no byte.
_RESUMES: Final = 3


class Body(Protocol):
    """The body of a response."""

    @property
    def read(self) -> Callable[[int], bytes]:
        """Returns the next bytes, at most as many as its argument; empty at the end."""

    @property
    def close(self) -> Callable[[], object]:
        """Gives the connection back, or closes it unless the whole body was read."""


class ObjectReading(ABC):
    """
    One read of an object.

    Attributes:
        version: the version that is read; empty until the object is open.
    """

    #: The name of the store, for errors.
    store: ClassVar[str]

    #: What the client of the store raises if a connection is lost.
    network_errors: ClassVar[tuple[type[Exception], ...]]

    def __init__(self) -> None:
        self.version = ""

    def blocks(self, position: int, length: int | None) -> Iterator[bytes]:
        """
        Yield one empty block when the object is open, then its content.

        Args:
            position: first byte to read, from 0.
            length: maximum number of bytes; None reads to the end.

        Raises:
            PathNotFound: there is no such object; raised before the first block.
            StorageError: the object cannot be read further, or was replaced or removed.
        """
        end, failures = "" if length is None else str(position + length - 1), 0
        remaining, body = self._request(position, end)
        first: tuple[bytes, ...] = (b"",)
        while True:
            try:
                yield from first
                first = ()
                while remaining and body is not None and (block := body.read(min(_BLOCK_BYTES, remaining))):
                    position, remaining, failures = position + len(block), remaining - len(block), 0
                    yield block
            except self.network_errors:
                pass
            finally:
                if body is not None:
                    body.close()
            if not remaining:
                return
            if failures == _RESUMES:
                raise StorageUnavailable(f"{self.store} interrupted a download repeatedly.")
            failures += 1
            time.sleep(0.1 * 2**failures)
            missing = remaining
            remaining, body = self._request(position, end)
            if remaining != missing:
                if body is not None:
                    body.close()
                raise StorageError("The file was replaced while it was read.")

    @abstractmethod
    def _request(self, position: int, end: str) -> tuple[int, Body | None]:
        """
        Request a range of the version that is being read, or of any if none is yet, and set :attr:`version`.

        Args:
            end: the position of the last byte; empty to read to the end.

        Returns:
            The length of the range in bytes, and its body; 0 and None if it starts beyond the object's end.
        """
