"""
Which repositories have a V1 image. Images belong to no repository in API V1, so their URLs name none; a registry with
access control must know from which repositories a client could have the image.

One empty file for each image and repository records that, written before the list or the tag through which the
repository gets the image. An image that exists already is *claimed* first, unless the client may pull it from another
repository: its id alone is no reason to hand it out. The claim becomes a membership when the client pushes the layer.

An image that derives from API V2 is a member of the V2 repositories that have its manifest.

A registry without access control writes none of these files. It removes the mark that they are complete, so that the
first request that needs them with access control records what lists and tags contain.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from docker_registry.concurrency import KeyedLocks
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ImageUnknown
from docker_registry.registry import json_scanner, layout, store_removal
from docker_registry.registry.access import Access, Action
from docker_registry.registry.actor import Principal
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.listing_cache import ListingCache, with_prefixes
from docker_registry.registry.names import LIBRARY, ImageId, ImageRepositoryName
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.sources import DerivedImageSource

logger = logging.getLogger(__name__)

_LIBRARY: Final = f"{LIBRARY}/"

#: Memory of a worker for the lists of mirrored registries that it has recorded.
_MIRRORED_BYTES: Final = 1024 * 1024


class ImageMemberships:
    """
    Records and finds the repositories of images.

    Attributes:
        is_maintained: whether they are recorded, in a registry with access control.
        exists: returns whether an image was pushed or is being pushed.
        names: yields all repositories of API V1.
        ids_of: returns the ids of the images that a repository lists or has tagged, with their ancestors.
    """

    def __init__(
        self, driver: StorageDriver, listings: ListingCache, derived: DerivedImageSource, access: Access
    ) -> None:
        """
        Args:
            derived: the images that derive from API V2.
            access: decides what clients may do in a repository.
        """
        self._driver = driver
        self._listings = listings
        self._derived = derived
        self._access = access
        self._locks = KeyedLocks()
        self._mirrored: BoundedCache[bytes, bool] = BoundedCache(_MIRRORED_BYTES)
        self._is_complete = False
        self._is_marked_incomplete = False
        self.is_maintained = False
        self.exists: Callable[[ImageId], bool] = lambda _: False
        self.names: Callable[[], Iterable[ImageRepositoryName]] = tuple
        self.ids_of: Callable[[ImageRepositoryName], Iterable[str]] = lambda _: ()

    # ------------------------------------------------------------------------------------------------- finding

    def may_pull(self, principal: Principal, image_id: ImageId) -> bool:
        """Return whether a principal may pull from a repository that has an image."""
        permitted = self._access.pull_filter(principal)
        if permitted is None or self._has_allowed(image_layout.memberships(image_id), principal, Action.PULL):
            return True
        return self._derived.is_known(image_id) and self._derived.is_permitted(image_id, permitted)

    def may_push(self, principal: Principal, image_id: ImageId) -> bool:
        """Return whether a principal may push to a repository that has or claims an image."""
        folders = (image_layout.claims(image_id), image_layout.memberships(image_id))
        return any(self._has_allowed(folder, principal, Action.PUSH) for folder in folders)

    def needs_proof(self, principal: Principal, image_id: ImageId) -> bool:
        """Return whether no repository to which a principal may push has an image, though one claims it."""
        folder = image_layout.memberships(image_id)
        return not self._has_allowed(folder, principal, Action.PUSH) and self.may_push(principal, image_id)

    def _has_allowed(self, folder: str, principal: Principal, action: Action) -> bool:
        if any(self._allowed(folder, principal, action)):
            return True
        if self._is_complete:
            return False
        self._complete()
        return any(self._allowed(folder, principal, action))

    def _allowed(self, folder: str, principal: Principal, action: Action) -> Iterator[ImageRepositoryName]:
        """Yield the repositories in a folder of entries in which a principal may do something."""
        names = self._listings.names(folder, layout.read_private_entry)
        prefixes = self._access.policy.pull_prefixes(principal)
        if prefixes is not None:  # rules call library/foo foo
            names = with_prefixes(names, {*prefixes, _LIBRARY})
        for text in self._listings.pace(names):
            name = ImageRepositoryName.parse(text)
            if self._access.policy.allows(principal, action, name):
                yield name

    # ----------------------------------------------------------------------------------------------- recording

    def record_listed(self, name: ImageRepositoryName, ids: Iterable[str], principal: Principal) -> None:
        """Record images that a client adds to the list of a repository."""
        if not self._is_recording():
            return
        for image_id in self._parsed(ids):
            is_free = not self.exists(image_id) or self.may_pull(principal, image_id)
            folder = image_layout.memberships(image_id) if is_free else image_layout.claims(image_id)
            self._put(folder, name)

    def record_tagged(self, name: ImageRepositoryName, ids: Iterable[str]) -> None:
        """Record an image with its ancestors, before a repository tags it."""
        if self._is_recording():
            for image_id in self._parsed(ids):
                self._put(image_layout.memberships(image_id), name)

    def record_mirrored(self, name: ImageRepositoryName, images: bytes) -> None:
        """
        Record the images in the list that a mirrored registry has of a repository, as JSON.

        Images that are in the store are left out: the mirrored registry must not open those that were pushed here by
        naming their ids. It is known elsewhere which of them it has supplied.
        """
        mark = hashlib.sha256(f"{name}\n".encode() + images).digest()
        if not self.is_maintained or self._mirrored.get(mark):
            return
        entries = json_scanner.scan_list(images.decode("utf-8", "replace"))
        listed = (entry.get("id") for entry in self._listings.pace(entries) if isinstance(entry, dict))
        for image_id in self._parsed(text for text in listed if isinstance(text, str)):
            if not self.exists(image_id):
                self._put(image_layout.memberships(image_id), name)
        self._mirrored.put(mark, True)

    def prove(self, image_id: ImageId, principal: Principal) -> None:
        """Turn the claims of an image into memberships, once a principal has pushed its layer."""
        for name in list(self._allowed(image_layout.claims(image_id), principal, Action.PUSH)):
            self._put(image_layout.memberships(image_id), name)
            store_removal.remove(self._driver, image_layout.membership(image_layout.claims(image_id), name))

    def forget(self, name: ImageRepositoryName) -> None:
        """Remove the entries of a repository, before it is deleted."""
        if self._is_recording():
            for image_id in self._parsed(self.ids_of(name)):
                for folder in (image_layout.memberships(image_id), image_layout.claims(image_id)):
                    store_removal.remove(self._driver, image_layout.membership(folder, name))

    def _is_recording(self) -> bool:
        """Return whether entries are recorded; otherwise remove the mark that they are complete."""
        if not self.is_maintained and not self._is_marked_incomplete:
            store_removal.remove(self._driver, image_layout.MEMBERSHIPS_ARE_COMPLETE)
            self._is_marked_incomplete = True
        return self.is_maintained

    def _put(self, folder: str, name: ImageRepositoryName) -> None:
        path = image_layout.membership(folder, name)
        if not self._driver.exists(path):
            self._driver.put_content(path, b"")

    def _complete(self) -> None:
        """Record what all lists and tags contain, unless that has been done."""
        with self._locks.hold("complete"):
            if self._is_complete:
                return
            if not self._driver.exists(image_layout.MEMBERSHIPS_ARE_COMPLETE):
                count = 0
                for name in self._listings.pace(self.names()):
                    for image_id in self._parsed(self.ids_of(name)):
                        claim = image_layout.membership(image_layout.claims(image_id), name)
                        if not self._driver.exists(claim):
                            self._put(image_layout.memberships(image_id), name)
                    count += 1
                self._driver.put_content(image_layout.MEMBERSHIPS_ARE_COMPLETE, b"")
                logger.info("recorded the images of %d repositories of API V1", count)
            self._is_complete = True

    def _parsed(self, ids: Iterable[str]) -> Iterator[ImageId]:
        for text in self._listings.pace(ids):
            try:
                yield ImageId.parse(text)
            except ImageUnknown:
                continue
