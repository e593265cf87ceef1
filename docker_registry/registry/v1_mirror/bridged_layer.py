"""Layers of a mirrored registry of API V2, sent to clients of API V1 while they are received."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from docker_registry.registry.mirror.upstream_content import WITHHELD_BYTES
from docker_registry.registry.stored_file import Segment, ServedFile
from docker_registry.registry.v1.layer_jobs import BEGINNING_BYTES, is_readable


class BridgedLayer:
    """
    A blob that is being received, as the layer of an image of API V1; a ServedFile.

    The blob is verified by its digest. The layer must also be that of the image, which is only known when the whole
    blob has been read; the last bytes are withheld until then.
    """

    path: Final = ""

    def __init__(self, blob: ServedFile, verified: Callable[[], ServedFile]) -> None:
        """
        Args:
            blob: the bytes that are being received.
            verified: waits until the blob is in the store, and returns it if it is the layer of the image; otherwise
                raises UpstreamError.
        """
        self.size = blob.size
        self._blob = blob
        self._verified = verified

    def is_readable(self) -> bool:
        """Return whether clients of API V1 can unpack the layer; waits for its first bytes."""
        return is_readable(b"".join(self._blob.read(0, BEGINNING_BYTES)))

    def open(self) -> BinaryIO | None:
        """Return None: there is no file yet."""
        return None

    def redirect_url(self) -> str | None:
        """Return None: the store cannot serve it yet."""
        return None

    def read(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Yield bytes of the layer as they arrive; the last ones when it is verified.

        Raises:
            RegistryError: the transfer failed, or the layer is another one.
        """
        end = self.size if length is None else min(offset + length, self.size)
        released_end = max(offset, min(end, self.size - WITHHELD_BYTES))
        yield from self._blob.read(offset, released_end - offset)
        if released_end < end:
            yield from self._verified().read(released_end, end - released_end)

    def segments(self, offset: int, length: int) -> Iterator[Segment]:
        """Yield what :meth:`read` does, and parts of local files, each open until the next segment is requested."""
        end = min(offset + length, self.size)
        released_end = max(offset, min(end, self.size - WITHHELD_BYTES))
        yield from _segments(self._blob, offset, released_end)
        if released_end < end:
            yield from _segments(self._verified(), released_end, end)


def _segments(file: ServedFile, offset: int, end: int) -> Iterator[Segment]:
    segments = file.segments(offset, end - offset)
    return file.read(offset, end - offset) if segments is None else segments
