"""
A push parser for tar archives.

Python's :mod:`tarfile` pulls from a file, keeps every member in memory and accepts extended headers of any size. This
parser is fed blocks, keeps no members, and limits every count, because a few kilobytes of a compressed layer can
contain gigabytes of names.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final, Protocol, TypeVar

from docker_registry.drivers.base import Bytes
from docker_registry.errors import LayerFormatUnsupported, TooLarge
from docker_registry.registry.layers import tar_headers
from docker_registry.registry.layers.tar_headers import BLOCK_BYTES, SPARSE, Member

#: Maximum members of a layer; the largest images in the wild have a few hundred thousand.
MAX_MEMBERS: Final = 1_000_000

# Extensions are extended headers (pax) and long names (GNU): they precede a member and override fields of its header.

#: Maximum bytes of all extensions of one member; Go's reader allows as much for each of them.
MAX_EXTENSION_BYTES: Final = 1024 * 1024

#: Maximum number of extensions of one member; writers need at most three: two long names and a pax header.
MAX_EXTENSIONS: Final = 16

#: Maximum bytes of all extensions of a layer, including their headers: FREE_EXTENSION_BYTES, plus MEAN_EXTENSION_BYTES
#: for each member. The extended attributes of a file usually take less than 1 KiB.
MEAN_EXTENSION_BYTES: Final = 4096
FREE_EXTENSION_BYTES: Final = 64 * 1024 * 1024

#: Maximum bytes of the values in extensions, summed over all members. Those of a global header count once for each
#: member that follows it, because it applies to all of them.
MAX_OVERRIDE_BYTES: Final = 512 * 1024 * 1024

#: Types of the GNU members that hold a long name of the next member, and the equivalent pax keywords.
_LONG_NAMES: Final = {b"L": b"path", b"K": b"linkpath"}

#: Type of a global pax header, which applies to all following members.
_GLOBAL: Final = b"g"

#: Types of headers that describe other members; X is the pre-standard extended header of Solaris.
_EXTENSIONS: Final = frozenset({*_LONG_NAMES, _GLOBAL, b"x", b"X"})

_Receiver = Callable[[memoryview], None]

#: The next bytes that the parser needs: their number (not 0), and the callable that receives them as they arrive, or
#: None to buffer them until all have arrived.
_Request = tuple[int, _Receiver | None]

#: A coroutine of the parser: it yields requests for bytes, is sent the buffered bytes, and returns its result.
_Result = TypeVar("_Result")
_Steps = Generator[_Request, bytes, _Result]


class Visitor(Protocol):
    """Receives the members of a tar and their content."""

    def member(self, member: Member, /) -> None:
        """Process the header of the next member."""

    def content(self, block: memoryview, /) -> None:
        """Process the next bytes of that member's stored content, which are valid only during the call."""


