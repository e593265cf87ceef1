"""
Base classes of the drivers for object stores.

An object's name is the root prefix (``storage_path``) followed by the path. Object stores have no folders: a folder is
listed by a prefix query with ``/`` as the delimiter. Other programs mark a folder by an object whose name ends with a
slash; such markers are not files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import ClassVar, Final, Generic, Protocol, TypeVar

from docker_registry.concurrency import run_concurrently
from docker_registry.drivers.base import Bytes, Capabilities, Stat, StorageDriver, Versioned
from docker_registry.drivers.paths import check_path
from docker_registry.errors import PathInvalid, PathNotFound, PreconditionFailed


class Entry(Protocol):
    """One object in a listing or a response; the name of a folder ends with a slash."""

    @property
    def name(self) -> str:
        """The object's full name, including the root prefix."""

    @property
    def size(self) -> int:
        """Size in bytes."""

    @property
    def modified(self) -> float:
        """Time of the last modification, in seconds since the Unix epoch."""


E = TypeVar("E", bound=Entry)
E_co = TypeVar("E_co", bound=Entry, covariant=True)


class Objects(Protocol[E_co]):
    """A bucket or container. Methods that take a name raise PathNotFound if no object has it."""

    def head(self, name: str) -> E_co:
        """Return an object's metadata."""

    def read(self, name: str, offset: int, length: int | None) -> Iterator[bytes]:
        """Open an object and return an iterator over its blocks."""

    def entries(self, prefix: str) -> Iterator[E_co]:
        """Yield all objects whose names begin with a prefix."""

    def children(self, prefix: str) -> Iterator[E_co]:
        """Yield the objects and folders directly below a prefix; each folder is yielded once."""

    def has_any(self, prefix: str) -> bool:
        """Return whether any object's name begins with a prefix."""

    def delete_all(self, names: Iterable[str]) -> int:
        """Delete objects and return how many existed."""


class VersionedObjects(Objects[E_co], Protocol[E_co]):
    """A bucket or container that identifies object versions and supports conditional writes."""

    def get(self, name: str) -> tuple[bytes, str]:
        """Return an object's content and its version."""

    def put(self, name: str, content: Bytes, *, if_match: str | None = None) -> None:
        """Write an object; PreconditionFailed if *if_match* is not its current version."""

    def delete(self, name: str, version: str | None = None) -> None:
        """Delete an object; PreconditionFailed if *version* is given and is not the current version."""


#: What every object store can do.
OBJECT_CAPABILITIES: Final = Capabilities(move_copies=True, pages=True, min_chunk_bytes=5 * 1024 * 1024)


