"""
Restoration of a backup into a store, in the order of a push: blobs, then the files that reference them, and tags last.

While a restoration is in progress, the store has the file ``docker/registry/v2/_restoring``, so that the next run
resumes it. It contains ``empty`` or ``overwrite``, as the store was, and the id and path of the backup.
"""

from __future__ import annotations

from typing import Final

from docker_registry.drivers.base import Stat, StorageDriver
from docker_registry.errors import ConfigError, DigestInvalid, PathNotFound
from docker_registry.registry import layout, store_removal
from docker_registry.registry.maintenance import store_paths
from docker_registry.registry.maintenance.backup_folder import BackupFolder
from docker_registry.registry.maintenance.copy_report import CopyReport, Progress, verified
from docker_registry.registry.names import Digest
from docker_registry.registry.stored_file import is_intact
from docker_registry.registry.v1 import image_layout

_RESTORING: Final = f"{layout.ROOT}/_restoring"
_IDENTITY: Final = f"{layout.ROOT}/_identity"

#: Number of small files in a batch.
_BATCH_FILES: Final = 200

#: Why a file that the folder lists was not restored.
_MISSING: Final = "the backup does not have the file: it was removed meanwhile, or is a symbolic link to nothing"


class Restoration:
    """A single run of a restoration."""

    def __init__(
        self,
        driver: StorageDriver,
        folder: BackupFolder,
        *,
        overwrite: bool = False,
        progress: Progress = lambda _files, _bytes: None,
    ) -> None:
        """
        Args:
            driver: the storage driver, without a cache; no server may use the store during the run.
            overwrite: allow a store that is not empty: replace the files that the backup has, and keep all others.
            progress: called after each file.
        """
        self._driver = driver
        self._folder = folder
        self._overwrite = overwrite
        self._report = CopyReport(progress)
        self._started: float | None = None  # start of the interrupted restoration that this run resumes
        self._was_empty = False

    def run(self) -> CopyReport:
        """
        Copy the backup into the store.

        Raises:
            ConfigError: the directory has no complete backup; or *overwrite* is not set, and the store is not empty, or
                has a part of another backup whose restoration was interrupted.
            StorageError: the backup cannot be read, or the store cannot be written; the next run resumes.
        """
        paths = self._paths()
        self._begin()
        for path in paths:
            digest = store_paths.blob_digest(path)
            if digest is not None and path == layout.blob_data(digest):
                self._restore_blob(path, digest)
        small_files = [path for path in paths if store_paths.blob_digest(path) is None or path.endswith("/alias")]
        for start in range(0, len(small_files), _BATCH_FILES):
            with self._driver.batch():
                for path in small_files[start : start + _BATCH_FILES]:
                    self._restore_file(path)
        self._end(set(paths))
        return self._report

    def _paths(self) -> list[str]:
        if not self._folder.is_readable:
            raise ConfigError("The folder of the backup does not exist, or cannot be read.")
        if not self._folder.is_complete:
            raise ConfigError("The backup is not complete: run docker-registry backup again.")
        paths = [path for path in self._folder.walk() if store_paths.belongs(path)]
        if not paths:
            raise ConfigError("The folder contains no backup.")
        return sorted(paths, key=lambda path: (store_paths.rank(path), path))

    def _begin(self) -> None:
        state = self._driver.find(_RESTORING)
        before, _, backup = (state or b"").partition(b" ")
        if state is not None and backup in (self._folder.identity, b""):  # earlier versions did not record the backup
            self._was_empty = before == b"empty"
            self._started = self._driver.stat(_RESTORING).modified
            return
        if state is not None and not self._overwrite:
            path = backup.partition(b" ")[2].decode("utf-8", "replace")
            raise ConfigError(
                f"The store contains a part of an earlier or another backup in {path}, whose restoration has not ended."
                " Empty the store, or pass --overwrite to replace files that this backup contains."
            )
        self._was_empty = not any(map(self._driver.exists, store_paths.CONTENT))
        if not self._was_empty and not self._overwrite:
            raise ConfigError("The store is not empty: pass --overwrite to replace files that the backup contains.")
        before = b"empty" if self._was_empty else b"overwrite"
        self._driver.put_content(_RESTORING, before + b" " + self._folder.identity)

    def _end(self, paths: set[str]) -> None:
        # Remove flags that the backup lacks: a flag that was true of the previous content may be false of the
        # combined content.
        repositories = (path.partition("/_manifests/")[0] for path in paths if store_paths.is_tag(path))
        flags = (f"{repository}/_manifests/tags-are-noted" for repository in repositories)
        for flag in {*store_paths.FLAGS, *flags} - paths:
            store_removal.remove(self._driver, flag)
        for mark in (layout.PRIVATE_IS_COMPLETE, image_layout.MEMBERSHIPS_ARE_COMPLETE):
            store_removal.remove(self._driver, mark)  # the next start rebuilds that index
        store_removal.remove(self._driver, _IDENTITY)  # invalidates all caches of the store
        store_removal.remove(self._driver, _RESTORING)

    def _restore_blob(self, path: str, digest: Digest) -> None:
        size = self._folder.size(path)
        if size is None:
            self._report.add_damage(path, _MISSING)
            return
        existing = self._find(path, size)
        if existing is not None and (self._is_restored(existing) or is_intact(self._driver, path, digest)):
            self._report.count(None)
            return
        try:
            blocks = verified(self._folder.blocks(path), digest)
            if self._driver.is_shared(path):
                for _ in verified(self._folder.blocks(path), digest):  # verify before overwriting in place
                    pass
                self._driver.repair(path, blocks)
            else:
                self._driver.stream_write(path, blocks)
        except DigestInvalid:
            self._report.add_damage(path, "the bytes in the backup are not those of the digest")
            return
        self._report.count(size)

    def _restore_file(self, path: str) -> None:
        size = self._folder.size(path)
        if size is not None and path.startswith(f"{layout.IMAGES}/") and path.endswith("/layer"):
            self._restore_layer(path, size)
            return
        content = self._folder.read(path)
        if content is None:
            self._report.add_damage(path, _MISSING)
            return
        if store_paths.is_flag(path) and not self._was_empty and not self._driver.exists(path):
            return
        if (not self._was_empty or self._started is not None) and self._driver.find(path) == content:
            self._report.count(None)
            return
        self._driver.put_content(path, content)
        self._report.count(len(content))

    def _restore_layer(self, path: str, size: int) -> None:
        """
        Restore the layer of an image.

        If the store has the blob of the layer, it is linked to the blob; a driver without hard links writes nothing.
        Otherwise the file is copied.
        """
        digest = store_paths.layer_digest(self._folder.read(path.removesuffix("layer") + "_blob") or b"")
        blob = layout.blob_data(digest) if digest else ""
        if digest and self._folder.size(blob) == size and self._driver.exists(blob):
            self._driver.link(blob, path)
            self._report.count(None)
            return
        existing = self._find(path, size)
        if existing is not None and self._is_restored(existing):
            self._report.count(None)
            return
        self._report.count(self._driver.stream_write(path, self._folder.blocks(path)))

    def _find(self, path: str, size: int) -> Stat | None:
        """Return the metadata of a file in the store; None if it does not exist, or has another size."""
        try:
            existing = self._driver.stat(path)
        except PathNotFound:
            return None
        return existing if existing.size == size else None

    def _is_restored(self, existing: Stat) -> bool:
        """Return whether a file was written by the interrupted restoration that this run resumes."""
        return self._started is not None and existing.modified > self._started
