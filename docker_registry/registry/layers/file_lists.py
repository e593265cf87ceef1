"""
The file list of a layer, and its difference from the layers below, in the form that API V1 returns.

A whiteout is a member named ``.wh.<name>``: it hides ``<name>`` in the layers below (OCI image-spec, layer.md,
"Whiteouts"). An opaque marker, ``.wh..wh..opq``, hides everything in its directory in the layers below. Other names
that begin with ``.wh..wh.`` are metadata of AUFS, which wrote the first layers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from docker_registry.errors import TooLarge
from docker_registry.registry.layers.tar_headers import REGULAR_V7, Member

#: Total bytes of all names in a layer; those of a few hundred thousand files take some tens of millions.
MAX_NAMES_BYTES: Final = 128 * 1024 * 1024

#: Bytes of one name: four times PATH_MAX on Linux. The time to compare layers grows with the square of a name's length.
MAX_NAME_BYTES: Final = 16 * 1024

_WHITEOUT: Final = ".wh."
_AUFS_METADATA: Final = ".wh..wh."
_OPAQUE: Final = ".wh..wh..opq"

_FOLDER: Final = "d"

_LETTERS: Final[Mapping[bytes, str]] = {
    b"\0": "f",
    b"0": "f",
    b"1": "l",
    b"2": "s",
    b"3": "c",
    b"4": "b",
    b"5": _FOLDER,
    b"6": "i",
    b"7": "t",
    b"L": "L",
    b"K": "K",
    b"S": "S",
}


class Entry(NamedTuple):
    """
    One entry of a file list; in JSON, an array of these eight fields.

    Attributes:
        name: as in the tar, but ``./x`` becomes ``/x`` and ``.`` becomes ``/``. Bytes that are not valid UTF-8 are
            escaped as ``\\xff``, the only form that all JSON parsers accept.
        type: ``f`` file, ``l`` hard link, ``s`` symbolic link, ``c`` and ``b`` device, ``d`` directory, ``i`` pipe,
            ``t`` contiguous file, ``S`` sparse file, ``u`` unknown.
        deleted: whether the entry is a whiteout of this name.
        size: bytes.
        mtime: seconds since the Unix epoch, with a fraction if the tar has one.
    """

    name: str
    type: str
    deleted: bool
    size: int
    mtime: int | float
    mode: int
    uid: int
    gid: int

    @property
    def path(self) -> str:
        """The name without leading and trailing slashes; entries with equal paths denote the same file."""
        return self.name.strip("/")


@dataclass(frozen=True, slots=True)
class FileList:
    """
    The files of a layer.

    Attributes:
        entries: in the order of the tar, including whiteouts.
        opaque: the paths of directories whose content in the layers below is hidden; ``""`` is the root.
    """

    entries: tuple[Entry, ...]
    opaque: frozenset[str] = frozenset()

    def answer(self) -> bytes:
        """Return the response of API V1: ``[["/etc/motd", "f", false, 12, 1400000000, 420, 0, 0], …]``."""
        return _json(self.entries)

    def record(self) -> bytes:
        """
        Serialize the list for storage, to be read by :meth:`parse`::

            [["etc/motd", "f", false, 12, 1400000000, 420, 0, 0], …]    the response of API V1
            ["etc", …]                                                  the opaque directories
            00000000000000000061                                        the length of the first line
        """
        writer = FileListWriter()
        return writer.write(self.entries) + writer.finish(self.opaque)

    @classmethod
    def parse(cls, record: bytes) -> FileList:
        """
        Parse the output of :meth:`record`.

        Raises:
            ValueError: *record* is not the record of a file list.
        """
        length = read_trailer(record[-TRAILER_BYTES:])
        try:
            entries, opaque = json.loads(record[:length]), json.loads(record[length:-TRAILER_BYTES])
            return cls(tuple(Entry(*fields) for fields in entries), frozenset(opaque))
        except TypeError as error:
            raise ValueError(f"not the record of a file list: {error}") from None


#: Bytes of the last line of a record, including the line feed.
TRAILER_BYTES: Final = 21

_TRAILER = re.compile(rb"([0-9]{20})\n")


def read_trailer(trailer: bytes) -> int:
    """
    Return the length in bytes of the API V1 response at the start of a record.

    Args:
        trailer: the last :data:`TRAILER_BYTES` bytes of the record.

    Raises:
        ValueError: *trailer* is not the end of a record.
    """
    match = _TRAILER.fullmatch(trailer)
    if match is None:
        raise ValueError("not the record of a file list")
    return int(match[1])


class FileListWriter:
    """Serializes a record incrementally; the result is identical to that of :meth:`FileList.record`."""

    def __init__(self) -> None:
        self._length = 0

    def write(self, entries: Sequence[Entry]) -> bytes:
        """Return the bytes of the next entries."""
        if not entries:
            return b""
        start = b", " if self._length else b"["
        written = start + _json(entries)[1:-1]
        self._length += len(written)
        return written

    def finish(self, opaque: Iterable[str]) -> bytes:
        """Return the bytes after the last entry."""
        end = b"]" if self._length else b"[]"
        self._length += len(end)
        return b"%s\n%s\n%020d\n" % (end, _json(sorted(opaque)), self._length)


class FileLister:
    """A :class:`~docker_registry.registry.layers.tarstream.Visitor` that lists the files of a tar."""

    def __init__(self, *, max_names_bytes: int = MAX_NAMES_BYTES) -> None:
        """
        Args:
            max_names_bytes: the maximum total length of all names in bytes.
        """
        self._entries: list[Entry] = []
        self._opaque: set[str] = set()
        self._max_names_bytes = max_names_bytes
        self._names_bytes = 0

    @property
    def files(self) -> FileList:
        """The files so far, without those that :meth:`take` returned."""
        return FileList(tuple(self._entries), frozenset(self._opaque))

    def take(self) -> list[Entry]:
        """Return and forget the entries that were added after the previous call."""
        entries, self._entries = self._entries, []
        return entries

    def member(self, member: Member, /) -> None:
        """See :class:`~docker_registry.registry.layers.tarstream.Visitor`."""
        if len(member.name) > MAX_NAME_BYTES:
            raise TooLarge("A file name in the layer is too long.", max_bytes=MAX_NAME_BYTES)
        self._names_bytes += len(member.name)
        if self._names_bytes > self._max_names_bytes:
            raise TooLarge("The file names in the layer are too long.", max_bytes=self._max_names_bytes)
        name = _name(member.name)
        folder, slash, base = name.rpartition("/")
        if base == _OPAQUE:
            self._opaque.add(folder.strip("/"))
        if any(part.startswith(_AUFS_METADATA) for part in name.split("/")):
            return
        deleted = base.startswith(_WHITEOUT) and base != _WHITEOUT
        if deleted:
            name = folder + slash + base.removeprefix(_WHITEOUT)
        self._entries.append(_entry(name, member, deleted=deleted))

    def content(self, block: memoryview, /) -> None:
        """See :class:`~docker_registry.registry.layers.tarstream.Visitor`."""


def _name(raw: bytes) -> str:
    name = raw.decode("utf-8", "backslashreplace").rstrip("/")
    if name in {"", "."}:
        return "/"
    return name[1:] if name.startswith("./") else name


def _entry(name: str, member: Member, *, deleted: bool) -> Entry:
    is_folder = member.type == REGULAR_V7 and member.name.endswith(b"/")  # V7 tar has no type for directories
    return Entry(
        name=name,
        type=_FOLDER if is_folder else _LETTERS.get(member.type, "u"),
        deleted=deleted,
        size=member.size,
        mtime=member.mtime if isinstance(member.mtime, int) else float(member.mtime),
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
    )


#: Maps a name to the other seven fields of its entry.
Changes = dict[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Diff:
    """The difference between a layer and the layers below it."""

    deleted: Changes
    changed: Changes
    created: Changes

    def answer(self) -> bytes:
        """
        Return the response of API V1::

            {"changed": {}, "created": {"/etc/motd": ["f", false, …]}, "deleted": {}}
        """
        return _json({"deleted": self.deleted, "changed": self.changed, "created": self.created})


def diff(chain: Iterable[FileList]) -> Diff:
    """
    Compute the difference between the first layer of a chain and the others.

    An entry is deleted if the layer has a whiteout for it, or if the layer hides it in a directory that it replaces (of
    those, only the topmost entries are listed). Of the layer's other entries, those that are visible in the layers
    below are changed, and the rest are created. A base layer cannot change or delete anything, so all its entries,
    including whiteouts, are created.

    Args:
        chain: the file lists of the image and its ancestors, nearest first; at least one.
    """
    layers = iter(chain)
    top = next(layers)
    top_entries = _by_path(top)
    parent = next(layers, None)
    if parent is None:
        return Diff({}, {}, _changes(top_entries.values()))
    below = _visible((parent, *layers))
    present = {path: entry for path, entry in top_entries.items() if not entry.deleted}
    return Diff(
        deleted=_changes([*_hidden(top, present, below), *(entry for entry in top_entries.values() if entry.deleted)]),
        changed=_changes(entry for path, entry in present.items() if path in below),
        created=_changes(entry for path, entry in present.items() if path not in below),
    )


def _by_path(layer: FileList) -> dict[str, Entry]:
    """Index a layer by path. A whiteout applies to the layers below, so it never hides an entry of its own layer."""
    entries: dict[str, Entry] = {}
    for entry in layer.entries:
        if not entry.deleted or entries.get(entry.path, entry).deleted:
            entries[entry.path] = entry
    return entries


def _visible(layers: Iterable[FileList]) -> dict[str, Entry]:
    """Overlay layers, given nearest first, and return the entries visible from the top."""
    visible: dict[str, Entry] = {}
    covered: set[str] = set()  # paths whose content in deeper layers is hidden
    for layer in layers:
        entries = _by_path(layer)
        visible |= {
            path: entry
            for path, entry in entries.items()
            if path not in visible and not any(folder in covered for folder in _folders(path))
        }
        covered |= _whiteouts(layer) | layer.opaque
        # A file here hides a directory in deeper layers, even if a nearer layer has a directory at this path again.
        covered.update(path for path, entry in entries.items() if entry.type != _FOLDER)
    return {path: entry for path, entry in visible.items() if not entry.deleted}


def _hidden(top: FileList, present: Mapping[str, Entry], below: Mapping[str, Entry]) -> Iterator[Entry]:
    """
    Yield the entries that a layer deletes implicitly: those in its opaque directories and in directories it replaces.

    Only the topmost are yielded: like a whiteout, a deleted directory stands for everything in it.
    """
    replaced = top.opaque | (_whiteouts(top) & present.keys())
    hidden = {path for path in below if path not in present and any(folder in replaced for folder in _folders(path))}
    for path in hidden:
        if not any(folder in hidden for folder in _folders(path)):
            yield below[path]._replace(deleted=True)


def _whiteouts(layer: FileList) -> set[str]:
    return {entry.path for entry in layer.entries if entry.deleted}


def _folders(path: str) -> Iterator[str]:
    """Yield the parent directories of a path up to the root, which is the empty string."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def _changes(entries: Iterable[Entry]) -> Changes:
    return {entry.name: entry[1:] for entry in entries}


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode("ascii")
