"""
Decompression of layers, either from the store or while they are being uploaded.

:func:`open_archive` reads a stored layer, :class:`Expansion` decompresses a layer while it is being stored, and
:func:`diff_id` computes the digest of a stored layer's uncompressed bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from docker_registry.drivers.base import Bytes
from docker_registry.errors import LayerFormatUnsupported, RegistryError, TooLarge
from docker_registry.registry.layers.compression import Compression, Decompressor
from docker_registry.registry.layers.limits import Meter
from docker_registry.registry.names import Digest

_READ_BYTES: Final = 512 * 1024


class Readable(Protocol):
    """An object with a ``read`` method, such as an open file."""

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes; an empty result means the end."""


#: The stored bytes of a layer, as an iterable of blocks or as a readable object.
Source = Iterable[Bytes] | Readable


class Archive:
    """
    The uncompressed bytes of a stored layer, to be iterated over in blocks or read; only once.

    Attributes:
        compression: the compression in which the layer is stored.
    """

    def __init__(self, compression: Compression, pieces: Iterator[Bytes]) -> None:
        self.compression = compression
        self._pieces = pieces
        self._rest = memoryview(b"")

    def __iter__(self) -> Iterator[Bytes]:
        """Yield the remaining blocks; each is valid only until the next one is requested."""
        if self._rest:
            rest, self._rest = self._rest, memoryview(b"")
            yield rest
        yield from self._pieces

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes; an empty result means the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)


def open_archive(source: Source, *, max_bytes: int | None, meter: Meter | None = None) -> Archive:
    """
    Open a stored layer for reading without its compression.

    Args:
        max_bytes: the maximum number of uncompressed bytes; None for no limit.
        meter: checks the ratio and time limits of this layer.

    Raises:
        LayerFormatUnsupported, TooLarge: on opening or on a later read (see :meth:`Decompressor.feed`).
    """
    decompressor = Decompressor(max_bytes=max_bytes, meter=meter)
    pieces = _expand(decompressor, source)
    first = next(pieces, b"")
    assert decompressor.compression is not None
    return Archive(decompressor.compression, _chain(first, pieces))


def _expand(decompressor: Decompressor, source: Source) -> Iterator[Bytes]:
    for block in blocks(source):
        yield from decompressor.feed(block)
    yield from decompressor.finish()


def _chain(first: Bytes, rest: Iterator[Bytes]) -> Iterator[Bytes]:
    if first:
        yield first
    yield from rest


def blocks(source: Source) -> Iterator[Bytes]:
    """Yield a layer's stored bytes in blocks, from either kind of source."""
    if isinstance(source, Iterable):
        yield from source
        return
    while block := source.read(_READ_BYTES):
        yield block


class Sink(Protocol):
    """Receives the uncompressed bytes of a layer, block by block."""

    def feed(self, block: Bytes) -> None:
        """Process the next block, which is valid only during the call."""

    def finish(self) -> None:
        """Complete the result; called once, after the last block of an undamaged layer."""


class Expansion:
    """
    Decompresses a layer while it is being stored and passes the uncompressed bytes to sinks.

    :meth:`update` receives each block as it was uploaded. It never raises because of the layer's content, so the
    inspection cannot fail an upload: a blob that is not an archive is stored like any other. :meth:`finish` raises the
    first error instead.
    """

    def __init__(self, *sinks: Sink, max_bytes: int | None, meter: Meter | None = None) -> None:
        """
        Args:
            max_bytes: the maximum number of uncompressed bytes; None for no limit.
            meter: checks the ratio and time limits of this layer.
        """
        self._sinks = sinks
        self._decompressor = Decompressor(max_bytes=max_bytes, meter=meter)
        self._error: RegistryError | None = None

    def update(self, block: Bytes) -> None:
        """Process the next stored block; no reference to it is kept."""
        if self._error is None:
            self._feed_sinks(self._decompressor.feed(block))

    def finish(self) -> Compression:
        """
        Process the end of the layer and finish the sinks.

        Returns:
            The compression of the layer.

        Raises:
            LayerFormatUnsupported, TooLarge: the first error that the decompressor or a sink raised.
        """
        if self._error is None:
            self._feed_sinks(self._decompressor.finish())
        if self._error is not None:
            raise self._error
        for sink in self._sinks:
            sink.finish()
        assert self._decompressor.compression is not None
        return self._decompressor.compression

    def _feed_sinks(self, pieces: Iterator[Bytes]) -> None:
        try:
            for piece in pieces:
                for sink in self._sinks:
                    sink.feed(piece)
        except (LayerFormatUnsupported, TooLarge) as error:
            self._error = error


class DiffId:
    """
    A sink that computes a layer's diff_id: the digest of its uncompressed bytes (OCI image-spec, config.md).

    Attributes:
        size: uncompressed bytes so far.
    """

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> Digest:
        """The digest of the bytes so far."""
        return Digest.from_hash(self._hash)

    def feed(self, block: Bytes) -> None:
        """See :class:`Sink`."""
        self.size += len(block)
        self._hash.update(block)

    def finish(self) -> None:
        """See :class:`Sink`."""


@dataclass(frozen=True, slots=True)
class Uncompressed:
    """
    The diff_id and size of a layer's uncompressed bytes.

    Attributes:
        compression: the compression in which the layer is stored.
        diff_id: the digest of the uncompressed bytes.
        size: uncompressed bytes.
    """

    compression: Compression
    diff_id: Digest
    size: int


def diff_id(source: Source, *, max_bytes: int | None) -> Uncompressed:
    """
    Compute the diff_id of a stored layer.

    Args:
        max_bytes: the maximum number of uncompressed bytes; None for no limit.

    Raises:
        LayerFormatUnsupported, TooLarge: see :meth:`Decompressor.feed`.
    """
    archive = open_archive(source, max_bytes=max_bytes)
    result = DiffId()
    for block in archive:
        result.feed(block)
    return Uncompressed(archive.compression, result.digest, result.size)
