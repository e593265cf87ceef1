"""
A tar, read as it streams by.

Python's :mod:`tarfile` pulls from a file, keeps every member in memory and takes an extended header of any size for
true; here blocks are fed, nothing is kept, and every count is bounded: a few kilobytes of a compressed layer can claim
gigabytes of names.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final, Protocol, TypeVar

from docker_registry.drivers.base import Bytes
from docker_registry.errors import LayerFormatUnsupported, TooLarge
from docker_registry.registry.layers import tar_headers
from docker_registry.registry.layers.tar_headers import BLOCK_BYTES, SPARSE, Member

#: Members of a layer that are read at most; the largest images in the wild have a few hundred thousand.
MAX_MEMBERS: Final = 1_000_000

#: Bytes of all extended headers and long names of one member; Go's reader has the same bound for one of them.
MAX_EXTENSION_BYTES: Final = 1024 * 1024

#: Extended headers and long names of one member; writers need three at most, two long names and one header of pax.
MAX_EXTENSIONS: Final = 16

#: Bytes of them, headers included, for each member on average beyond the free ones of a layer. Extended attributes of a
#: file take less than 1 KiB as a rule.
MEAN_EXTENSION_BYTES: Final = 4096
FREE_EXTENSION_BYTES: Final = 64 * 1024 * 1024

#: Bytes of texts that extended headers replace, in all members together: a single global header replaces them in each.
MAX_TEXT_BYTES: Final = 512 * 1024 * 1024

#: GNU's members that hold a long name for the next one, and the records of pax that say the same.
_LONG_NAMES: Final = {b"L": b"path", b"K": b"linkpath"}

#: Records for all members that follow.
_GLOBAL: Final = b"g"

#: Headers that tell of others; X is what Solaris wrote before there was a standard.
_EXTENSIONS: Final = frozenset({*_LONG_NAMES, _GLOBAL, b"x", b"X"})

_Taker = Callable[[memoryview], None]

#: What the reader waits for: so many bytes (not 0), handed on to somebody as they come, or kept until all are there.
_Wish = tuple[int, _Taker | None]

#: A part of the reading: it yields wishes, is sent the bytes that were kept, and returns what it found.
_Result = TypeVar("_Result")
_Steps = Generator[_Wish, bytes, _Result]


class Visitor(Protocol):
    """What looks at a tar while it passes."""

    def member(self, member: Member, /) -> None:
        """Learn of the next member."""

    def content(self, block: memoryview, /) -> None:
        """See the next bytes of that member as they are stored; they are only valid during the call."""


class TarReader:
    """A :class:`~docker_registry.registry.layers.archives.Sink` that shows a tar to visitors, member by member."""

    def __init__(self, *visitors: Visitor, max_members: int = MAX_MEMBERS) -> None:
        """
        Args:
            max_members: more than these are refused.
        """
        self._visitors = visitors
        self._max_members = max_members
        self._max_extension_bytes = FREE_EXTENSION_BYTES
        self._text_bytes = 0
        self._between = True
        self._ended = False
        self._kept = bytearray()
        self._steps = self._read()
        self._count, self._taker = next(self._steps)

    @property
    def has_ended(self) -> bool:
        """Whether the mark at the end of the archive has come, which some writers leave out."""
        return self._ended

    def feed(self, block: Bytes) -> None:
        """
        Take the next bytes; what follows the end of the archive is passed over.

        Raises:
            LayerFormatUnsupported: it is no tar, or a damaged one.
            TooLarge: it has too many members, or too long a name.
        """
        rest = memoryview(block)
        while rest and not self._ended:
            part, rest = rest[: self._count], rest[self._count :]
            self._count -= len(part)
            if self._taker is None:
                self._kept += part
            else:
                self._taker(part)
            while not self._count and not self._ended:
                self._step()

    def finish(self) -> None:
        """
        Learn that this was all. The two empty blocks at the end may be missing: old writers left them out.

        Raises:
            LayerFormatUnsupported: the archive was cut off.
        """
        if not self._ended and (not self._between or self._kept):
            raise LayerFormatUnsupported(reason="the tar is cut off")

    def _step(self) -> None:
        kept = bytes(self._kept)
        self._kept.clear()
        try:
            self._count, self._taker = self._steps.send(kept)
        except StopIteration:
            self._ended = True

    def _read(self) -> _Steps[None]:
        """Read the archive, written down as if all of it were at hand."""
        common: dict[bytes, bytes] = {}
        members = 0
        while True:
            own: dict[bytes, bytes] = {}
            extensions = _Extensions(self._max_extension_bytes)
            self._between = True
            header = yield from self._header()
            while header is not None and header.type in _EXTENSIONS:
                extensions.count(header)
                content = yield from self._extension(header)
                (common if header.type == _GLOBAL else own).update(_records(header.type, content))
                header = yield from self._header()
            if header is None:
                if own:
                    raise LayerFormatUnsupported(reason="an extended header of the tar belongs to no member")
                return
            members += 1
            if members > self._max_members:
                raise TooLarge("The layer has more members than this registry reads.", max_members=self._max_members)
            self._max_extension_bytes += MEAN_EXTENSION_BYTES - extensions.size_bytes
            records = common | own
            self._text_bytes += sum(map(len, records.values()))
            if self._text_bytes > MAX_TEXT_BYTES:
                raise TooLarge("The names in the layer are longer than this registry reads.", max_bytes=MAX_TEXT_BYTES)
            yield from self._member(tar_headers.apply(header, records))

    def _header(self) -> _Steps[Member | None]:
        """Read the next header; None at the end of the archive."""
        block = yield BLOCK_BYTES, None
        self._between = False
        if not any(block):
            return None
        header = tar_headers.parse(block)
        goes_on = header.type == SPARSE and block[tar_headers.MAP_GOES_ON]
        while goes_on:
            block = yield BLOCK_BYTES, None
            goes_on = block[tar_headers.MAP_GOES_ON_AGAIN]
        return header

    def _extension(self, header: Member) -> _Steps[bytes]:
        content = (yield header.stored + _padding(header.stored), None) if header.stored else b""
        return content[: header.stored]

    def _member(self, member: Member) -> _Steps[None]:
        for visitor in self._visitors:
            visitor.member(member)
        if member.stored:
            yield member.stored, self._show
            if padding := _padding(member.stored):
                yield padding, _drop

    def _show(self, block: memoryview) -> None:
        for visitor in self._visitors:
            visitor.content(block)


class _Extensions:
    """The extended headers and long names of one member, counted before they are read."""

    def __init__(self, max_bytes: int) -> None:
        """
        Args:
            max_bytes: left for the layer, headers included.
        """
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._count = 0
        self._content_bytes = 0

    def count(self, header: Member) -> None:
        """
        Count another one.

        Raises:
            TooLarge: the member, or the layer, has too many, or too long ones.
        """
        self._count += 1
        self._content_bytes += header.stored
        self.size_bytes += BLOCK_BYTES + header.stored + _padding(header.stored)
        if self._content_bytes > MAX_EXTENSION_BYTES:
            raise TooLarge("A name in the layer is longer than this registry reads.", max_bytes=MAX_EXTENSION_BYTES)
        if self._count > MAX_EXTENSIONS or self.size_bytes > self._max_bytes:
            raise TooLarge("The layer has more extended headers than this registry reads.")


def _records(kind: bytes, content: bytes) -> dict[bytes, bytes]:
    """Read an extended header; GNU's long names are records in another dress."""
    if kind in _LONG_NAMES:
        return {_LONG_NAMES[kind]: content.partition(b"\0")[0]}
    return tar_headers.parse_records(content)


def _padding(size: int) -> int:
    return -size % BLOCK_BYTES


def _drop(block: memoryview) -> None:
    """Pass over what nobody wants."""
