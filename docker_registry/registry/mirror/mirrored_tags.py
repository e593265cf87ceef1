"""Tags of upstreams: their targets, asked for when they are first requested and when they are older than the ttl."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from docker_registry.registry.keyed_locks import KeyedLocks
from docker_registry.registry.mirror.mirrored_manifests import MirroredManifests
from docker_registry.registry.mirror.remotes import Remote, Remotes
from docker_registry.registry.mirror.tag_records import TagRecord, TagRecords
from docker_registry.registry.names import Digest, RepositoryName, Tag
from docker_registry.registry.sources import Found, Origin


class MirroredTags:
    """
    A :class:`~docker_registry.registry.sources.TagSource` of all upstreams.

    Only :meth:`get` asks an upstream. The other methods know the tags that were requested before.
    """

    def __init__(
        self,
        remotes: Remotes,
        records: TagRecords,
        manifests: MirroredManifests,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            now: the clock, seconds since the Unix epoch.
        """
        self._remotes = remotes
        self._records = records
        self._manifests = manifests
        self._now = now
        self._locks = KeyedLocks()

    def get(self, name: RepositoryName, tag: Tag) -> Found[Digest] | None:
        """
        Return the target of a tag, and fetch its manifest; None when there is no such tag.

        Raises:
            UpstreamError: the upstream cannot be asked, or its answer is invalid.
        """
        remote = self._remotes.find(name)
        if remote is None:
            return None
        record = self._fresh(name, tag, remote)
        if record is None:
            with self._locks.hold((str(name), str(tag))):
                record = self._fresh(name, tag, remote) or self._ask(name, tag, remote)
        if record is None:
            return None
        left_seconds = record.checked + remote.upstream.ttl_seconds - self._now()
        return Found(record.digest, Origin(expires=time.monotonic() + left_seconds))

    def find(self, name: RepositoryName, tag: Tag) -> Digest | None:
        """Return the last known target of a tag."""
        record = self._records.find(name, tag) if self._remotes.find(name) is not None else None
        return None if record is None else record.digest

    def exists(self, name: RepositoryName, tag: Tag) -> bool:
        """Return whether a tag is known."""
        return self.find(name, tag) is not None

    def names(self, name: RepositoryName) -> Sequence[str]:
        """Return the names of the known tags of a repository, in ASCII order."""
        return self._records.names(name) if self._remotes.find(name) is not None else ()

    def pointing_at(self, name: RepositoryName, digest: Digest, tags: Iterable[Tag] | None = None) -> Iterator[Tag]:
        """
        Yield the known tags that point at a manifest.

        Args:
            tags: the tags to check; None for all.
        """
        for tag in map(Tag, self.names(name)) if tags is None else tags:
            if self.find(name, tag) == digest:
                yield tag

    def remove(self, name: RepositoryName, tag: Tag, holds: Callable[[], bool] | None = None) -> bool:  # noqa: ARG002
        """Return False: clients cannot remove mirrored tags."""
        return False

    # ------------------------------------------------------------------------------------------------- steps

    def _fresh(self, name: RepositoryName, tag: Tag, remote: Remote) -> TagRecord | None:
        record = self._records.find(name, tag)
        # A record from the future was written by a host whose clock is wrong.
        is_fresh = record is not None and 0 <= self._now() - record.checked < remote.upstream.ttl_seconds
        return record if is_fresh else None

    def _ask(self, name: RepositoryName, tag: Tag, remote: Remote) -> TagRecord | None:
        fetched = self._manifests.fetch(name, remote, tag)
        if fetched is None:
            return None
        record = TagRecord(fetched[0], self._now())
        self._records.put(name, tag, record)
        return record
