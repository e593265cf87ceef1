"""Tags: names that a repository gives to its manifests."""

from __future__ import annotations

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import DigestInvalid, ManifestUnknown, PathNotFound, TagInvalid
from docker_registry.registry import layout
from docker_registry.registry.names import Digest, RepositoryName, Tag


class Tags:
    """All tags of the registry."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def get(self, name: RepositoryName, tag: Tag) -> Digest:
        """
        Return what a tag points at.

        Raises:
            ManifestUnknown: there is no such tag.
        """
        try:
            return Digest.parse(self._driver.get_content(layout.tag_link(name, tag)).decode("ascii", "replace"))
        except (PathNotFound, DigestInvalid):
            raise ManifestUnknown(name=str(name), tag=str(tag)) from None

    def put(self, name: RepositoryName, tag: Tag, digest: Digest) -> None:
        """Let a tag point at a manifest, and keep that it did."""
        link = str(digest).encode()
        history = layout.tag_index_link(name, tag, digest)
        if not self._driver.exists(history):
            self._driver.put_content(history, link)
        self._driver.put_content(layout.tag_link(name, tag), link)

    def delete(self, name: RepositoryName, tag: Tag) -> None:
        """
        Forget a tag; its manifest stays.

        Raises:
            ManifestUnknown: there is no such tag.
        """
        try:
            # What makes the tag goes first: a removal that is cut short leaves no tag.
            self._driver.remove(layout.tag_link(name, tag))
        except PathNotFound:
            raise ManifestUnknown(name=str(name), tag=str(tag)) from None
        try:
            self._driver.remove(layout.tag(name, tag))
        except PathNotFound:
            pass

    def list(self, name: RepositoryName) -> tuple[Tag, ...]:
        """Return all tags of a repository in ASCII order; none when there is no such repository."""
        folder = layout.tags(name)
        try:
            names = sorted(path[len(folder) + 1 :] for path in self._driver.list_directory(folder))
        except PathNotFound:
            return ()
        return tuple(tag for tag in map(_parse, names) if tag and self._driver.exists(layout.tag_link(name, tag)))

    def pointing_at(self, name: RepositoryName, digest: Digest) -> tuple[Tag, ...]:
        """Return the tags of a repository that point at a manifest."""
        return tuple(tag for tag in self.list(name) if self._points_at(name, tag, digest))

    def _points_at(self, name: RepositoryName, tag: Tag, digest: Digest) -> bool:
        try:
            return self.get(name, tag) == digest
        except ManifestUnknown:  # deleted just now
            return False


def _parse(text: str) -> Tag | None:
    try:
        return Tag.parse(text)
    except TagInvalid:  # a folder that no registry wrote
        return None
