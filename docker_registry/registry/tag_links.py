"""
The tags in the store: a link for each tag, with the digest of the manifest that it points at, and back-references.

This is the only module that changes tags: those of API V1 have files of their own, which change by the same functions.

Conditional changes of a link append a mark to its content (:mod:`~docker_registry.registry.store_removal`), which
readers ignore. A link with nothing but a mark is the reservation of an immutable tag, which does not exist yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from docker_registry.drivers.base import ABSENT, Stat, StorageDriver
from docker_registry.errors import DigestInvalid, PreconditionFailed
from docker_registry.registry import layout, store_removal
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import Digest, RepositoryName, Tag, is_tag

# The changes of a tag's file, for both APIs. Its content is the target, of a tag of API V1 the id of an image.


def put(driver: StorageDriver, path: str, target: bytes) -> bytes | None:
    """Set a tag by compare-and-swap, wherever it points; return the previous content, or None if it did not exist."""
    while True:
        stored = driver.find_versioned(path)
        if put_version(driver, path, target, ABSENT if stored is None else stored.version):
            return None if stored is None else stored.content


def put_version(driver: StorageDriver, path: str, content: bytes, version: str) -> bool:
    """
    Set a tag if its file has a version, or ``ABSENT``; return False if another request has changed it.

    Without conditional writes in the driver, the version is ignored.
    """
    try:
        driver.put_content(path, content, if_match=version if driver.capabilities.if_match else None)
    except PreconditionFailed:
        return False
    return True


def create(driver: StorageDriver, path: str, target: bytes) -> bool:
    """Create a tag; return False and write nothing if its file exists."""
    if not driver.capabilities.if_match and driver.exists(path):
        return False
    return put_version(driver, path, target, ABSENT)


def take(
    driver: StorageDriver, path: str, is_expected: Callable[[bytes], bool], holds: Callable[[], bool] | None = None
) -> bytes | None:
    """
    Remove the file of a tag if its content is expected.

    Args:
        holds: remove it only while this returns true; see :func:`.store_removal.take_while`.

    Returns:
        The content of the removed file; None if nothing was removed.
    """
    if holds is None:
        return store_removal.take_if(driver, path, is_expected)
    return store_removal.take_while(driver, path, holds, is_expected)


class TagLinks:
    """The links of all tags in the store; those of sources have none."""

    def __init__(self, driver: StorageDriver, listings: ListingCache) -> None:
        self._driver = driver
        self._listings = listings

    def find(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return the target of a tag; None if it has no link, or a damaged one."""
        link = self._driver.find(layout.tag_link(name, tag))
        return None if link is None else _parse(link)

    def find_versioned(self, name: RepositoryName, tag: Tag) -> tuple[Digest | None, str]:
        """Return the target of a tag, and the version of its link; ``ABSENT`` if there is no link."""
        stored = self._driver.find_versioned(layout.tag_link(name, tag))
        return (None, ABSENT) if stored is None else (_parse(stored.content), stored.version)

    def exists(self, name: RepositoryName, tag: Tag) -> bool:
        """Return whether there is a link that is not a mere reservation."""
        path = layout.tag_link(name, tag)
        size = self._driver.find_size(path)
        return size is not None and not store_removal.is_mere_mark(self._driver, path, size)

    def names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names of the tags of a repository in ASCII order; recently deleted ones may be included."""
        if self._driver.capabilities.pages:
            return self._listings.names(layout.tags(name), layout.read_tag_link, deep=self._is_no_reservation)
        return self._listings.names(layout.tags(name), _read)

    def _is_no_reservation(self, stat: Stat) -> bool:
        return not store_removal.is_mere_mark(self._driver, stat.path, stat.size)

    def put(self, name: RepositoryName, tag: Tag, digest: Digest, version: str | None) -> None:
        """
        Write the link of a tag.

        Args:
            version: of the link to replace, None for any; ignored by drivers without conditional writes.

        Raises:
            PreconditionFailed: the link has another version by now.
        """
        path, content = layout.tag_link(name, tag), str(digest).encode()
        if version is not None and self._driver.capabilities.if_match:
            self._driver.replace_content(path, content, version)
        else:
            self._driver.put_content(path, content)

    def remove(self, name: RepositoryName, tag: Tag) -> bool:
        """Remove the link of a tag; return False if there was none."""
        return self.take(name, tag)[0]

    def take(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest | None = None,
        holds: Callable[[], bool] | None = None,
    ) -> tuple[bool, Digest | None]:
        """
        Remove the link of a tag and the history that distribution keeps of it.

        Args:
            digest: remove the link only if it points at this digest.
            holds: remove the link only while this returns true; see :func:`.store_removal.take_while`.

        Returns:
            Whether the link was removed, and its target; None if it was damaged.
        """
        path = layout.tag_link(name, tag)

        def is_expected(link: bytes) -> bool:
            return digest is None or _parse(link) == digest

        link = take(self._driver, path, is_expected, holds)
        if link is None:
            return False, None
        # The directory itself is kept: a concurrent push may use it.
        store_removal.remove(self._driver, layout.tag_history(name, tag))
        return True, _parse(link)

    def restore(self, name: RepositoryName, tag: Tag, digest: Digest) -> None:
        """
        Restore a tag whose manifest was deleted during the push that set the tag.

        The tag is left alone if another push has changed it.
        """
        path, content = layout.tag_link(name, tag), str(digest).encode()
        while True:
            current, version = self.find_versioned(name, tag)
            if current not in (None, digest):
                return
            if put_version(self._driver, path, content, version):
                return

    def restore_missing(self, name: RepositoryName, tags: Sequence[Tag], digest: Digest) -> bool:
        """
        Restore the tags of a push that were deleted during it, unless all of them were deleted.

        Returns:
            Whether any tag was restored.
        """
        missing = [tag for tag in tags if self.find(name, tag) is None]
        if len(missing) == len(tags):
            return False
        for tag in missing:
            self.restore(name, tag, digest)
        return bool(missing)


class TagBackReferences:
    """
    The back-references of all repositories: which tags point, or pointed, at a manifest, without reading every tag.

    Each is an empty file beside the manifest's link, written before the tag. Distribution writes none, but records
    every digest that a tag has pointed at in a history of the tag. This registry never writes to that history and
    removes it with the tag, so it shows all tags that distribution has written.
    """

    def __init__(self, driver: StorageDriver, listings: ListingCache) -> None:
        self._driver = driver
        self._listings = listings

    def are_complete(self, name: RepositoryName) -> bool:
        """Return whether every tag of a repository has a back-reference, unless distribution has written it."""
        return self._driver.has_file(layout.back_references_complete(name))

    def tags(self, name: RepositoryName, digest: Digest) -> Sequence[str]:
        """Return the tags with a back-reference at a manifest, in ASCII order; some may point elsewhere by now."""
        return self._listings.names(layout.revision(name, digest), layout.read_tag_back_reference)

    def tags_of_distribution(self, name: RepositoryName, digest: Digest, tags: Sequence[str]) -> Iterator[str]:
        """
        Yield the tags that distribution has set to a manifest; some may point elsewhere by now.

        Args:
            tags: all tags of the repository.
        """
        if self._driver.capabilities.pages:
            folder = layout.tags(name)
            for stat in self._listings.pace(self._driver.walk(folder)):
                tag = stat.path[len(folder) + 1 :].partition("/")[0]
                if is_tag(tag) and stat.path == layout.tag_history_entry(name, Tag(tag), digest):
                    yield tag
            return
        for tag in self._listings.pace(tags):
            if self._driver.exists(layout.tag_history_entry(name, Tag(tag), digest)):
                yield tag

    def put(
        self,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        *,
        is_new: bool = False,
        are_complete: bool = False,
    ) -> None:
        """
        Write the back-reference of a tag that is about to be set to a manifest.

        Args:
            is_new: the manifest was just created, so there is no back-reference to look up.
            are_complete: the back-references of the repository are known to be complete.
        """
        path = layout.tag_back_reference(name, digest, tag)
        if not is_new and self._driver.has_file(path):
            return
        if not are_complete and not self.are_complete(name) and not self._driver.exists(layout.tags(name)):
            # the first tag of the repository: no other needs a back-reference
            self._driver.put_content(layout.back_references_complete(name), b"")
        self._driver.put_content(path, b"")

    def put_all(self, name: RepositoryName, targets: Iterable[tuple[Tag, Digest | None]]) -> None:
        """Write the back-references of all tags of a repository, given each tag and its target."""
        for tag, digest in self._listings.pace(targets):
            if digest is not None:
                self.put(name, tag, digest, are_complete=True)
        self._driver.put_content(layout.back_references_complete(name), b"")


def _parse(link: bytes) -> Digest | None:
    try:
        return Digest.parse(store_removal.unmarked(link).decode("ascii", "replace"))
    except DigestInvalid:  # damaged
        return None


def _read(file_name: str) -> str | None:
    return file_name if is_tag(file_name) else None
