"""
Pushes of manifests: the checks, and the order in which manifest, link and tags are written.

Content is written before its link, and the link before the tags that point at it, so nothing ever refers to missing
content. What a concurrent deletion removes during a push is restored before the push is acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from docker_registry.concurrency import run_concurrently
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import DigestInvalid, ManifestBlobUnknown, PreconditionFailed, TagChanged, TooLarge
from docker_registry.registry import events, layout, manifest_payload
from docker_registry.registry.actor import ANONYMOUS_PUSH, Actor, Principal
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.manifest_payload import Payload
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.names import Descriptor, Digest, Reference, RepositoryName, Tag
from docker_registry.registry.referrers import Referrers
from docker_registry.registry.repositories import Repositories
from docker_registry.registry.tag_changes import Condition, TagChange, TagGuard
from docker_registry.registry.tags import Tags
from docker_registry.resources.memory_budget import JsonBudget

#: Maximum number of missing digests listed in an error.
_MAX_NAMED: Final = 100


@dataclass(frozen=True, slots=True)
class Pushed:
    """
    The result of a manifest push.

    Attributes:
        tags: the tags that the push set.
        subject: the digest of the manifest's subject, among whose referrers the manifest is now listed.
        missing: children of an index that the repository does not have.
    """

    descriptor: Descriptor
    tags: tuple[Tag, ...] = ()
    subject: Digest | None = None
    missing: tuple[Digest, ...] = ()


class ManifestPushes:
    """
    Stores manifests.

    Attributes:
        max_manifest_bytes: the maximum size of a manifest that a client pushes.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: Blobs,
        tags: Tags,
        manifests: Manifests,
        referrers: Referrers,
        repositories: Repositories,
        json_budget: JsonBudget,
        *,
        max_manifest_bytes: int = 4 * 1024 * 1024,
        check_index_children: bool = False,
    ) -> None:
        """
        Args:
            json_budget: limits the memory for large manifests.
            max_manifest_bytes: the maximum size of a manifest in bytes.
            check_index_children: reject an index whose children the repository does not have. Off by default, because
                the index of BuildKit's cache has layers as children.
        """
        self._driver = driver
        self._blobs = blobs
        self._tags = tags
        self._manifests = manifests
        self._referrers = referrers
        self._repositories = repositories
        self._json_budget = json_budget
        self._check_index_children = check_index_children
        self.max_manifest_bytes = max_manifest_bytes

    def put(
        self,
        name: RepositoryName,
        reference: Reference,
        payload: bytes,
        content_type: str | None,
        tags: Sequence[Tag] = (),
        condition: Condition | None = None,
        guard: TagGuard | None = None,
        *,
        actor: Actor = ANONYMOUS_PUSH,
    ) -> Pushed:
        """
        Store a manifest and set its tags (end-7a, end-7b).

        Args:
            reference: the digest of the manifest, or a tag to set.
            content_type: the media type in the request's Content-Type, without parameters; None if it is absent.
            tags: additional tags to set.
            condition: a precondition. If *reference* is a tag, it must hold for the current target of each tag to be
                set. If *reference* is a digest, it is called with that digest if the repository has it, else with None.
            guard: called before each tag is set, and raises to reject it. Check and change are atomic among the workers
                of a server; on a store without conditional writes, another host may change the tag in between.

        Raises:
            TooLarge: the payload exceeds ``max_manifest_bytes``.
            ManifestInvalid: the payload is not a supported manifest.
            ManifestBlobUnknown: the manifest references a blob that the repository does not have.
            DigestInvalid: *reference* is a digest, but not that of the payload.
            TagChanged: *condition* does not hold, or another request changed a tag concurrently.
            TagImmutable: a tag is immutable and points at another manifest.
            ConditionUnsupported: the driver does not support conditional writes.
            Overloaded: the manifest is large, and other large manifests use the worker's memory.
        """
        with self._json_budget.reserve(payload):
            if self._driver.capabilities.if_match:
                return self._put(name, reference, payload, content_type, tags, condition, guard, actor)
            moved = (reference, *tags) if isinstance(reference, Tag) else tags
            with self._tags.locks.hold(name, moved):
                return self._put(name, reference, payload, content_type, tags, condition, guard, actor)

    def _put(
        self,
        name: RepositoryName,
        reference: Reference,
        payload: bytes,
        content_type: str | None,
        tags: Sequence[Tag],
        condition: Condition | None,
        guard: TagGuard | None,
        actor: Actor,
    ) -> Pushed:
        if len(payload) > self.max_manifest_bytes:
            raise TooLarge("The manifest is too large.", max_bytes=self.max_manifest_bytes)
        digest = self._digest(name, reference, payload, condition)
        document = manifest_payload.read(payload, content_type, self._json_budget.pace)
        tags = (reference, *tags) if isinstance(reference, Tag) else tuple(tags)
        tag_condition = condition if isinstance(reference, Tag) else None
        may_be_refused = guard is not None or self._depend_on_targets(name, tags, tag_condition)
        paths_to_write = self._paths_to_write(name, digest, tags)
        announced = () if may_be_refused else paths_to_write
        missing, complete, is_in_catalog = self._check_references(name, document, announced)
        conditions = {tag: self._guarded(guard, name, tag, digest, tag_condition, actor.principal) for tag in tags}
        self._check_tags(name, conditions, digest, actor.principal)
        if may_be_refused:  # announced only now: a refused push invalidates nothing
            self._driver.announce_writes(paths_to_write)
        descriptor = Descriptor(document.media_type, digest, len(payload))
        is_first = not complete and not self._driver.exists(layout.manifests(name))
        while True:
            try:
                with self._driver.batch():
                    if not is_in_catalog:
                        self._repositories.enter(name)
                    is_new, changes = self._write_content(
                        name, descriptor, payload, document, conditions, actor.principal, has_back_references=complete
                    )
                    is_linked = self._manifests.link(name, digest, document, is_new=is_new)
                    for change in changes:
                        self._tags.changes.apply(change, principal=actor.principal)
                break
            except PreconditionFailed:  # another request changed a tag: retry, except with a precondition
                if tag_condition is not None:
                    raise TagChanged(name=str(name), tag=str(reference)) from None
        if is_linked:
            self._refer_again(name, descriptor, document, is_new=is_new)
        self._manifests.types.restore(name, digest, document)
        self._complete(name, descriptor, document, tags)
        signal = events.repository_created if is_first else events.repository_updated
        events.announce(signal, self._driver, actor, name=name)
        for tag in tags:
            events.announce(events.tag_created, self._driver, actor, name=name, tag=tag)
        return Pushed(descriptor, tags, document.subject.digest if document.subject else None, missing)

    def _write_content(
        self,
        name: RepositoryName,
        descriptor: Descriptor,
        payload: bytes,
        document: Payload,
        conditions: Mapping[Tag, Condition | None],
        principal: Principal,
        *,
        has_back_references: bool,
    ) -> tuple[bool, Sequence[TagChange]]:
        """
        Write everything that must exist before the link to a manifest; concurrently if each write is a request.

        Returns:
            Whether the payload is known to be new in the store, and the tag changes to apply after the link is written.
        """
        put = partial(self._blobs.put, payload, descriptor.digest, detects_new=document.subject is not None)
        refer = partial(self._refer, name, descriptor, document)
        prepare = [
            partial(
                self._tags.changes.prepare,
                name,
                tag,
                descriptor.digest,
                condition,
                principal=principal,
                has_back_references=has_back_references,
                needs_previous=False,
            )
            for tag, condition in conditions.items()
        ]
        if self._driver.capabilities.pages:  # looking for a back-reference takes as long as writing it
            refers = [refer] if document.subject else []
            blob, *done = run_concurrently(put, *(partial(each, is_new=True) for each in prepare), *refers)
            return blob.is_new, done[: len(prepare)]
        is_new = put().is_new
        refer()
        return is_new, [each(is_new=is_new) for each in prepare]

    def adopt(
        self, name: RepositoryName, digest: Digest, payload: bytes, content_type: str | None, *, actor: Actor
    ) -> None:
        """
        Store a manifest fetched from another registry. Its blobs and children need not be here, and no tag is set.

        Args:
            digest: the verified digest of *payload*.
            content_type: the media type that the other registry states; None if it states none.

        Raises:
            ManifestInvalid: the payload is not a supported manifest.
            Overloaded: the manifest is large, and other large manifests use the worker's memory.
        """
        with self._json_budget.reserve(payload):
            document = manifest_payload.read(payload, content_type, self._json_budget.pace)
            descriptor = Descriptor(document.media_type, digest, len(payload))
            is_first = not self._driver.exists(layout.manifests(name))
            with self._driver.batch():
                self._repositories.enter(name)
                self._blobs.put(payload, digest)
                self._refer(name, descriptor, document)
                self._manifests.link(name, digest, document)
            self._manifests.types.restore(name, digest, document)
        signal = events.repository_created if is_first else events.repository_updated
        events.announce(signal, self._driver, actor, name=name)

    def _complete(self, name: RepositoryName, descriptor: Descriptor, document: Payload, tags: Sequence[Tag]) -> None:
        """Restore the link, referrer entry and tags that another request deleted during the push."""
        digest = descriptor.digest
        is_there = self._driver.has_kept(layout.revision_link(name, digest))
        while True:
            if not is_there:
                self._refer(name, descriptor, document)
                self._manifests.link(name, digest, document)
                # Write the entry and tags after the link: without it, a concurrent deletion may remove them.
                self._refer(name, descriptor, document)
                for tag in tags:
                    self._tags.links.restore(name, tag, digest)
            elif len(tags) < 2 or not self._tags.links.restore_missing(name, tags, digest):
                return
            is_there = self._manifests.exists(name, digest)

    def _refer(self, name: RepositoryName, descriptor: Descriptor, document: Payload) -> None:
        """Record a manifest that has a subject as a referrer."""
        if document.subject is not None:
            self._referrers.put(name, document.subject.digest, descriptor, document)

    def _refer_again(self, name: RepositoryName, descriptor: Descriptor, document: Payload, *, is_new: bool) -> None:
        """Record a referrer again if a concurrent deletion may have removed its entry before the link was written."""
        if document.subject is None:
            return
        if not is_new or self._referrers.needs(name, document.subject.digest, descriptor.digest):
            self._refer(name, descriptor, document)

    def _digest(
        self, name: RepositoryName, reference: Reference, payload: bytes, condition: Condition | None
    ) -> Digest:
        if isinstance(reference, Tag):
            return Digest.of(payload)
        digest = Digest.of(payload, reference.algorithm)
        if digest != reference:
            raise DigestInvalid(digest=str(reference), received=str(digest))
        if condition is not None and not condition(digest if self._manifests.exists(name, digest) else None):
            raise TagChanged("The manifest does not meet the precondition of the request.", digest=str(digest))
        return digest

    def _guarded(
        self,
        guard: TagGuard | None,
        name: RepositoryName,
        tag: Tag,
        digest: Digest,
        condition: Condition | None,
        principal: Principal,
    ) -> Condition | None:
        """
        Return a condition that also calls the guard.

        Without conditional writes the guard is called here, because the caller holds the lock of the tag.
        """
        if guard is None:
            return condition
        check: TagGuard = guard
        if not self._driver.capabilities.if_match:
            check(tag, self._tags.changes.target(name, tag, principal), digest)
            return condition

        def holds(current: Digest | None) -> bool:
            if condition is not None and not condition(current):
                return False
            check(tag, current, digest)
            return True

        return holds

    def _check_tags(
        self, name: RepositoryName, tags: Mapping[Tag, Condition | None], digest: Digest, principal: Principal
    ) -> None:
        """Raise the error of setting the tags now, or of a hidden repository, before anything is written."""
        for tag, condition in tags.items():
            self._tags.changes.check(name, tag, digest, condition, principal=principal)
        short = self._repositories.find_short(name)
        if short is not None:  # a push to `library/foo` hides the tags of `foo` under that name
            for tag in tags:
                self._tags.changes.check(short, tag, digest, principal=principal)
        if name.is_hidden:  # the same error as in a repository that has none of the blobs
            raise ManifestBlobUnknown(name=str(name), digests=[])

    def _depend_on_targets(self, name: RepositoryName, tags: Sequence[Tag], condition: Condition | None) -> bool:
        """Return whether the current target of a tag decides if the push is accepted."""
        return any(self._tags.changes.depends_on_target(name, tag, condition) for tag in tags)

    def _check_references(
        self, name: RepositoryName, document: Payload, announced: Sequence[str]
    ) -> tuple[tuple[Digest, ...], bool, bool]:
        """
        Check that the repository has the content that a manifest references.

        Args:
            announced: storage paths that the push writes if no content is missing.

        Returns:
            The missing children of an index, always empty if ``check_index_children`` is set; whether the
            back-references of the tags are complete; and whether the repository is in the catalog.

        Raises:
            ManifestBlobUnknown: a blob is missing, or a child while ``check_index_children`` is set.
        """
        pace = self._json_budget.pace
        digests = [*dict.fromkeys(blob.digest for blob in document.blobs)]
        # Checking for a file is faster than checking whether a directory has any file.
        files = layout.back_references_complete(name), layout.catalog_entry(name)
        missing, (complete, is_in_catalog) = self._blobs.missing_and_files(
            name, digests, files, pace, announced=announced
        )
        children: list[Digest] = []
        if document.manifests:
            named = dict.fromkeys(item.digest for item in document.manifests)
            elsewhere = [digest for digest in pace(named) if not self._manifests.exists(name, digest)]
            children = self._blobs.missing(name, elsewhere, pace)
        if self._check_index_children:
            missing += children
        if missing:
            raise ManifestBlobUnknown(
                name=str(name), digests=[str(digest) for digest in missing[:_MAX_NAMED]], missing=len(missing)
            )
        return tuple(children), complete, is_in_catalog

    def _paths_to_write(self, name: RepositoryName, digest: Digest, tags: Sequence[Tag]) -> Sequence[str]:
        """Return the storage paths that a push writes, each with a request of its own; none if they are one batch."""
        if not self._driver.capabilities.pages:
            return ()
        links = [path for tag in tags for path in self._tags.changes.files(name, tag, digest)]
        return [layout.blob_data(digest), layout.revision_link(name, digest), *links]
