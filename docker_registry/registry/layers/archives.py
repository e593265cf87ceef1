"""
Decompression of stored layers.

:func:`uncompressed` yields the result and raises the first error. :class:`Expansion` receives the stored bytes from a
caller that processes them too, passes the result to sinks, and reports an error only at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from docker_registry.drivers.base import Bytes
from docker_registry.errors import LayerFormatUnsupported, RegistryError, TooLarge
from docker_registry.registry.layers.compression import Compression, Decompressor
from docker_registry.registry.layers.limits import Meter
from docker_registry.registry.names import Digest


def uncompressed(layer: Iterable[Bytes], *, max_bytes: int | None, meter: Meter | None = None) -> Iterator[Bytes]:
    """
    Yield a stored layer without its compression, in blocks; each is valid only until the next one is requested.

    Args:
        layer: the stored bytes, in blocks.
        max_bytes: the maximum number of uncompressed bytes; None for no limit.
        meter: checks the ratio and time limits of this layer.

    Raises:
        LayerFormatUnsupported, TooLarge: see :meth:`Decompressor.feed`.
    """
    decompressor = Decompressor(max_bytes=max_bytes, meter=meter)
    for block in layer:
        yield from decompressor.feed(block)
    yield from decompressor.finish()


class Sink(Protocol):
    """Receives the uncompressed bytes of a layer, block by block."""

    def feed(self, block: Bytes) -> None:
        """Process the next block, which is valid only during the call."""

    def finish(self) -> None:
        """Complete the result; called once, after the last block of an undamaged layer."""


class Expansion:
    """
    Decompresses a layer block by block, and passes the uncompressed bytes to sinks.

    :meth:`update` never raises because of the layer's content, so that the caller can process a layer that is not an
    archive to its end. :meth:`finish` raises the first error instead.
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
    """A sink that computes a layer's diff_id: the digest of its uncompressed bytes (OCI image-spec, config.md)."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> Digest:
        """The digest of the bytes so far."""
        return Digest.from_hash(self._hash)

    def feed(self, block: Bytes) -> None:
        """See :class:`Sink`."""
        self._hash.update(block)

    def finish(self) -> None:
        """See :class:`Sink`."""
