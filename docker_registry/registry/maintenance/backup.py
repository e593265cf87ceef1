"""
Backup of a store into a directory while the registry is running.

A push writes blobs first, then the links and manifests that reference them, and tags last. The backup reads in the
opposite order: for each repository its tags, then its manifests, then the links to its layers; then it copies the
blobs. So everything that was read references only content that is read later. If a manifest is deleted in between, a
tag that was read points at a missing manifest, and the repository is read again. Files are written in the order of a
push.

Blobs are verified while they are copied. A blob in the backup has been verified and is not read again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from docker_registry.drivers.base import Stat, StorageDriver
from docker_registry.errors import (
    ConfigError,
    DigestInvalid,
    LinkBroken,
    ManifestInvalid,
    NameInvalid,
    PathInvalid,
    PathNotFound,
)
from docker_registry.registry import layout, manifest_payload, store_removal
from docker_registry.registry.maintenance import store_paths
from docker_registry.registry.maintenance.backup_folder import BackupFolder
from docker_registry.registry.maintenance.copy_report import CopyReport, Progress, verified
from docker_registry.registry.maintenance.store_reader import Snapshot, StoreReader
from docker_registry.registry.names import Digest, RepositoryName

#: Maximum attempts to read a repository whose manifests are deleted concurrently.
_MAX_ATTEMPTS: Final = 10

#: The id of an image in a file of a repository of API V1.
_IMAGE_ID: Final = re.compile(rb"[0-9a-f]{64}|[0-9a-f]{16}")


class Backup:
    """A single run of a backup."""

    def __init__(
        self,
        driver: StorageDriver,
        folder: BackupFolder,
        *,
        verify_all: bool = False,
        progress: Progress = lambda _files, _bytes: None,
    ) -> None:
        """
        Args:
            driver: the storage driver, without a cache.
            folder: the backup to create or update; an interrupted run is resumed.
            verify_all: also verify the blobs in the backup, and copy damaged ones again.
            progress: called after each file.
        """
        self._driver = driver
        self._folder = folder
        self._verify_all = verify_all
        self._report = CopyReport(progress)
        self._reader = StoreReader(driver, self._report)
        self._blobs: dict[Digest, bool] = {}

    def run(self) -> CopyReport:
        """
        Make the backup a copy of the store.

        Raises:
            ConfigError: the folder contains something other than a backup, or the store is empty and the backup is not.
            StorageError: the store cannot be read, or the backup cannot be written; the next run resumes.
        """
        with self._folder.writing():
            self._check_store()
            flags = self._reader.read(store_paths.FLAGS)
            v1_tags = self._reader.read_below(layout.IMAGE_REPOSITORIES)
            self._folder.set_complete(is_complete=False)  # not before: a store that is lost must not spoil its backup
            names = set()
            for name in self._repositories(layout.REPOSITORIES):
                names.add(str(name))
                with self._reader.broken_links_reported():
                    self._copy_repository(name)
            image_folders = self._reader.children(layout.IMAGES)
            for folder in image_folders:
                with self._reader.broken_links_reported():
                    self._copy_image(folder)
            other_files = self._read_other_files()
            for file in self._reader.walk(layout.BLOBS):
                digest = store_paths.blob_digest(file.path)
                if digest is not None:
                    self._copy_blob(digest)
            # Last, so that content pushed while a repository was private is not public in the backup.
            private_markers = (file.path for file in self._reader.walk(layout.IMAGE_REPOSITORIES))
            v1_tags |= self._reader.read(path for path in private_markers if path.endswith("/_private"))
            self._remove_repositories(names)
            self._write(
                v1_tags | other_files | flags,
                [path for path in self._folder.walk() if self._is_other_file(path)],
            )
            self._remove_images(set(image_folders), v1_tags)
            self._folder.set_complete(is_complete=True)
        return self._report

    def _check_store(self) -> None:
        """
        Check that the store was not lost, such as a volume that is not mounted: the backup would be emptied too.

        Raises:
            ConfigError: it is empty, and the backup is not.
        """
        if any(map(self._driver.exists, store_paths.CONTENT)):
            return
        if any(next(self._folder.walk(folder), None) for folder in store_paths.CONTENT):
            raise ConfigError(
                "The store is empty, but its backup is not, so nothing was changed."
                " If it is the right store, choose a new folder for its backup."
            )

    # ------------------------------------------------------------------------------------------ repositories

    def _repositories(self, path: str) -> Iterator[RepositoryName]:
        children = self._reader.children(path)
        name = _parse_name(path)
        if name is not None and any(child.rpartition("/")[2].startswith("_") for child in children):
            yield name
        for child in children:
            if not child.rpartition("/")[2].startswith("_"):
                yield from self._repositories(child)

    def _copy_repository(self, name: RepositoryName) -> None:
        for _ in range(_MAX_ATTEMPTS):
            snapshot = self._read_repository(name)
            dangling = [path for path in snapshot if store_paths.is_tag(path) and not _has_target(name, path, snapshot)]
            if not dangling:
                break
        for path in dangling:
            self._report.add_damage(path, "the tag names a manifest that the repository does not have")
            del snapshot[path]
        for path in list(snapshot):
            digest = store_paths.linked_digest(path)
            if digest is None or _is_in(path, layout.tags(name)):
                continue
            is_copied = self._copy_blob(digest)
            if not is_copied and not self._driver.exists(path):  # evicted from a mirror while others were copied
                del snapshot[path]
            elif _is_in(path, layout.revisions(name)):
                self._check_manifest(name, digest, is_copied=is_copied)
        existing = [
            existing_path
            for existing_path in self._folder.walk(layout.repository(name))
            if existing_path.removeprefix(f"{layout.repository(name)}/").startswith("_")
        ]
        # With a broken link, a tag or manifest may be missing whose copy is good.
        self._write(snapshot, [] if self._reader.has_broken_links(layout.repository(name)) else existing)

    def _read_repository(self, name: RepositoryName) -> Snapshot:
        tags, revisions = layout.tags(name), layout.revisions(name)
        snapshot = self._reader.read([layout.back_references_complete(name)])
        snapshot |= _without_marks(self._reader.read_below(tags))
        snapshot |= self._reader.read_below(revisions)
        folders = [
            path for path in self._reader.children(layout.repository(name)) if path.rpartition("/")[2].startswith("_")
        ]
        for folder in sorted(folders, key=lambda path: path == layout.layers(name)):
            if folder == layout.manifests(name):
                others = (file for file in self._reader.walk(folder) if not _is_in(file.path, tags, revisions))
                snapshot |= self._reader.read_files(file for file in others if not store_paths.is_flag(file.path))
            else:
                snapshot |= self._reader.read_below(folder)
        return snapshot

    def _check_manifest(self, name: RepositoryName, digest: Digest, *, is_copied: bool) -> None:
        path = layout.revision_link(name, digest)
        payload = self._folder.read(layout.blob_data(digest)) if is_copied else None
        if payload is None:
            self._report.add_damage(path, "the bytes of the manifest are missing or damaged")
            return
        try:
            blobs = manifest_payload.read(payload, None, is_stored=True).blobs
        except ManifestInvalid:  # schema 1, or a manifest that another server accepted
            return
        is_mirrored = self._driver.exists(layout.mirror_upstream(name))

        def is_here(blob: Digest) -> bool:  # a mirror has blobs from their first pull until they are evicted
            return not is_mirrored or self._driver.has_file(layout.layer_link(name, blob))

        for blob in blobs:
            if is_here(blob.digest) and not self._copy_blob(blob.digest) and is_here(blob.digest):
                self._report.add_damage(path, f"the manifest names {blob.digest}, which is missing or damaged")

    def _remove_repositories(self, names: set[str]) -> None:
        """Remove the repositories from the backup that the store does not have."""
        removed = []
        for path in self._folder.walk(layout.REPOSITORIES):
            name, separator, _ = path.removeprefix(f"{layout.REPOSITORIES}/").partition("/_")
            if separator and name not in names:
                removed.append(path)
        self._write({}, removed)

    # ------------------------------------------------------------------------------------------------ images

    def _copy_image(self, path: str) -> None:
        marker = f"{path}/_inprogress"
        was_marked = self._driver.exists(marker)
        files = list(self._reader.walk(path))
        if was_marked and marker not in {file.path for file in files}:  # its push ended in between
            files = list(self._reader.walk(path))
        layers = [file for file in files if file.path == f"{path}/layer"]
        snapshot = self._reader.read_files(file for file in files if file not in layers)
        digest = store_paths.layer_digest(snapshot.get(f"{path}/_blob", b""))
        has_blob = digest is not None and self._copy_blob(digest)
        for layer in layers:
            self._copy_layer(layer, digest, has_blob=has_blob)
        existing = [copied for copied in self._folder.walk(path) if not layers or copied != f"{path}/layer"]
        self._write(snapshot, existing)

    def _remove_images(self, folders: set[str], v1_repositories: Snapshot) -> None:
        """
        Remove the images from the backup that the store does not have, such as those evicted from a mirror.

        An image that a repository names was not evicted but lost, so its copy is kept: it may be the only one.
        """
        named = {text.decode() for content in v1_repositories.values() for text in _IMAGE_ID.findall(content)}
        removed, lost = [], set()
        for path in self._folder.walk(layout.IMAGES):
            image_id = path.split("/")[1]
            folder = f"{layout.IMAGES}/{image_id}"
            if folder in folders:
                continue
            if image_id in named:
                lost.add(folder)
            else:
                removed.append(path)
        for folder in sorted(lost):
            self._report.add_damage(folder, "the store has lost this image, which a repository names")
        self._write({}, removed)

    def _copy_layer(self, layer: Stat, digest: Digest | None, *, has_blob: bool) -> None:
        """Copy the layer of an image: create a hard link to its blob, or copy a legacy layer."""
        blob = layout.blob_data(digest) if digest else ""
        if has_blob:
            self._folder.link(blob, layer.path)
            return
        if self._folder.size(layer.path) == layer.size:
            self._report.count(None)
            return
        try:
            blocks = self._driver.stream_read(layer.path)
            self._report.count(self._folder.write(layer.path, verified(blocks, digest) if digest else blocks))
        except PathNotFound:  # migrated concurrently
            return
        except DigestInvalid:
            self._report.add_damage(layer.path, "the bytes are not those of the digest")

    # ------------------------------------------------------------------------------------------------- blobs

    def _copy_blob(self, digest: Digest) -> bool:
        """Copy a blob unless the backup has it; return whether the backup has it now."""
        is_copied = self._blobs.get(digest)
        if is_copied is None:
            is_copied = self._has_blob(digest) or self._copy_bytes(digest)
            if is_copied is not None:
                self._blobs[digest] = is_copied
        return bool(is_copied)

    def _has_blob(self, digest: Digest) -> bool:
        path = layout.blob_data(digest)
        if self._folder.size(path) is None:
            return False
        if self._verify_all:
            try:
                for _ in verified(self._folder.blocks(path), digest):
                    pass
            except DigestInvalid:
                return False
        self._report.count(None)
        return True

    def _copy_bytes(self, digest: Digest) -> bool | None:
        """Copy a blob; return False if it is damaged, and None if the store does not have it at the moment."""
        target = layout.blob_data(digest)
        try:
            self._report.count(self._folder.write(target, verified(self._read_blob(digest), digest)))
        except (PathNotFound, PathInvalid):  # the path in an alias may be damaged
            return None
        except DigestInvalid:
            self._report.add_damage(target, "the bytes are not those of the digest")
            return False
        except LinkBroken as error:
            self._report.add_damage(target, error.sentence)
            return False
        return True

    def _read_blob(self, digest: Digest) -> Iterator[bytes]:
        for path in (layout.blob_data(digest), layout.removed_data(digest)):
            with suppress(PathNotFound):
                return self._driver.stream_read(path)
        return self._driver.stream_read(self._aliased_path(digest))

    def _aliased_path(self, digest: Digest) -> str:
        """
        Return the path of the bytes of a blob that are stored elsewhere.

        They are a legacy layer of API V1; earlier versions also used uncompressed copies of layers.
        """
        _, _, path = self._driver.get_content(layout.blob_alias(digest)).decode("utf-8", "replace").partition(" ")
        if not _is_in(path, layout.IMAGES, layout.UNPACKED):
            raise PathNotFound(path=path)
        return path

    # ------------------------------------------------------------------------------------------- small files

    def _read_other_files(self) -> Snapshot:
        """Read the files that belong to no repository, image or blob; the catalog last."""
        snapshot: Snapshot = {}
        for path in sorted(self._reader.children(layout.ROOT), key=lambda path: path == layout.CATALOG):
            if path not in (layout.BLOBS, layout.REPOSITORIES):
                snapshot |= self._reader.read_below(path) or self._reader.read([path])
        return {path: content for path, content in snapshot.items() if path not in store_paths.FLAGS}

    def _is_other_file(self, path: str) -> bool:
        """Return whether a file belongs to no repository of V2, image or blob, but to a store."""
        is_of_store = _is_in(path, layout.ROOT, layout.IMAGE_REPOSITORIES)
        return is_of_store and not _is_in(path, layout.BLOBS, layout.REPOSITORIES)

    def _write(self, snapshot: Snapshot, existing: list[str]) -> None:
        """Replace existing files with a snapshot, in an order in which no file ever references a missing one."""
        for path in sorted(existing, key=store_paths.rank, reverse=True):
            if path not in snapshot and not self._reader.is_broken(path):
                self._folder.remove(path)
                self._report.removed_files += 1
        for path in sorted(snapshot, key=store_paths.rank):
            content = snapshot[path]
            self._report.count(len(content) if self._folder.put(path, content) else None)


def _has_target(name: RepositoryName, tag: str, snapshot: Snapshot) -> bool:
    try:
        digest = Digest.parse(snapshot[tag].decode("ascii", "replace"))
    except DigestInvalid:
        return False
    return layout.revision_link(name, digest) in snapshot


def _without_marks(tags: Snapshot) -> Snapshot:
    """Return the files of tags without the marks of interrupted removals, and without reservations: mere marks."""
    unmarked = {
        path: store_removal.unmarked(content) if store_paths.is_tag(path) else content for path, content in tags.items()
    }
    return {path: content for path, content in unmarked.items() if content or not tags[path]}


def _is_in(path: str, *folders: str) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)


def _parse_name(path: str) -> RepositoryName | None:
    try:
        return RepositoryName.parse(path.removeprefix(layout.REPOSITORIES).lstrip("/"))
    except NameInvalid:
        return None
