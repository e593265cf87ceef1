"""Tags of upstreams: their targets, asked for when they are first requested and when they are older than the ttl."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import gevent

from docker_registry.concurrency import KeyedLocks
from docker_registry.errors import UpstreamDenied, UpstreamError, UpstreamLimited
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.leases import Leases
from docker_registry.registry.listing_cache import Page
from docker_registry.registry.mirror import stale
from docker_registry.registry.mirror.mirrored_manifests import MirroredManifests
from docker_registry.registry.mirror.remotes import Remote, Remotes
from docker_registry.registry.mirror.stale import STALE_SECONDS
from docker_registry.registry.mirror.tag_lists import TagLists
from docker_registry.registry.mirror.tag_records import TagRecord, TagRecords
from docker_registry.registry.names import Digest, RepositoryName, Tag
from docker_registry.registry.sources import Found, Origin

#: Memory for the reasons of failed requests.
_FAILURES_BYTES: Final = 1024 * 1024

#: How often a process that waits for another one looks for its result.
_POLL_SECONDS: Final = 0.05


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
        leases: Leases,
        lists: TagLists,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            leases: let one process at a time ask for a tag.
            lists: the lists of tags that the upstreams have.
            now: the clock, seconds since the Unix epoch.
        """
        self._remotes = remotes
        self._records = records
        self._manifests = manifests
        self._leases = leases
        self._lists = lists
        self._failures: BoundedCache[tuple[str, str], tuple[str, float]] = BoundedCache(_FAILURES_BYTES)
        self._now = now
        self._locks = KeyedLocks()

    def get(self, name: RepositoryName, tag: Tag, principal: Principal = ANONYMOUS) -> Found[Digest] | None:  # noqa: ARG002
        """
        Return the target of a tag, and fetch its manifest; None when there is no such tag.

        While the upstream cannot be asked, the last known target is returned with a warning.

        Raises:
            UpstreamError: the upstream cannot be asked and the tag is not known, or the upstream denies access.
        """
        remote = self._remotes.find(name)
        if remote is None:
            return None
        record = self._records.find(name, tag)
        if record is None and self._remotes.is_absent(name, tag):  # checked before a lease is written
            return None
        if not self._is_fresh(record, remote):
            with self._locks.hold((str(name), str(tag))):
                record = self._records.find(name, tag)
                if not self._is_fresh(record, remote):
                    return self._check(name, tag, remote, record)
        return self._found(record, remote)

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

    def page(self, name: RepositoryName, count: int, last: str) -> Page | None:
        """
        Return a page of the upstream's tags.

        Returns:
            None if there is no upstream, or it cannot be asked, so that the known tags are listed.

        Raises:
            UpstreamDenied: the upstream denies access.
        """
        remote = self._remotes.find(name)
        if remote is None or count == 0:
            return None
        try:
            return self._lists.page(remote, count, last)
        except UpstreamDenied:
            raise
        except UpstreamError:
            return None

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

    def _is_fresh(self, record: TagRecord | None, remote: Remote) -> bool:
        # A record from the future was written by a host whose clock is wrong.
        return record is not None and 0 <= self._now() - record.checked < remote.upstream.ttl_seconds

    def _found(self, record: TagRecord | None, remote: Remote, *, fetched_from: str = "") -> Found[Digest] | None:
        if record is None:
            return None
        left_seconds = record.checked + remote.upstream.ttl_seconds - self._now()
        return Found(record.digest, Origin(expires=time.monotonic() + left_seconds, fetched_from=fetched_from))

    def _check(self, name: RepositoryName, tag: Tag, remote: Remote, known: TagRecord | None) -> Found[Digest] | None:
        """Ask the upstream, or serve the last known target."""
        if known is not None and (failed := self._failures.get((str(name), str(tag)))) is not None:
            reason, until = failed
            if time.monotonic() < until:
                return self._stale(known, remote, reason)
        try:
            if known is not None and remote.client.connection.is_nearly_limited:
                raise UpstreamLimited(retry_after_seconds=STALE_SECONDS)
            record = self._ask_once(name, tag, remote, known)
            is_new = known is None or record is None or record.digest != known.digest
            return self._found(record, remote, fetched_from=remote.upstream.name if is_new else "")
        except UpstreamDenied:
            raise
        except UpstreamError as error:
            if known is None:
                raise
            reason = stale.reason_of(error)
            self._failures.put((str(name), str(tag)), (reason, time.monotonic() + STALE_SECONDS))
            return self._stale(known, remote, reason)

    def _ask_once(self, name: RepositoryName, tag: Tag, remote: Remote, known: TagRecord | None) -> TagRecord | None:
        """Ask the upstream, unless another process asks for the same tag: then wait for its result."""
        if not self._remotes.may_store:  # a lease would be a write
            return self._resolve(name, tag, remote)
        work = f"mirror-{Digest.of(f'{name}:{tag}'.encode()).hex[:40]}"
        deadline = time.monotonic() + 2 * remote.upstream.timeout_seconds
        while not self._leases.take(work, 2 * remote.upstream.timeout_seconds, ends_with_process=True):
            if time.monotonic() > deadline:
                break
            gevent.sleep(_POLL_SECONDS)
            record = self._records.find(name, tag)
            if self._is_fresh(record, remote):
                return record
        try:
            return self._ask(name, tag, remote, known)
        finally:
            self._leases.release(work)

    def _ask(self, name: RepositoryName, tag: Tag, remote: Remote, known: TagRecord | None) -> TagRecord | None:
        """Ask the upstream for the target of a tag, and fetch the manifest if it has changed."""
        if known is not None and self._manifests.exists(name, known.digest):
            state = remote.client.check_tag(remote.path, tag)
            if not state.exists:
                self._records.discard(name, tag)
                self._remotes.record_absence(name, tag)
                return None
            if state.digest == known.digest:
                return self._put(name, tag, known.digest)
        fetched = self._manifests.fetch(name, remote, tag)
        if fetched is None:
            self._records.discard(name, tag)
            return None
        return self._put(name, tag, fetched[0])

    def _resolve(self, name: RepositoryName, tag: Tag, remote: Remote) -> TagRecord | None:
        """Ask the upstream for the target of a tag without storing anything."""
        state = remote.client.check_tag(remote.path, tag)
        if not state.exists:
            return None
        if state.digest is not None:
            return TagRecord(state.digest, self._now())
        fetched = self._manifests.fetch(name, remote, tag)
        return None if fetched is None else TagRecord(fetched[0], self._now())

    def _put(self, name: RepositoryName, tag: Tag, digest: Digest) -> TagRecord:
        record = TagRecord(digest, self._now())
        self._records.put(name, tag, record)
        return record

    def _stale(self, known: TagRecord, remote: Remote, reason: str) -> Found[Digest]:
        """Return the last known target, with a warning that says when it was checked."""
        text = stale.warning(remote.upstream.name, reason, "this tag was", self._now() - known.checked)
        return Found(known.digest, Origin(expires=time.monotonic() + STALE_SECONDS, warning=text))
