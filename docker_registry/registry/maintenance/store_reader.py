"""Reads the small files of a store for a backup, and goes on where a symbolic link is broken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from docker_registry.drivers.base import Stat, StorageDriver
from docker_registry.errors import LinkBroken, PathNotFound
from docker_registry.registry.maintenance import store_paths
from docker_registry.registry.maintenance.copy_report import CopyReport

#: The content of files by path.
Snapshot = dict[str, bytes]


class StoreReader:
    """Reads small files, and reports broken symbolic links as damage."""

    def __init__(self, driver: StorageDriver, report: CopyReport) -> None:
        self._driver = driver
        self._report = report
        self._broken: set[str] = set()

    @contextmanager
    def broken_links_reported(self) -> Iterator[None]:
        """Report the broken links that end the block."""
        try:
            yield
        except LinkBroken as error:
            for path in filter(store_paths.belongs, error.paths):
                self._broken.add(path)
                self._report.add_damage(path, "a symbolic link leads to nothing, or out of the store")

    def is_broken(self, path: str) -> bool:
        """Return whether a path is a broken link, or below one."""
        return any(f"{path}/".startswith(f"{link}/") for link in self._broken)

    def has_broken_links(self, folder: str) -> bool:
        """Return whether broken links were found below a folder."""
        return any(link.startswith(f"{folder}/") for link in self._broken)

    def walk(self, path: str) -> Iterator[Stat]:
        """Yield all files below a folder."""
        with self.broken_links_reported():
            yield from self._driver.walk(path)

    def children(self, path: str) -> list[str]:
        """Return the sorted paths of the files and folders in a folder."""
        try:
            with self.broken_links_reported():
                return sorted(self._driver.list_directory(path))
        except PathNotFound:
            pass
        return []

    def read_below(self, path: str) -> Snapshot:
        """Return the content of all files below a folder; links named after their digest are not read."""
        return self.read_files(self.walk(path))

    def read_files(self, files: Iterable[Stat]) -> Snapshot:
        """Return the content of files; links named after their digest and empty files are not read."""
        snapshot: Snapshot = {}
        for file in files:
            digest = store_paths.linked_digest(file.path)
            if digest is not None:
                snapshot |= {file.path: str(digest).encode()} if store_paths.belongs(file.path) else {}
            elif file.size == 0 and store_paths.belongs(file.path):
                snapshot[file.path] = b""
            else:
                snapshot |= self.read([file.path])
        return snapshot

    def read(self, paths: Iterable[str]) -> Snapshot:
        """Return the content of those files that exist and belong to a backup."""
        snapshot: Snapshot = {}
        for path in filter(store_paths.belongs, paths):
            content = None
            with self.broken_links_reported():
                content = self._driver.find(path)
            if content is not None:
                snapshot[path] = content
        return snapshot
