"""
Layers without their compression: read from the store, or seen while they pass.

:func:`open_archive` is for a layer that is read, :class:`Expansion` for one that is being stored, :func:`diff_id` for
the one number.
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
    """What can be read from, such as an open file."""

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes, none only at the end."""


#: A layer's bytes as they lie in the store: in blocks, or to be read.
Source = Iterable[Bytes] | Readable


class Archive:
    """
    A stored layer, uncompressed: iterate over its blocks, or read from it; once.

    Attributes:
        compression: what it was stored as.
    """

    def __init__(self, compression: Compression, pieces: Iterator[Bytes]) -> None:
        self.compression = compression
        self._pieces = pieces
        self._rest = memoryview(b"")

    def __iter__(self) -> Iterator[Bytes]:
        """Yield block after block; each is valid until the next one is asked for."""
        if self._rest:
            rest, self._rest = self._rest, memoryview(b"")
            yield rest
        yield from self._pieces

    def read(self, size: int, /) -> bytes:
        """Return at most *size* bytes, none only at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece)
        part, self._rest = self._rest[:size], self._rest[size:]
        return bytes(part)


def open_archive(source: Source, *, max_bytes: int | None, meter: Meter | None = None) -> Archive:
    """
    Open a stored layer.

    Args:
        max_bytes: uncompressed bytes that may be read from it.
        meter: further limits of this layer.

    Raises:
        LayerFormatUnsupported, TooLarge: now, or when it is read (see :meth:`Decompressor.feed`).
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
    """Yield a layer's bytes in blocks, whichever way it is given."""
    if isinstance(source, Iterable):
        yield from source
        return
    while block := source.read(_READ_BYTES):
        yield block


class Sink(Protocol):
    """What takes the uncompressed bytes of a layer while it passes."""

    def feed(self, block: Bytes) -> None:
        """Take the next block, which is only valid during the call."""

    def finish(self) -> None:
        """Learn that the layer ended, whole."""


class Expansion:
    """
    A layer that passes by: :meth:`update` is called with each block as it came, and sinks see it uncompressed.

    ``update`` never raises because of what is in a layer, so that it may look at an upload without hurting it: a layer
    that is no archive is stored like any other. What was wrong is said by :meth:`finish`.
    """

    def __init__(self, *sinks: Sink, max_bytes: int | None, meter: Meter | None = None) -> None:
        """
        Args:
            max_bytes: uncompressed bytes at which it gives up.
            meter: further limits of this layer.
        """
        self._sinks = sinks
        self._decompressor = Decompressor(max_bytes=max_bytes, meter=meter)
        self._error: RegistryError | None = None

    def update(self, block: Bytes) -> None:
        """Take the next block, which is not kept."""
        if self._error is None:
            self._pass(self._decompressor.feed(block))

    def finish(self) -> Compression:
        """
        Say what the layer was, once all blocks have passed; now the sinks know their results.

        Raises:
            LayerFormatUnsupported, TooLarge: the first thing that the layer, or a sink, could not be content with.
        """
        if self._error is None:
            self._pass(self._decompressor.finish())
        if self._error is not None:
            raise self._error
        for sink in self._sinks:
            sink.finish()
        assert self._decompressor.compression is not None
        return self._decompressor.compression

    def _pass(self, pieces: Iterator[Bytes]) -> None:
        try:
            for piece in pieces:
                for sink in self._sinks:
                    sink.feed(piece)
        except (LayerFormatUnsupported, TooLarge) as error:
            self._error = error


class DiffId:
    """
    A sink that works out a layer's diff_id: the digest of its uncompressed bytes (OCI image-spec, config.md).

    Attributes:
        size: uncompressed bytes.
    """

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> Digest:
        """The digest of what has passed."""
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
    What a layer is without its compression.

    Attributes:
        compression: what it is stored as.
        diff_id: the digest of its uncompressed bytes.
        size: uncompressed bytes.
    """

    compression: Compression
    diff_id: Digest
    size: int


def diff_id(source: Source, *, max_bytes: int | None) -> Uncompressed:
    """
    Work out the diff_id of a stored layer.

    Args:
        max_bytes: uncompressed bytes at which it gives up.

    Raises:
        LayerFormatUnsupported, TooLarge: see :meth:`Decompressor.feed`.
    """
    archive = open_archive(source, max_bytes=max_bytes)
    result = DiffId()
    for block in archive:
        result.feed(block)
    return Uncompressed(archive.compression, result.digest, result.size)
