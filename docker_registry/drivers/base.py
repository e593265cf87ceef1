"""
The contract between the registry and whatever keeps its bytes.

A driver keeps bytes under paths, and knows nothing of images. Third parties write one by inheriting from
:class:`StorageDriver` and naming it under the entry-point group ``docker_registry.drivers``; the tests it must
pass are :class:`docker_registry.drivers.testing.DriverSuite`.

**Path grammar.** ``images/0a1b/layer``: components joined by ``/``, none of them empty, ``.`` or ``..``, each at
most 255 bytes of UTF-8, without control characters; no slash at either end. ``""`` is the root, which only
:meth:`~StorageDriver.list_directory` and :meth:`~StorageDriver.walk` accept. Anything else raises
:class:`~docker_registry.errors.PathInvalid`.

**Folders** are not things of their own: they exist as long as something lies in them.

**Publication is atomic.** A reader of a path sees the old content or the new one, whole, never a part; what a call
has returned for survives a crash of the process and, where the backend can promise it, of the host.

**Errors.** :class:`~docker_registry.errors.PathNotFound` when nothing is there; any trouble of the backend is a
:class:`~docker_registry.errors.StorageError`, never an exception of an SDK or an :class:`OSError`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import BinaryIO, ClassVar, Final

from docker_registry.errors import PathInvalid, PathNotFound, PreconditionFailed
from docker_registry.settings import Setting

Bytes = bytes | bytearray | memoryview

#: ``if_match`` of a put that must create: nothing may lie under the path yet.
ABSENT: Final = ""

#: The version of a folder that is not there.
NO_FOLDER: Final = ""

MAX_COMPONENT_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class Stat:
    """
    What is known of a stored file without reading it.

    Attributes:
        path: where it lies.
        size: bytes.
        modified: seconds since the Unix epoch, when it was published or last touched.
    """

    path: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Versioned:
    """
    A content together with the name of exactly this version of it.

    Attributes:
        content: the bytes.
        version: opaque and never empty; good for ``put_content(if_match=…)`` of the same path.
    """

    content: bytes
    version: str


class StorageDriver(ABC):
    """Keeps bytes under paths (see the module's docstring for the rules that all verbs share)."""

    #: The settings this driver takes; its constructor receives each of them as a keyword of the same name.
    settings: ClassVar[tuple[Setting, ...]] = ()

    #: Whether ``put_content(if_match=…)`` works, across processes and hosts.
    supports_if_match: ClassVar[bool] = False

    #: Whether :meth:`remove_if_match` compares and removes in one step, across processes and hosts.
    supports_remove_if_match: ClassVar[bool] = False

    #: Whether :meth:`move` copies all bytes, on whichever side: then what is written to its place at once is faster.
    move_copies: ClassVar[bool] = False

    #: Whether :meth:`walk` brings many files with each request to the backend, while :meth:`exists` costs one for each.
    walks_by_pages: ClassVar[bool] = False

    #: Whether every verb that reads notes what it looked at (:mod:`docker_registry.provenance`); few can.
    notes_provenance: ClassVar[bool] = False

    #: Bytes of a chunk of an upload below which it costs more than it brings; None where any size is as good.
    min_chunk_bytes: ClassVar[int | None] = None

    @abstractmethod
    def get_content(self, path: str) -> bytes:
        """Return all the bytes of a small file."""

    def get_versioned(self, path: str) -> Versioned:
        """
        Return the bytes of a small file and the version they are, read together.

        By default the version is the content's own hash.
        """
        content = self.get_content(path)
        return Versioned(content, hashlib.sha256(content).hexdigest())

    @abstractmethod
    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """
        Publish a small file, replacing what was there.

        Args:
            if_match: replace only this version (from :meth:`get_versioned`), or :data:`ABSENT` to create only;
                needs :attr:`supports_if_match`.

        Raises:
            PreconditionFailed: something else lies there; nothing was changed.
        """

    @abstractmethod
    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Read a file in blocks, none of them empty.

        Args:
            offset: first byte, from 0; at or beyond the end nothing is yielded.
            length: bytes at most; None reads to the end.

        Raises:
            PathNotFound: at the call, not at the first block.
            StorageError: also in the middle, when the rest cannot be had: a file never just ends early.
        """

    @abstractmethod
    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """
        Publish a file of any size, replacing what was there, once its source has ended.

        A block is used up before the next one is asked for, so a source may reuse its buffers. When the source
        raises, nothing is published and its exception goes on to the caller.

        Returns:
            The file's size in bytes.
        """

    @abstractmethod
    def list_directory(self, path: str = "") -> Iterator[str]:
        """
        Yield the paths of what lies directly in a folder, files and folders, in any order.

        Raises:
            PathNotFound: nothing lies in it, or it is a file. The root is never missing, only empty.
        """

    def folder_version(self, path: str) -> str | None:
        """
        Return a text that changes whenever something comes or goes directly in a folder, whoever brings or takes it.

        Two calls that return the same text frame a time in which :meth:`list_directory` would have yielded the same.
        :data:`NO_FOLDER` may say that there is no such folder at this moment. None, the default, says that the backend
        cannot tell, or not yet.
        """
        return None

    @abstractmethod
    def walk(self, path: str = "") -> Iterator[Stat]:
        """Yield every file at any depth below a folder, in any order; nothing when there is none."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Tell whether a file or a folder lies there."""

    @abstractmethod
    def stat(self, path: str) -> Stat:
        """Describe a file; a folder is PathNotFound."""

    def get_size(self, path: str) -> int:
        """Return a file's size in bytes."""
        return self.stat(path).size

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Give a file another path, atomically for readers of *target*, replacing what was there."""

    def link(self, source: str, target: str) -> bool:
        """
        Give a file a second path, without a second copy of its bytes, replacing what lay under *target*.

        Returns:
            Whether that was done; False, the default, where the backend has no such thing, and nothing has changed.

        Raises:
            PathNotFound: *source* is not there.
        """
        return False

    def is_shared(self, path: str) -> bool:
        """
        Tell whether :meth:`link` has given a file other paths that still lead to the same bytes.

        False, the default, also where nothing is there; a driver without :meth:`link` never needs to tell.
        """
        return False

    def repair(self, path: str, blocks: Iterable[Bytes]) -> None:
        """
        Replace the bytes of a damaged file by the right ones, under all its paths.

        By default :meth:`stream_write`, which replaces one path alone; where :meth:`is_shared` may be true the other
        paths must get the bytes too. Only then readers may see some old and some new bytes meanwhile, and a crash may
        leave such a mixture: the file was damaged before.
        """
        self.stream_write(path, blocks)

    @abstractmethod
    def touch(self, path: str) -> None:
        """Renew a file's time of modification."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """
        Remove a file, or a folder with all that lies below it.

        Raises:
            PathNotFound: nothing was there.
        """

    def remove_if_match(self, path: str, version: str) -> None:
        """
        Remove a file only if it is still a given version.

        By default the version is compared first and the file is removed afterwards: a put that comes between the two
        is lost. A driver whose backend does both in one step overrides this method and declares
        :attr:`supports_remove_if_match`.

        Args:
            version: from :meth:`get_versioned`.

        Raises:
            PreconditionFailed: another version, or no file, lies there; nothing was changed.
        """
        try:
            if self.get_versioned(path).version != version:
                raise PreconditionFailed(path=path)
            self.remove(path)
        except PathNotFound:
            raise PreconditionFailed(path=path) from None

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """
        Remove what processes that died have left half-written beside the paths; called from time to time.

        Returns:
            How many things there were.
        """
        return 0

    @property
    def short_lived(self) -> StorageDriver:
        """
        The same store for files that matter for minutes only, such as those of an upload that goes on.

        What was written through it survives a crash of the process. After one of the host, a streamed file is whole
        or not there, while a content that was put may be older, cut off or not there; what was removed may be there
        again. Paths that are changed through it are otherwise only read and moved away.
        """
        return self

    def together(self) -> AbstractContextManager[None]:
        """
        Make the changes of this greenlet together, in their order: what takes long for every change, such as waiting
        for a disk, then takes long once.

        A content that is put without ``if_match`` is seen when the block ends, if not before; when an exception ends
        it, perhaps never. Only then will what was changed survive a crash of the host; none of it is ever half there.
        """
        return nullcontext()

    def open_file(self, path: str) -> BinaryIO | None:
        """
        Open a file of the local file system, unbuffered, for the kernel to send; None where there is none.

        Raises:
            PathNotFound: as everywhere, where the driver's files are local.
        """
        return None

    def content_redirect_url(self, path: str) -> str | None:
        """Return a signed URL under which a client may fetch the file by itself; None where there is none."""
        return None


def check_path(path: str, *, root: bool = False) -> str:
    """
    Return *path* when it follows the path grammar.

    Args:
        root: whether the empty path is good.

    Raises:
        PathInvalid: it does not.
    """
    if not path and root:
        return path
    if path.isascii() and path.isprintable():
        too_long = len(path) > MAX_COMPONENT_BYTES and any(len(part) > MAX_COMPONENT_BYTES for part in path.split("/"))
    else:
        too_long = not _is_clean(path) or any(len(part.encode()) > MAX_COMPONENT_BYTES for part in path.split("/"))
    framed = f"/{path}/"
    if too_long or "//" in framed or "/./" in framed or "/../" in framed:
        raise PathInvalid(path=path)
    return path


def folders_above(path: str) -> Iterator[str]:
    """Yield the folders in which a path lies, the root not among them."""
    end = path.find("/")
    while end >= 0:
        yield path[:end]
        end = path.find("/", end + 1)


def _is_clean(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no file system or bucket could keep
        return False
    return not any(ord(character) < 0x20 or ord(character) == 0x7F for character in path)
