"""
Detection and streaming decompression of layers.

The format is detected from the first bytes, never from the media type that a client declares. Six are supported:
``tar`` (uncompressed), ``gzip``, ``bzip2``, ``xz``, ``lzma`` (the predecessor of xz) and ``zstd``. Data is processed in
blocks, so a layer of any size needs a few hundred kilobytes plus the window of its compression, which is limited. The
uncompressed size is limited as well, so a decompression bomb cannot fill the memory or the disk.
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

#: The window that ``zstd --ultra -22`` needs; ``xz -9`` needs half of it.
MAX_WINDOW_BYTES: Final = 128 * 1024 * 1024

_PIECE_BYTES: Final = 256 * 1024
_FED_BYTES: Final = 64 * 1024

#: Memory that an xz decoder needs in addition to its window.
_OVERHEAD_BYTES: Final = 1024 * 1024


def sniff(beginning: bytes) -> Compression | None:
    """
    Detect the compression of a layer from its first bytes.

    Args:
        beginning: the first 512 bytes of the layer, or all of it if it is shorter.

    Returns:
        The compression, or None if the layer is not an archive. A layer of zero bytes counts as ``tar``, because
        Docker treats it as an empty layer.
    """
    if not beginning:
        return "tar"
    if beginning.startswith(b"\x1f\x8b\x08"):  # RFC 1952, section 2.3
        return "gzip"
    # The header, then a block of content or the end of the stream: in a tar, "BZh" alone could begin a file's name.
    if beginning[:3] == b"BZh" and beginning[4:10] in {b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"}:
        return "bzip2"
    if beginning.startswith(b"\xfd7zXZ\0"):  # The .xz File Format, section 2.1.1.1
        return "xz"
    if beginning.startswith(b"\x28\xb5\x2f\xfd"):  # RFC 8878, section 3.1.1
        return "zstd"
    if beginning[1:4] == b"\x2a\x4d\x18" and 0x50 <= beginning[0] <= 0x5F:  # skippable frame, section 3.1.2
        return "zstd"
    if _is_tar(beginning):
        return "tar"
    # lzma has no signature. It is checked last because a tar whose first file is named "]" begins with the same bytes.
    return "lzma" if beginning.startswith(b"\x5d\0\0") else None


def _is_tar(beginning: bytes) -> bool:
    return len(beginning) >= BLOCK_BYTES and (not any(beginning) or is_header(beginning[:BLOCK_BYTES]))


class _Codec(Protocol):
    """The interface of the standard library's decompressors, each for one member (or stream, or frame)."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflate:
    """Adapts zlib to the interface of the other decompressors."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)  # accept the gzip format only

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

_CODEC_ERRORS: Final = (zlib.error, OSError, lzma.LZMAError, zstd.ZstdError)


class Decompressor:
    """
    Decompresses a layer that arrives in blocks.

    Concatenated members form one content, as in the command-line tools. Zeros may follow the last member (padding from
    tapes and block devices); anything else after it is rejected.

    Attributes:
        compression: the detected compression; None until 512 bytes, or the end of the layer, have been received.
        size: uncompressed bytes so far.
    """

    def __init__(
        self, *, max_bytes: int | None, max_window_bytes: int = MAX_WINDOW_BYTES, meter: Meter | None = None
    ) -> None:
        """
        Args:
            max_bytes: the maximum number of uncompressed bytes; None for no limit.
            max_window_bytes: the maximum window of the compression in bytes, a power of two.
            meter: checks the ratio and time limits of this layer.
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
        Decompress a block and yield the result in pieces.

        The caller must consume the whole iterator before it feeds the next block. A piece is valid only until the next
        one is requested.

        Raises:
            LayerFormatUnsupported: the layer is not an archive, is damaged, or needs too large a window.
            TooLarge: the layer exceeds a limit.
        """
        self._stored_bytes += len(block)
        if self.compression is None:
            self._beginning += block
            if len(self._beginning) < BLOCK_BYTES:
                return
            block = self._detect()
        yield from self._expand(block)

    def finish(self) -> Iterator[Bytes]:
        """
        Yield the remaining bytes after the last block has been fed.

        Raises:
            LayerFormatUnsupported: as in :meth:`feed`, or the layer is truncated.
            TooLarge: as in :meth:`feed`.
        """
        if self.compression is None:
            yield from self._expand(self._detect())
        if self._codec is not None:
            raise LayerFormatUnsupported(reason="it is cut off", compression=self.compression)

    def _detect(self) -> bytes:
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
            yield self._count(block)
            return
        view = memoryview(block)
        for start in range(0, len(view), _FED_BYTES):
            yield from self._decompress(bytes(view[start : start + _FED_BYTES]))

    def _decompress(self, rest: bytes) -> Iterator[Bytes]:
        while True:
            if self._codec is None:
                rest = rest.lstrip(b"\0") if self._members else rest
                if not rest:
                    return
                self._codec = self._next_member()
            piece = self._step(self._codec, rest)
            if piece:
                yield self._count(piece)
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
        if self._meter is not None:  # even if there is no output, as with a million empty members
            self._meter.check(self._stored_bytes, self.size)
        # One byte beyond the limit is enough to detect that it is exceeded.
        max_length = _PIECE_BYTES if self._max_bytes is None else min(_PIECE_BYTES, self._max_bytes - self.size + 1)
        try:
            return codec.decompress(block, max_length)
        except _CODEC_ERRORS as error:
            raise LayerFormatUnsupported(reason=str(error), compression=self.compression) from None

    def _count(self, piece: Bytes) -> Bytes:
        self.size += len(piece)
        if self._max_bytes is not None and self.size > self._max_bytes:
            raise TooLarge("The unpacked layer is larger than this registry allows.", max_bytes=self._max_bytes)
        return piece
