"""
The interface between the registry and its storage backends.

A driver stores bytes under paths and does not interpret them. A third-party driver inherits from :class:`StorageDriver`
and registers its class under the entry-point group ``docker_registry.drivers``. It must pass the test suite
:class:`docker_registry.drivers.testing.DriverSuite`.

**Paths** follow the grammar of :mod:`~docker_registry.drivers.paths`; any other raises PathInvalid.

**Folders** are not objects of their own: a folder exists as long as it contains a file.

**Publication is atomic.** A reader of a path sees the complete old content or the complete new content, never a part.
Once a call has returned, its change survives a crash of the process and, where the backend can guarantee it, of the
host.

**Errors.** :class:`~docker_registry.errors.PathNotFound` when the path does not exist. Every failure of the backend is
a :class:`~docker_registry.errors.StorageError`, never an exception of an SDK or an :class:`OSError`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import BinaryIO, ClassVar

from docker_registry.concurrency import RunBlocking, run_in_thread
from docker_registry.drivers.capabilities import Capabilities as Capabilities
from docker_registry.drivers.capabilities import OldNames, with_old_flags
from docker_registry.drivers.paths import check_path as check_path
from docker_registry.drivers.values import ABSENT as ABSENT
from docker_registry.drivers.values import NO_FOLDER as NO_FOLDER
from docker_registry.drivers.values import Stat as Stat
from docker_registry.drivers.values import Versioned as Versioned
from docker_registry.errors import PathNotFound, PreconditionFailed
from docker_registry.settings import Setting

Bytes = bytes | bytearray | memoryview


class StorageDriver(OldNames, ABC):
    """Stores bytes under paths. The module docstring lists the rules that all methods share."""

    #: The settings of this driver; its constructor receives each of them as a keyword argument of the same name.
    settings: ClassVar[tuple[Setting, ...]] = ()

    #: Runs a blocking call that usually takes less than a millisecond, by default in a thread. The server replaces it
    #: by a function that runs the call in the calling thread while the worker serves a single client.
    run_brief: RunBlocking = staticmethod(run_in_thread)

    @property
    def capabilities(self) -> Capabilities:
        """
        What this driver can do; a subclass overrides it with a property or a class attribute.

        By default it is derived from the flags of earlier versions of this interface.
        """
        has_versions = type(self).folder_version is not StorageDriver.folder_version
        return with_old_flags(self, Capabilities(folder_versions=has_versions))

    @property
    def tracks_dependencies(self) -> bool:
        """
        The capability of this name, which the registry reads when it starts.

        A driver that has to contact the store to determine :attr:`capabilities` overrides this, so that the registry
        can start while the store is unreachable.
        """
        return self.capabilities.tracks_dependencies

    # ---------------------------------------------------------------------------------------------------------- reading

    @abstractmethod
    def get_content(self, path: str) -> bytes:
        """Return all bytes of a small file."""

    def get_versioned(self, path: str) -> Versioned:
        """
        Return all bytes of a small file and their version, read together.

        By default the version is the SHA-256 of the content.
        """
        content = self.get_content(path)
        return Versioned(content, hashlib.sha256(content).hexdigest())

    def find(self, path: str) -> bytes | None:
        """
        Return all bytes of a small file as :meth:`get_content` does; None if it does not exist.

        By default this and the other ``find`` methods call the method that raises PathNotFound. A driver that can
        detect a missing file at lower cost overrides them.
        """
        try:
            return self.get_content(path)
        except PathNotFound:
            return None

    def find_versioned(self, path: str) -> Versioned | None:
        """Return all bytes of a small file and their version as :meth:`get_versioned` does; None if it is missing."""
        try:
            return self.get_versioned(path)
        except PathNotFound:
            return None

    @abstractmethod
    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Read a file in blocks, none of them empty.

        Args:
            offset: first byte, from 0; at or beyond the end nothing is yielded.
            length: maximum number of bytes; None reads to the end.

        Raises:
            PathNotFound: raised by the call itself, not by the first block.
            StorageError: raised also between blocks, when the rest cannot be read. A stream never ends early without an
                error.
        """

    def open_file(self, path: str) -> BinaryIO | None:
        """
        Open a file for sendfile(2), unbuffered; None, the default, if the driver's files are not local.

        Raises:
            PathNotFound: the files are local, but the path does not exist.
        """
        return None

    def content_redirect_url(self, path: str) -> str | None:
        """Return a signed URL from which a client can download the file; None where the backend has none."""
        return None

    # --------------------------------------------------------------------------------------------------------- metadata

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return whether the path is a file or a folder."""

    def has_file(self, path: str) -> bool:
        """
        Return whether the path is a file.

        If the path is missing, an object store needs one request for this and two for :meth:`exists`, which also looks
        for files below the path.
        """
        return self.find_size(path) is not None

    def has_kept(self, path: str) -> bool:
        """
        Return whether a file exists that this greenlet has written in its last batch, as :meth:`has_file` does.

        By default the file is looked up. A driver that learned at the end of the batch that the file exists may answer
        from that, but only to the first call after the batch.
        """
        return self.has_file(path)

    @abstractmethod
    def stat(self, path: str) -> Stat:
        """Return the metadata of a file; raises PathNotFound for a folder."""

    def get_size(self, path: str) -> int:
        """Return a file's size in bytes."""
        return self.stat(path).size

    def find_size(self, path: str) -> int | None:
        """Return a file's size in bytes as :meth:`get_size` does; None if it does not exist."""
        try:
            return self.get_size(path)
        except PathNotFound:
            return None

    def find_sizes(self, paths: Sequence[str]) -> list[int | None]:
        """
        Return the sizes of several files, each as :meth:`find_size` does.

        By default the sizes are determined one after the other. A driver that needs a request for each overrides this
        and sends several requests concurrently.
        """
        return [self.find_size(path) for path in paths]

    def is_shared(self, path: str) -> bool:
        """
        Return whether :meth:`link` gave a file other paths that share its bytes; False if the path does not exist.

        The default is False. A driver without :meth:`link` need not override this.
        """
        return False

    # ---------------------------------------------------------------------------------------------------------- listing

    @abstractmethod
    def list_directory(self, path: str = "") -> Iterator[str]:
        """
        Yield the paths of the files and folders directly in a folder, in any order.

        Raises:
            PathNotFound: the folder contains no file, or the path is a file. The root always exists; it may be empty.
        """

    def folder_version(self, path: str) -> str | None:
        """
        Return an opaque version that changes whenever any process adds or removes an entry of a folder.

        If two calls return the same text, :meth:`list_directory` would have yielded the same entries at any time
        between them. :data:`NO_FOLDER` means that the folder does not exist at this moment. None, the default, means
        that the backend cannot determine a version, or cannot yet.
        """
        return None

    @abstractmethod
    def walk(self, path: str = "") -> Iterator[Stat]:
        """Yield every file at any depth below a folder, in any order; nothing when there is none."""

    # ---------------------------------------------------------------------------------------------------------- writing

    @abstractmethod
    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """
        Publish a small file, replacing any existing one.

        Args:
            if_match: replace only this version (from :meth:`get_versioned`), or only create the file (:data:`ABSENT`);
                needs :attr:`Capabilities.if_match`.

        Raises:
            PreconditionFailed: the path has another version; nothing was changed.
        """

    def replace_content(self, path: str, content: Bytes, version: str) -> None:
        """
        Publish a small file if its path has the given version, or :data:`ABSENT`; needs :attr:`Capabilities.if_match`.

        Unlike a conditional :meth:`put_content`, it may be deferred to the end of a :meth:`batch`. The versions are
        then compared when the batch is published, so the error may be raised at the end of the block.

        Raises:
            PreconditionFailed: the path has another version. Other changes of the batch may or may not have been made.
        """
        self.put_content(path, content, if_match=version)

    @abstractmethod
    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """
        Publish a file of any size, replacing any existing one, once *blocks* is exhausted.

        Each block is consumed before the next one is requested, so a source may reuse its buffers. When the source
        raises, nothing is published and its exception propagates to the caller.

        Returns:
            The file's size in bytes.
        """

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Rename a file, atomically for readers of *target*, replacing any existing file there."""

    def link(self, source: str, target: str) -> bool:
        """
        Add a second path to a file without copying its bytes, replacing any file under *target*.

        Returns:
            True if the link was made. False, the default, if the backend has no links; nothing was changed.

        Raises:
            PathNotFound: *source* does not exist.
        """
        return False

    def repair(self, path: str, blocks: Iterable[Bytes]) -> None:
        """
        Replace the bytes of a damaged file with the correct ones, under all its paths.

        By default this is :meth:`stream_write`, which replaces one path only. A driver with :meth:`link` overrides it,
        so that all paths get the new bytes. For such a shared file only, publication need not be atomic: readers, or a
        crash, may find a mixture of old and new bytes, because the file was damaged before.
        """
        self.stream_write(path, blocks)

    @abstractmethod
    def touch(self, path: str) -> None:
        """Set a file's modification time to now."""

    # --------------------------------------------------------------------------------------------------------- removing

    @abstractmethod
    def remove(self, path: str) -> None:
        """
        Remove a file, or a folder with all its content.

        Raises:
            PathNotFound: the path does not exist.
        """

    def discard(self, path: str) -> bool:
        """
        Remove a file, or a folder with all its content, as :meth:`remove` does.

        Returns:
            Whether the path existed.
        """
        try:
            self.remove(path)
        except PathNotFound:
            return False
        return True

    def discard_file(self, path: str) -> None:
        """
        Remove a file if it exists. The caller guarantees that the path is not a folder.

        By default this is :meth:`discard`. A driver overrides it if removing without reporting whether the file existed
        costs less.
        """
        self.discard(path)

    def remove_if_match(self, path: str, version: str) -> None:
        """
        Remove a file only if it still has the given version.

        By default the version is compared first and the file removed afterwards, so a put between these steps is lost.
        A driver whose backend can do both in one step overrides this method and declares
        :attr:`Capabilities.remove_if_match`.

        Args:
            version: from :meth:`get_versioned`.

        Raises:
            PreconditionFailed: the path has another version or does not exist; nothing was changed.
        """
        try:
            if self.get_versioned(path).version != version:
                raise PreconditionFailed(path=path)
            self.remove(path)
        except PathNotFound:
            raise PreconditionFailed(path=path) from None

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """
        Remove incomplete files left by processes that died; called periodically.

        Returns:
            The number of files and folders removed.
        """
        return 0

    # ------------------------------------------------------------------------------------------------------- durability

    def batch(self) -> AbstractContextManager[None]:
        """
        Batch the changes that this greenlet makes in the block, so that expensive steps such as waiting for a disk are
        done once for all of them. The order of the changes is kept.

        Content that is put without ``if_match`` may become visible only at the end of the block, and never if the block
        raises an exception. The changes are guaranteed to survive a crash of the host only after the block has ended.
        No single change is ever partially visible.
        """
        is_overridden = type(self).together is not StorageDriver.together
        return self.together() if is_overridden else nullcontext()

    def announce_writes(self, paths: Sequence[str], needed: Sequence[str] = ()) -> list[int | None]:
        """
        Announce files that this greenlet is about to put, so that a driver can prepare for all at once.

        By default this only returns the sizes. Files may be put without an announcement, and announced files may not be
        put.

        Args:
            needed: other files, whose sizes decide whether the announced ones are put.

        Returns:
            The sizes of the needed files, as :meth:`find_sizes` does.
        """
        return self.find_sizes(needed)

    @property
    def scratch(self) -> StorageDriver:
        """
        A view of this store for short-lived files, such as those of an upload in progress.

        A file written through it survives a crash of the process. After a crash of the host, a streamed file is
        complete or missing; the content of a put may be older, truncated or missing; a removed file may exist again.
        Paths written through this view must not be written through the driver itself, only read or moved away.
        """
        is_overridden = type(self).short_lived is not StorageDriver.short_lived
        return self.short_lived if is_overridden else self
