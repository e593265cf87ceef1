"""
Private repositories: the access policy of a registry without users.

API V1 lets clients make a repository private. It then contains the file ``_private``, and is hidden in both APIs. Each
private repository also has an entry in one flat directory, so that requests need no search. Trees of old servers have
no entries; :meth:`PrivateRepositories.adopt` creates them before the first response.

This module only reads which repositories are private, and also applies where API V1 is not served.
:mod:`docker_registry.registry.v1.private_images` changes it, and hides the images of private repositories.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from docker_registry.drivers.base import NO_FOLDER, StorageDriver
from docker_registry.errors import LinkBroken, NameInvalid
from docker_registry.registry import layout, store_removal
from docker_registry.registry.access import Action, Repository
from docker_registry.registry.actor import Principal
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag

logger = logging.getLogger(__name__)

#: Time for which entries are cached in memory if the driver cannot detect changes of a directory cheaply.
_CACHE_SECONDS = 5.0


class PrivateRepositories:
    """
    Knows which repositories are private, and hides them unless ``serve_private`` is set.

    Attributes:
        serve_private: whether private repositories are served to every client.
        pace: wraps an iterable of names so that a long loop over it yields to other requests.
        mark_images: marks the images that only the given repositories have; called for the private repositories that
            :meth:`adopt` finds. None where API V1 is not served: then the marks of images count as incomplete.
    """

    def __init__(
        self,
        driver: StorageDriver,
        listings: ListingCache,
        *,
        serve_private: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            now: a monotonic clock; returns seconds.
        """
        self._driver = driver
        self._listings = listings
        self.pace = listings.pace
        self.serve_private = serve_private
        self.mark_images: Callable[[Iterable[ImageRepositoryName]], None] | None = None
        self._now = now
        self._is_adopted = False
        self._are_images_marked = False
        self._listed: tuple[str | None, Sequence[str]] = (None, ())
        self._cached: tuple[float, Sequence[str]] | None = None
        self._changes = 0
        self._hidden: tuple[Sequence[str], tuple[RepositoryName, ...]] = ((), ())

    # ------------------------------------------------------------------------------------------------ policy

    def allows(self, principal: Principal, action: Action, name: Repository, tag: Tag | None = None) -> bool:  # noqa: ARG002
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        if action is Action.ADMIN:
            return False
        # Responses to pulls are cached, and depend on the entries as they are now; deletions are rare.
        return self.serve_private or not self.is_private(name, may_be_cached=action is Action.PUSH)

    def may_pull_all(self, principal: Principal) -> bool:  # noqa: ARG002
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        return self.serve_private or not self.names()

    def hidden_repositories(self, principal: Principal) -> Sequence[RepositoryName]:  # noqa: ARG002
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        names = () if self.serve_private else self.names()
        if names is not self._hidden[0]:
            self._hidden = (names, tuple(each for name in self.pace(names) for each in oci_names(name)))
        return self._hidden[1] if names else ()

    def hides_content(self, principal: Principal, digest: Digest) -> bool:  # noqa: ARG002
        """See :class:`~docker_registry.registry.access.AccessPolicy`; hides all content while marks are incomplete."""
        return self._driver.exists(layout.private_layer(digest)) or not self._are_images_marked

    def before_deletion(self, name: RepositoryName, digest: Digest) -> None:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""
        path = layout.private_layer(digest)
        if self.is_private(name) and not self._driver.exists(path):
            self._driver.put_content(path, b"")

    def pull_prefixes(self, principal: Principal) -> None:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""

    def tag_filter(self, principal: Principal, name: Repository) -> None:
        """See :class:`~docker_registry.registry.access.AccessPolicy`."""

    # ------------------------------------------------------------------------------------------------- state

    def is_private(self, name: Repository, *, may_be_cached: bool = False) -> bool:
        """
        Return whether a repository is private, given its name in either API.

        Args:
            may_be_cached: see :meth:`names`.
        """
        private = self.names(may_be_cached=may_be_cached)
        if not private or name.is_hidden:
            return False
        try:
            return _contains(private, str(ImageRepositoryName.parse(str(name))))
        except NameInvalid:  # no repository of API V1 can have that name
            return False

    def names(self, *, may_be_cached: bool = False) -> Sequence[str]:
        """
        Return the API V1 names of all private repositories, sorted.

        Args:
            may_be_cached: on object stores, which other hosts change, the names may be five seconds old. Otherwise they
                are that old only if the driver cannot detect changes.
        """
        if not self._is_adopted:
            if self._driver.exists(layout.PRIVATE_IS_COMPLETE):
                self._is_adopted = self._are_images_marked = True
            else:
                self.adopt()
        capabilities = self._driver.capabilities
        if capabilities.folder_versions and not (may_be_cached and capabilities.pages):
            version = self._driver.folder_version(layout.PRIVATE_REPOSITORIES)
            if version == NO_FOLDER:  # unlike other versions, it may return
                return ()
            if version is None or version != self._listed[0]:
                self._listed = (version, self.read_entries())
            return self._listed[1]
        if self._cached is None or self._now() - self._cached[0] > _CACHE_SECONDS:
            started, changes = self._now(), self._changes
            names = self.read_entries()
            if changes != self._changes:  # this worker has changed the entries while they were listed
                return self.read_entries()
            self._cached = started, names
        return self._cached[1]

    def canonical_names(self) -> list[str]:
        """Return the canonical names of all private repositories, sorted: those in V2, or in V1 if V2 has none."""
        names = map(ImageRepositoryName.parse, self.pace(self.names()))
        return sorted(str(name.repository() or name) for name in names)

    def read_entries(self) -> Sequence[str]:
        """Return the names in the directory of entries, without any cache in memory."""
        return self._listings.names(layout.PRIVATE_REPOSITORIES, layout.read_private_entry)

    def forget(self) -> None:
        """Read the entries again at the next access."""
        self._cached = None
        self._changes += 1

    def adopt(self) -> int:
        """
        Find all private repositories by walking the tree, rebuild their entries, and mark their images.

        A broken symbolic link is only logged: what is behind it cannot be served. The next start walks the tree again.

        Returns:
            The number of private repositories.
        """
        private = {}
        is_empty = True
        is_whole = True
        try:
            for stat in self.pace(self._driver.walk(layout.IMAGE_REPOSITORIES)):
                is_empty = False
                folder, _, file_name = stat.path.rpartition("/")
                name = layout.read_image_repository_folder(folder) if file_name == "_private" else None
                if name is not None:
                    private[str(name)] = name
        except LinkBroken as error:
            logger.warning("private repositories behind a broken link are found at the next start: %s", error)
            is_whole = False
        self.forget()
        for text in self.pace({*private, *self.read_entries()}):
            self._settle_entry(private.get(text) or ImageRepositoryName.parse(text))
        if self.mark_images is not None:
            self.mark_images(private.values())
            if is_whole and not is_empty:  # walking an empty tree again is cheap, and a read should not write to it
                self._driver.put_content(layout.PRIVATE_IS_COMPLETE, b"")
            self._are_images_marked = True
        self.forget()
        self._is_adopted = True
        return len(private)

    def _settle_entry(self, name: ImageRepositoryName) -> None:
        """
        Create or remove the entry of a repository after its file ``_private``.

        Another worker may change both meanwhile, the file first, so the file is read again after the entry is written.
        """
        while True:
            try:
                is_private = self._is_marked(name)
            except LinkBroken:  # keep the entry, if there is one
                return
            if is_private:
                self._driver.put_content(layout.private_entry(name), b"")
            else:
                store_removal.remove(self._driver, layout.private_entry(name))
            if self._is_marked(name) is is_private:
                return

    def _is_marked(self, name: ImageRepositoryName) -> bool:
        folders = layout.image_repository_folders(name)
        return any(self._driver.exists(layout.private_mark(folder)) for folder in folders)


def oci_names(name: str) -> list[RepositoryName]:
    """Return the repositories of API V2 that are hidden together with a private repository of API V1."""
    try:
        image_repository = ImageRepositoryName.parse(name)
    except NameInvalid:  # not an entry of this registry
        return []
    possible = (image_repository.repository(), image_repository.fallback())
    return [each for each in possible if each is not None]


def _contains(names: Sequence[str], name: str) -> bool:
    """Return whether a sorted list of names contains a name."""
    position = bisect_left(names, name)
    return position < len(names) and names[position] == name