class ObjectDriver(StorageDriver, Generic[E]):
    """Base class of drivers that store each file as an object."""

    capabilities = OBJECT_CAPABILITIES

    #: Folder below the root for the driver's internal objects; hidden from listings and rejected as a path.
    reserved: ClassVar[str | None] = None

    _objects: Objects[E]

    def __init__(self, storage_path: str | None) -> None:
        """
        Set the root prefix. The subclass then sets ``_objects``, for which it may need the root.

        Args:
            storage_path: the prefix of all object names; leading and trailing slashes are ignored.
        """
        root = (storage_path or "").strip("/")
        self._root = f"{root}/" if root else ""

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        name = self._name(path)
        if length == 0:
            self.stat(path)
            return iter(())
        try:
            return self._objects.read(name, offset, length)
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        is_there, prefix = not path, self._prefix(path)
        for entry in self._objects.children(prefix):
            found = self._path(entry.name.removesuffix("/"))
            if found is not None and entry.name != prefix:  # an object of this name marks the folder itself
                is_there = True
                yield found
        if not is_there:
            raise PathNotFound(path=path)

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        for entry in self._objects.entries(self._prefix(path)):
            found = self._path(entry.name)  # a name that ends with a slash is a folder marker, not a path
            if found is not None:
                yield Stat(found, entry.size, entry.modified)

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        try:
            self._head(path)
        except PathNotFound:
            return self._objects.has_any(self._prefix(path))
        return True

    def find_sizes(self, paths: Sequence[str]) -> list[int | None]:
        """See :class:`StorageDriver`."""
        return run_concurrently(*(partial(self.find_size, path) for path in paths))

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        entry = self._head(path)
        return Stat(path, entry.size, entry.modified)

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`; a server-side copy followed by a delete."""
        new, old = self._name(target), self._head(source)
        while old.name != new:
            try:
                self._copy(old, new)
                with suppress(PathNotFound):  # another process already deleted the source
                    self._delete(old)
            except PreconditionFailed:  # the source was overwritten meanwhile: retry with the new version
                old = self._head(source)
                continue
            except PathNotFound:
                raise PathNotFound(path=source) from None
            return

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            self._touch(path)
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        try:
            self._remove_file(path)
        except PathNotFound:
            if not self._objects.delete_all(entry.name for entry in self._objects.entries(self._prefix(path))):
                raise PathNotFound(path=path) from None

    def discard_file(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        with suppress(PathNotFound):
            self._remove_file(path)

    # --------------------------------------------------------------------------------------------- for subclasses

    @abstractmethod
    def _copy(self, source: E, target: str) -> None:
        """Copy an object; PathNotFound if it was deleted, PreconditionFailed if its version changed."""

    @abstractmethod
    def _delete(self, entry: E) -> None:
        """Delete an object; PreconditionFailed if its version changed and the store can detect that."""

    @abstractmethod
    def _touch(self, path: str) -> None:
        """Update an object's modification time; PathNotFound if it does not exist."""

    def _remove_file(self, path: str) -> None:
        """Delete one object; PathNotFound if it does not exist."""
        self._delete(self._head(path))

    # ---------------------------------------------------------------------------------------- paths and names

    def _name(self, path: str) -> str:
        return self._root + self._check(path)

    def _check(self, path: str) -> str:
        check_path(path)
        if self.reserved and f"{path}/".startswith(f"{self.reserved}/"):
            raise PathInvalid(path=path)
        return path

    def _prefix(self, path: str) -> str:
        return f"{self._root}{self._check(path)}/" if path else self._root

    def _path(self, name: str) -> str | None:
        """Return the path of an object; None if its name is not a valid path or is reserved."""
        try:
            return self._check(name[len(self._root) :])
        except PathInvalid:
            return None

    def _head(self, path: str) -> E:
        try:
            return self._objects.head(self._name(path))
        except PathNotFound:
            raise PathNotFound(path=path) from None


class VersionedObjectDriver(ObjectDriver[E]):
    """Base class of drivers whose store identifies object versions."""

    _objects: VersionedObjects[E]

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        return self.get_versioned(path).content

    def get_versioned(self, path: str) -> Versioned:
        """See :class:`StorageDriver`; the version is that of the object store."""
        name = self._name(path)
        try:
            return Versioned(*self._objects.get(name))
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        try:
            self._objects.put(self._name(path), content, if_match=if_match)
        except PreconditionFailed:
            raise PreconditionFailed(path=path) from None

    def remove_if_match(self, path: str, version: str) -> None:
        """See :class:`StorageDriver`."""
        if not self.capabilities.remove_if_match:
            super().remove_if_match(path, version)
            return
        try:
            self._objects.delete(self._name(path), version)
        except (PathNotFound, PreconditionFailed):
            raise PreconditionFailed(path=path) from None


def chunks(blocks: Iterable[Bytes], size: int) -> Iterator[bytes]:
    """
    Regroup blocks into chunks of equal size.

    Args:
        size: bytes per chunk. The last chunk is always shorter than this, possibly empty, and always yielded.
    """
    buffer = bytearray()
    for block in blocks:
        with memoryview(block) as view:
            start = 0
            while len(buffer) + len(view) - start >= size:
                end = start + size - len(buffer)
                buffer += view[start:end]
                start = end
                yield _taken(buffer)
            buffer += view[start:]
    yield _taken(buffer)


def _taken(buffer: bytearray) -> bytes:
    content = bytes(buffer)
    buffer.clear()
    return content
