"""
The compressions in which layers come, told apart by their first bytes.

What a client calls its layer is never asked; six forms are known: ``tar`` (plain), ``gzip``, ``bzip2``, ``xz``,
``lzma`` (the older form of xz) and ``zstd``. Bytes come and go in blocks, so a layer of any size needs a few hundred
kilobytes and the window of its compression, which is bounded. So is what it expands to: a layer that grows beyond its
bound stops there, not when the memory or the disk is full.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, Protocol

from docker_registry.drivers.base import Bytes
from docker_registry.errors import LayerFormatUnsupported, TooLarge
from docker_registry.registry.layers.limits import Meter
from docker_registry.registry.layers.tar_headers import BLOCK_BYTES, is_header

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["tar", "gzip", "bzip2", "xz", "lzma", "zstd"]

#: What ``zstd --ultra -22`` asks for; ``xz -9`` is content with half of it.
MAX_WINDOW_BYTES: Final = 128 * 1024 * 1024

_PIECE_BYTES: Final = 256 * 1024
_FED_BYTES: Final = 64 * 1024

#: Room that a decoder of xz needs beside its window.
_OVERHEAD_BYTES: Final = 1024 * 1024


def sniff(beginning: bytes) -> Compression | None:
    """
    Tell what a layer is.

    Args:
        beginning: its first 512 bytes, or all of it when it has fewer.

    Returns:
        The compression; ``tar`` also for a layer of no bytes at all, which Docker takes for an empty one; None when
        it is no archive.
    """
    if not beginning:
        return "tar"
    if beginning.startswith(b"\x1f\x8b\x08"):  # RFC 1952, section 2.3
        return "gzip"
    # The header, then a block of content or the end of the stream; the letters alone could begin a file's name.
    if beginning[:3] == b"BZh" and beginning[4:10] in {b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"}:
        return "bzip2"
    if beginning.startswith(b"\xfd7zXZ\0"):  # The .xz File Format, section 2.1.1.1
        return "xz"
    if beginning.startswith(b"\x28\xb5\x2f\xfd"):  # RFC 8878, section 3.1.1
        return "zstd"
    if beginning[1:4] == b"\x2a\x4d\x18" and 0x50 <= beginning[0] <= 0x5F:  # skippable frame, section 3.1.2
        return "zstd"
    if _begins_tar(beginning):
        return "tar"
    # A form without a signature; asked last, because a tar whose first file is named "]" begins like it.
    return "lzma" if beginning.startswith(b"\x5d\0\0") else None


def _begins_tar(beginning: bytes) -> bool:
    return len(beginning) >= BLOCK_BYTES and (not any(beginning) or is_header(beginning[:BLOCK_BYTES]))


class _Codec(Protocol):
    """The shape of a decompressor of one member (or stream, or frame) in Python's library."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflate:
    """zlib in the shape of its sisters."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)  # gzip's header and trailer, and nothing else

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


_CODECS: Final[Mapping[Compression, Callable[[int], _Codec]]] = {
    "gzip": lambda _: _Inflate(),
    "bzip2": lambda _: bz2.BZ2Decompressor(),
    "xz": lambda window: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=window + _OVERHEAD_BYTES),
    "lzma": lambda window: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=window + _OVERHEAD_BYTES),
    "zstd": lambda window: zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: window.bit_length() - 1}
    ),
}

_REFUSALS: Final = (zlib.error, OSError, lzma.LZMAError, zstd.ZstdError)


class Decompressor:
    """
    Takes a layer's bytes in blocks, as they come, and gives its uncompressed bytes in pieces.

    Several members one after the other are one content, as every tool has it; zeros may fill up the end (what tapes and
    devices leave), anything else there is refused.

    Attributes:
        compression: what the layer is; None until 512 bytes have come, or all.
        size: uncompressed bytes so far.
    """

    def __init__(
        self, *, max_bytes: int | None, max_window_bytes: int = MAX_WINDOW_BYTES, meter: Meter | None = None
    ) -> None:
        """
        Args:
            max_bytes: uncompressed bytes that are given at most; None takes what comes.
            max_window_bytes: memory that the layer may ask for to be decompressed, a power of two.
            meter: further limits of this layer.
        """
        self.compression: Compression | None = None
        self.size = 0
        self._max_bytes = max_bytes
        self._max_window_bytes = max_window_bytes
        self._meter = meter
        self._stored_bytes = 0
        self._beginning = bytearray()
        self._codec: _Codec | None = None
        self._members = 0

    def feed(self, block: Bytes) -> Iterator[Bytes]:
        """
        Take a block and yield what it expands to; the pieces must all be taken, each before the next one.

        Raises:
            LayerFormatUnsupported: it is no archive, it is damaged, or it asks for too large a window.
            TooLarge: it exceeds a limit.
        """
        self._stored_bytes += len(block)
        if self.compression is None:
            self._beginning += block
            if len(self._beginning) < BLOCK_BYTES:
                return
            block = self._settle()
        yield from self._expand(block)

    def finish(self) -> Iterator[Bytes]:
        """
        Yield what is left, once all blocks were fed.

        Raises:
            LayerFormatUnsupported: as in :meth:`feed`, or the layer was cut off.
            TooLarge: as in :meth:`feed`.
        """
        if self.compression is None:
            yield from self._expand(self._settle())
        if self._codec is not None:
            raise LayerFormatUnsupported(reason="it is cut off", compression=self.compression)

    def _settle(self) -> bytes:
        beginning = bytes(self._beginning)
        self._beginning.clear()
        self.compression = sniff(beginning[:BLOCK_BYTES])
        if self.compression is None:
            raise LayerFormatUnsupported(reason="it is no archive")
        return beginning

    def _expand(self, block: Bytes) -> Iterator[Bytes]:
        if self.compression == "tar":
            if self._meter is not None:
                self._meter.check(self._stored_bytes, self.size)
            yield self._counted(block)
            return
        fed = memoryview(block)
        for start in range(0, len(fed), _FED_BYTES):
            yield from self._decompress(bytes(fed[start : start + _FED_BYTES]))

    def _decompress(self, rest: bytes) -> Iterator[Bytes]:
        while True:
            if self._codec is None:
                rest = rest.lstrip(b"\0") if self._members else rest
                if not rest:
                    return
                self._codec = self._next_member()
            piece = self._step(self._codec, rest)
            if piece:
                yield self._counted(piece)
            rest = b""
            if self._codec.eof:
                rest, self._codec = self._codec.unused_data, None
            elif self._codec.needs_input:
                return

    def _next_member(self) -> _Codec:
        assert self.compression is not None
        if self.compression == "lzma" and self._members:
            raise LayerFormatUnsupported(reason="it does not end where its archive ends", compression="lzma")
        self._members += 1
        return _CODECS[self.compression](self._max_window_bytes)

    def _step(self, codec: _Codec, block: bytes) -> bytes:
        if self._meter is not None:  # also where nothing comes out, as of a million empty members
            self._meter.check(self._stored_bytes, self.size)
        # One byte beyond the bound is enough to know.
        wanted = _PIECE_BYTES if self._max_bytes is None else min(_PIECE_BYTES, self._max_bytes - self.size + 1)
        try:
            return codec.decompress(block, wanted)
        except _REFUSALS as refusal:
            raise LayerFormatUnsupported(reason=str(refusal), compression=self.compression) from None

    def _counted(self, piece: Bytes) -> Bytes:
        self.size += len(piece)
        if self._max_bytes is not None and self.size > self._max_bytes:
            raise TooLarge("The layer expands to more than this registry reads.", max_bytes=self._max_bytes)
        return piece
