"""Layers for the tests, in every compression."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS = {
    "tar": lambda content: content,
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    "zstd": zstd.compress,
}

#: An archive without members.
EMPTY = bytes(1024)

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

TYPES = {
    "folder": tarfile.DIRTYPE,
    "link": tarfile.LNKTYPE,
    "symlink": tarfile.SYMTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "file": tarfile.REGTYPE,
}


def member(name, kind="file", content=b"", **fields):
    """Return a member and its content; *fields* are those of a TarInfo."""
    described = tarfile.TarInfo(name)
    described.type = TYPES.get(kind, kind)
    described.size = len(content)
    described.mtime = 1400000000
    for field, value in fields.items():
        setattr(described, field, value)
    return described, content


def tar(*members, form="gnu"):
    """Pack members, each one of :func:`member` or the bare name of an empty file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=FORMATS[form], errors="surrogateescape") as archive:
        for each in members:
            described, content = member(each) if isinstance(each, str) else each
            archive.addfile(described, io.BytesIO(content))
    return packed.getvalue()


def cut(content, size):
    """Cut bytes into blocks."""
    return [content[start : start + size] for start in range(0, len(content), size)]


def patched(archive, offset, field):
    """Overwrite a field of an archive's first header and correct its checksum."""
    header = bytearray(archive[:512])
    header[offset : offset + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + archive[512:]
