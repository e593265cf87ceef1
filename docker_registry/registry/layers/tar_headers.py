"""
Parsing of tar headers (POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual,
"Basic Tar Format").

Supports the formats of old and current archives: V7, ustar, GNU and pax, with numbers in octal or base 256.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from docker_registry.errors import LayerFormatUnsupported

#: Bytes of a header and of a tar block: all content is padded to a multiple of it.
BLOCK_BYTES: Final = 512

REGULAR: Final = b"0"
REGULAR_V7: Final = b"\0"
DIRECTORY: Final = b"5"
SPARSE: Final = b"S"

#: Links, devices, directories and pipes: no content follows their header, regardless of its size field.
WITHOUT_CONTENT: Final = frozenset({b"1", b"2", b"3", b"4", DIRECTORY, b"6"})

#: Maps the keywords of an extended header to their values.
Records = Mapping[bytes, bytes]

#: Maps the text keywords of an extended header to the fields of :class:`Member` that they override.
_TEXTS: Final = {b"path": "name", b"linkpath": "linkname", b"uname": "uname", b"gname": "gname"}

#: The size of a sparse file (GNU tar manual, "Storing Sparse Files"): in its first pax format, and in the later ones.
_REAL_SIZES: Final = (b"GNU.sparse.size", b"GNU.sparse.realsize")

#: The keywords that are used; all others, such as access times, extended attributes and comments, are ignored.
_KEYWORDS: Final = frozenset({*_TEXTS, b"uid", b"gid", b"mtime", b"size", b"GNU.sparse.name", *_REAL_SIZES})

#: Offset of the byte that is set if the map of an old GNU sparse file continues in another block: in the header, and in
#: each further block.
MAP_CONTINUES_FLAG: Final = 482
BLOCK_CONTINUES_FLAG: Final = 504

_USTAR: Final = b"ustar\0"

_CHECKSUM: Final = slice(148, 156)
_REAL_SIZE: Final = slice(483, 495)

_OCTAL = re.compile(rb"[0-7]*")
_INTEGER = re.compile(rb"-?[0-9]{1,20}")
_TIME = re.compile(rb"-?[0-9]{1,20}(?:\.[0-9]{0,20})?")
_RECORD = re.compile(rb"([0-9]{1,7}) ([^=]+)=")


@dataclass(frozen=True, slots=True)
class Member:
    """
    The header fields of one member of a tar, uninterpreted.

    Attributes:
        type: the type flag, one byte.
        size: bytes of the file, including the holes of a sparse file.
        stored: bytes of content in the archive.
        mtime: seconds since the Unix epoch: an integer from a header, a decimal from a pax record.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    stored: int
    mtime: int | Decimal
    type: bytes
    linkname: bytes
    uname: bytes
    gname: bytes
    devmajor: int
    devminor: int


def is_header(block: bytes) -> bool:
    """Return whether 512 bytes have a valid header checksum, over unsigned or (old writers) signed bytes."""
    try:
        stored_sum = _number(block[_CHECKSUM])
    except LayerFormatUnsupported:
        return False
    rest = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    return stored_sum == sum(rest) or stored_sum == sum(byte - 256 if byte > 127 else byte for byte in rest)


def parse(block: bytes) -> Member:
    """
    Parse a header of 512 bytes.

    Raises:
        LayerFormatUnsupported: the checksum is wrong, or a number is invalid.
    """
    if not is_header(block):
        raise LayerFormatUnsupported(reason="a header of the tar is damaged")
    name = _text(block[:100])
    # Only ustar stores the first part of a long name here; GNU tar uses these bytes for other fields.
    prefix = _text(block[345:500]) if block[257:263] == _USTAR else b""
    size = _number(block[124:136])
    if size < 0:
        raise LayerFormatUnsupported(reason="a member of the tar has a negative size")
    kind = block[156:157]
    return Member(
        name=prefix + b"/" + name if prefix else name,
        mode=_number(block[100:108]),
        uid=_number(block[108:116]),
        gid=_number(block[116:124]),
        size=_number(block[_REAL_SIZE]) if kind == SPARSE else size,
        stored=0 if kind in WITHOUT_CONTENT else size,
        mtime=_number(block[136:148]),
        type=kind,
        linkname=_text(block[157:257]),
        uname=_text(block[265:297]),
        gname=_text(block[297:329]),
        devmajor=_number(block[329:337]),
        devminor=_number(block[337:345]),
    )


def parse_records(content: bytes) -> dict[bytes, bytes]:
    """
    Parse the records of an extended header, such as ``19 path=etc/passwd\\n``; each begins with its own length.

    Values are returned as bytes: pax requires UTF-8, but layers contain arbitrary bytes.

    Raises:
        LayerFormatUnsupported: a record is malformed.
    """
    records = {}
    position = 0
    while position < len(content):
        start = _RECORD.match(content, position)
        end = position + int(start[1]) if start else 0
        if not start or not start.end() < end <= len(content) or content[end - 1] != ord("\n"):
            raise LayerFormatUnsupported(reason="an extended header of the tar is damaged")
        if start[2] in _KEYWORDS:
            records[start[2]] = content[start.end() : end - 1]
        position = end
    return records


def apply(member: Member, records: Records) -> Member:
    """
    Return a copy of *member* with the overrides of its extended headers.

    An empty value leaves the field of the header in effect (POSIX, "pax Extended Header"). An invalid number becomes 0.
    """
    overrides = {keyword: value for keyword, value in records.items() if value}
    if not overrides:
        return member
    changes: dict[str, Any] = {field: overrides[keyword] for keyword, field in _TEXTS.items() if keyword in overrides}
    if b"uid" in overrides:
        changes["uid"] = _integer(overrides[b"uid"])
    if b"gid" in overrides:
        changes["gid"] = _integer(overrides[b"gid"])
    if b"mtime" in overrides:
        changes["mtime"] = Decimal(overrides[b"mtime"].decode()) if _TIME.fullmatch(overrides[b"mtime"]) else Decimal(0)
    if b"size" in overrides:
        changes["size"] = size = max(_integer(overrides[b"size"]), 0)
        changes["stored"] = 0 if member.type in WITHOUT_CONTENT else size
    for keyword in _REAL_SIZES:
        if keyword in overrides:
            changes["size"] = _integer(overrides[keyword])
    if b"GNU.sparse.name" in overrides:
        changes["name"] = overrides[b"GNU.sparse.name"]
    return replace(member, **changes)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # base 256: two's complement in all bits but the first
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = _text(field).strip()
    if not _OCTAL.fullmatch(digits):
        raise LayerFormatUnsupported(reason="a number in the tar is damaged")
    return int(digits or b"0", 8)


def _integer(value: bytes) -> int:
    return int(value) if _INTEGER.fullmatch(value) else 0
