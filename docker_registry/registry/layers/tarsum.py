"""
The TarSum of a layer, by which Docker up to 0.9 proves that a layer belongs to its image's JSON.

It stays the same if the same files are packed into another tar (moby, "TarSum checksum specification", Version0).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from docker_registry.drivers.base import Bytes
from docker_registry.registry.layers.archives import uncompressed
from docker_registry.registry.layers.limits import Meter
from docker_registry.registry.layers.tar_headers import DIRECTORY, Member
from docker_registry.registry.layers.tarstream import TarReader

if TYPE_CHECKING:
    from hashlib import _Hash

_PREFIX: Final = "tarsum+sha256:"


class TarSum:
    """
    A :class:`~docker_registry.registry.layers.tarstream.Visitor` that computes the TarSum of a tar.

    Each member is hashed with its header fields and content. The TarSum is independent of the order of the members.
    """

    def __init__(self) -> None:
        self._sums: list[bytes] = []
        self._current: _Hash | None = None

    def member(self, member: Member, /) -> None:
        """See :class:`~docker_registry.registry.layers.tarstream.Visitor`."""
        self._close()
        self._current = hashlib.sha256(_fields(member))

    def content(self, block: memoryview, /) -> None:
        """See :class:`~docker_registry.registry.layers.tarstream.Visitor`."""
        assert self._current is not None
        self._current.update(block)

    def sum(self, image_json: bytes) -> str:
        """
        Return the TarSum of the members so far, ``tarsum+sha256:<hex>``.

        Args:
            image_json: the stored bytes of the image's JSON.
        """
        self._close()
        total = hashlib.sha256(image_json)
        for digest in sorted(self._sums):
            total.update(digest.hex().encode())
        return _PREFIX + total.hexdigest()

    def _close(self) -> None:
        if self._current is not None:
            self._sums.append(self._current.digest())
            self._current = None


def tarsum(image_json: bytes, layer: Iterable[Bytes], *, max_bytes: int | None, meter: Meter | None = None) -> str:
    """
    Return the TarSum of a stored layer, ``tarsum+sha256:<hex>``.

    Args:
        image_json: the stored bytes of the image's JSON.
        layer, max_bytes, meter: as for :func:`.archives.uncompressed`.

    Raises:
        LayerFormatUnsupported: the layer is not a tar in a supported compression, is damaged, or is truncated.
        TooLarge: the layer exceeds a limit.
    """
    result = TarSum()
    reader = TarReader(result)
    for block in uncompressed(layer, max_bytes=max_bytes, meter=meter):
        reader.feed(block)
    reader.finish()
    return result.sum(image_json)


def _fields(member: Member) -> bytes:
    name = member.name
    if member.type == DIRECTORY and not name.endswith(b"/"):
        name += b"/"
    # The size of a sparse file is its stored size, because Go's archive/tar did not support holes at that time. A link
    # has no stored content; its size is the one in its header.
    fields: tuple[tuple[bytes, bytes | int], ...] = (
        (b"name", name),
        (b"mode", member.mode),
        (b"uid", member.uid),
        (b"gid", member.gid),
        (b"size", member.stored or member.size),
        (b"mtime", math.floor(member.mtime)),
        (b"typeflag", member.type),
        (b"linkname", member.linkname),
        (b"uname", member.uname),
        (b"gname", member.gname),
        (b"devmajor", member.devmajor),
        (b"devminor", member.devminor),
    )
    return b"".join(key + (value if isinstance(value, bytes) else b"%d" % value) for key, value in fields)
