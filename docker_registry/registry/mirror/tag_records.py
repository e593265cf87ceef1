"""
Records of mirrored tags: the target of each, and when the upstream last confirmed it.

They are not links of the store, because a link has precedence over every source::

    docker/registry/v2/_mirror/docker.io+library+alpine/tags/latest
    {"digest": "sha256:…", "checked": 1767225600.0}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import DigestInvalid
from docker_registry.registry import layout, store_removal, stored_document
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import Digest, RepositoryName, Tag


@dataclass(frozen=True, slots=True)
class TagRecord:
    """
    The target of a mirrored tag.

    Attributes:
        checked: when the upstream confirmed it, seconds since the Unix epoch.
    """

    digest: Digest
    checked: float


class TagRecords:
    """The records of all mirrored tags."""

    def __init__(self, driver: StorageDriver, listings: ListingCache) -> None:
        self._driver = driver
        self._listings = listings

    def find(self, name: RepositoryName, tag: Tag) -> TagRecord | None:
        """Return the record of a tag; None if there is none, or it is damaged."""
        content = self._driver.find(layout.mirrored_tag(name, tag))
        if content is None:
            return None
        try:
            document = stored_document.parse(content)
            return TagRecord(Digest.parse(document["digest"]), float(document["checked"]))
        except (ValueError, TypeError, KeyError, AttributeError, DigestInvalid):
            return None

    def put(self, name: RepositoryName, tag: Tag, record: TagRecord) -> None:
        """Store the record of a tag."""
        content = json.dumps({"digest": str(record.digest), "checked": record.checked}).encode()
        self._driver.put_content(layout.mirrored_tag(name, tag), content)

    def discard(self, name: RepositoryName, tag: Tag) -> bool:
        """Remove the record of a tag; return whether there was one."""
        return store_removal.remove(self._driver, layout.mirrored_tag(name, tag))

    def discard_target(self, name: RepositoryName, digest: Digest) -> None:
        """Remove the records of the tags that point at a manifest."""
        for tag in map(Tag, self._listings.pace(self.names(name))):
            record = self.find(name, tag)
            if record is not None and record.digest == digest:
                self.discard(name, tag)

    def names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names of the tags of a repository that have records, in ASCII order."""
        return self._listings.names(layout.mirrored_tags(name), layout.read_tag)