class TarReader:
    """A :class:`~docker_registry.registry.layers.archives.Sink` that passes the members of a tar to visitors."""

    def __init__(self, *visitors: Visitor, max_members: int = MAX_MEMBERS) -> None:
        """
        Args:
            visitors: each receives every member and its content.
            max_members: the maximum number of members.
        """
        self._visitors = visitors
        self._max_members = max_members
        self._max_extension_bytes = FREE_EXTENSION_BYTES
        self._override_bytes = 0
        self._is_between_members = True
        self._ended = False
        self._buffer = bytearray()
        self._steps = self._read()
        self._count, self._receiver = next(self._steps)

    @property
    def has_end_marker(self) -> bool:
        """Whether the end-of-archive marker has been read; some writers omit it."""
        return self._ended

    def feed(self, block: Bytes) -> None:
        """
        Parse the next bytes; those after the end of the archive are ignored.

        Raises:
            LayerFormatUnsupported: the bytes are not a tar, or it is damaged.
            TooLarge: the tar has too many members, too many extended headers, or too long names.
        """
        rest = memoryview(block)
        while rest and not self._ended:
            part, rest = rest[: self._count], rest[self._count :]
            self._count -= len(part)
            if self._receiver is None:
                self._buffer += part
            else:
                self._receiver(part)
            while not self._count and not self._ended:
                self._step()

    def finish(self) -> None:
        """
        Check that the archive is complete. The two zero blocks at the end may be missing: old writers omitted them.

        Raises:
            LayerFormatUnsupported: the archive is truncated.
        """
        if not self._ended and (not self._is_between_members or self._buffer):
            raise LayerFormatUnsupported(reason="the tar is cut off")

    def _step(self) -> None:
        buffered = bytes(self._buffer)
        self._buffer.clear()
        try:
            self._count, self._receiver = self._steps.send(buffered)
        except StopIteration:
            self._ended = True

    def _read(self) -> _Steps[None]:
        """Parse the archive; a coroutine, written as if all bytes were available."""
        global_records: dict[bytes, bytes] = {}
        members = 0
        while True:
            member_records: dict[bytes, bytes] = {}
            extensions = _Extensions(self._max_extension_bytes)
            self._is_between_members = True
            header = yield from self._header()
            while header is not None and header.type in _EXTENSIONS:
                extensions.count(header)
                content = yield from self._extension(header)
                (global_records if header.type == _GLOBAL else member_records).update(_records(header.type, content))
                header = yield from self._header()
            if header is None:
                if member_records:
                    raise LayerFormatUnsupported(reason="an extended header of the tar belongs to no member")
                return
            members += 1
            if members > self._max_members:
                raise TooLarge("The layer has too many members.", max_members=self._max_members)
            self._max_extension_bytes += MEAN_EXTENSION_BYTES - extensions.size_bytes
            records = global_records | member_records
            self._override_bytes += sum(map(len, records.values()))
            if self._override_bytes > MAX_OVERRIDE_BYTES:
                raise TooLarge("The file names in the layer are too long.", max_bytes=MAX_OVERRIDE_BYTES)
            yield from self._member(tar_headers.apply(header, records))

    def _header(self) -> _Steps[Member | None]:
        """Parse the next header and skip the map of a sparse file; return None at the end of the archive."""
        block = yield BLOCK_BYTES, None
        self._is_between_members = False
        if not any(block):
            return None
        header = tar_headers.parse(block)
        continues = header.type == SPARSE and block[tar_headers.MAP_CONTINUES_FLAG]
        while continues:
            block = yield BLOCK_BYTES, None
            continues = block[tar_headers.BLOCK_CONTINUES_FLAG]
        return header

    def _extension(self, header: Member) -> _Steps[bytes]:
        content = (yield header.stored + _padding(header.stored), None) if header.stored else b""
        return content[: header.stored]

    def _member(self, member: Member) -> _Steps[None]:
        for visitor in self._visitors:
            visitor.member(member)
        if member.stored:
            yield member.stored, self._pass_content
            if padding := _padding(member.stored):
                yield padding, _discard

    def _pass_content(self, block: memoryview) -> None:
        for visitor in self._visitors:
            visitor.content(block)


class _Extensions:
    """Counts the extended headers and long names of one member before they are read."""

    def __init__(self, max_bytes: int) -> None:
        """
        Args:
            max_bytes: the bytes that the layer has left for extensions, including their headers.
        """
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._count = 0
        self._content_bytes = 0

    def count(self, header: Member) -> None:
        """
        Count an extended header or long name.

        Raises:
            TooLarge: the number or size of the extensions exceeds a limit of the member or of the layer.
        """
        self._count += 1
        self._content_bytes += header.stored
        self.size_bytes += BLOCK_BYTES + header.stored + _padding(header.stored)
        if self._content_bytes > MAX_EXTENSION_BYTES:
            raise TooLarge("A file name in the layer is too long.", max_bytes=MAX_EXTENSION_BYTES)
        if self._count > MAX_EXTENSIONS or self.size_bytes > self._max_bytes:
            raise TooLarge("The layer has too many extended headers.")


def _records(kind: bytes, content: bytes) -> dict[bytes, bytes]:
    """Parse an extended header, or convert a GNU long name to the equivalent pax record."""
    if kind in _LONG_NAMES:
        return {_LONG_NAMES[kind]: content.partition(b"\0")[0]}
    return tar_headers.parse_records(content)


def _padding(size: int) -> int:
    return -size % BLOCK_BYTES


def _discard(block: memoryview) -> None:
    """Discard padding."""
