"""Blobs that are passed on from an upstream without being stored, while the registry is read-only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from docker_registry.errors import UpstreamError
from docker_registry.registry import layout
from docker_registry.registry.mirror.upstream_content import WITHHELD_BYTES, first_bytes
from docker_registry.registry.names import Digest

#: Receives the bytes of the blob from an offset to another, or to its end.
Receive = Callable[[int, int | None], AbstractContextManager[Iterable[bytes]]]


class PassedOnBlob:
    """
    Such a blob as a :class:`~docker_registry.registry.stored_file.ServedFile`.

    As with other content of upstreams, the last bytes are withheld until the digest is verified, so a part that
    contains them requires the whole blob. The upstream sends it again for each client.
    """

    def __init__(self, digest: Digest, size: int, receive: Receive) -> None:
        """
        Args:
            size: bytes of the blob.
        """
        self.path = layout.blob_data(digest)
        self.size = size
        self._digest = digest
        self._receive = receive
        self._released_end = max(0, size - WITHHELD_BYTES)

    def open(self) -> BinaryIO | None:
        """Return None: there is no file."""
        return None

    def segments(self, offset: int, length: int) -> None:  # noqa: ARG002
        """Return None: no part is in a file."""
        return

    def redirect_url(self) -> str | None:
        """Return None: the store does not have it."""
        return None

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Yield bytes of the blob as they arrive.

        Raises:
            UpstreamError: the upstream cannot be asked, or sends other content than that of the digest.
        """
        end = self.size if length is None else min(offset + length, self.size)
        is_part = offset < end <= self._released_end  # no upstream sends a part without bytes
        return self._read_part(offset, end) if is_part else self._read_verified(offset, end)

    def _read_part(self, offset: int, end: int) -> Iterator[bytes]:
        with self._receive(offset, end) as blocks:
            for part in first_bytes(blocks, end - offset):
                offset += len(part)
                yield part
        if offset < end:
            raise self._mismatch()

    def _read_verified(self, offset: int, end: int) -> Iterator[bytes]:
        state, received, withheld = hashlib.new(self._digest.algorithm), 0, bytearray()
        with self._receive(0, None) as blocks:
            for block in blocks:
                state.update(block)
                released = block[: max(0, self._released_end - received)]
                withheld += block[len(released) :]
                if wanted := released[max(0, offset - received) :]:
                    yield wanted
                received += len(block)
                if received > self.size:
                    break
        if received != self.size or Digest.from_hash(state) != self._digest:
            raise self._mismatch()
        yield bytes(withheld[max(0, offset - self._released_end) : end - self._released_end])

    def _mismatch(self) -> UpstreamError:
        return UpstreamError(
            "The upstream registry sent other content than that of the digest.", digest=str(self._digest)
        )
