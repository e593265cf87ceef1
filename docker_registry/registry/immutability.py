"""
Immutable tags: the tags that may not change, and the content that therefore may not be deleted.

A pattern is matched against a tag (``v*``) or, with a colon, against repository and tag (``acme/*:v*``). The repository
is matched by its name in API V2. API V1 also calls the repository ``foo`` of V2 ``library/foo``, so a pattern that
names ``library/foo`` covers ``foo`` as well, in requests of either API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, Protocol

from docker_registry.errors import BlobUnknown, ContentImmutable, TagImmutable
from docker_registry.registry import manifest_payload
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.names import LIBRARY, Digest, RepositoryName, Tag
from docker_registry.resources.memory_budget import JsonBudget

#: Memory for the cached references of manifests, and the size of one of them.
_MAX_BYTES: Final = 8 * 1024 * 1024
_REFERENCE_BYTES: Final = 256


class ImmutableTags:
    """The patterns of immutable tags."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """
        Args:
            patterns: in the syntax of ``fnmatch``; ``*`` also matches a slash.
        """
        self._patterns = tuple(patterns)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def covers(self, name: str, tag: str) -> bool:
        """
        Return whether a tag is immutable.

        Args:
            name: the repository's name in API V2, or in V1 if V2 has no name for it.
        """
        if not self._patterns:
            return False
        names = (name,) if "/" in name else (name, f"{LIBRARY}/{name}")
        return any(
            any(fnmatchcase(f"{each}:{tag}", pattern) for each in names)
            if ":" in pattern
            else fnmatchcase(tag, pattern)
            for pattern in self._patterns
        )

    def check_mutable(self, name: RepositoryName, tag: Tag) -> None:
        """
        Check that a tag may be changed and deleted.

        Raises:
            TagImmutable: the tag is immutable.
        """
        if self.covers(name.value, tag.value):
            raise TagImmutable(name=str(name), tag=str(tag))


class _Tags(Protocol):
    """The methods of :class:`~docker_registry.registry.tags.Tags` that are used here."""

    def find(self, name: RepositoryName, tag: Tag) -> Digest | None: ...

    def names(self, name: RepositoryName) -> Sequence[str]: ...


class ImmutableContent:
    """Finds the content that immutable tags depend on: configurations, layers and the children of indexes."""

    def __init__(
        self,
        immutable: ImmutableTags,
        tags: _Tags,
        get_blob: Callable[[Digest], bytes],
        has_manifest: Callable[[RepositoryName, Digest], bool],
        budget: JsonBudget,
    ) -> None:
        """
        Args:
            get_blob: returns the bytes of a manifest, or raises :class:`BlobUnknown`.
            has_manifest: returns whether a repository has a manifest.
            budget: limits the memory for reading manifests.
        """
        self._immutable = immutable
        self._tags = tags
        self._get_blob = get_blob
        self._has_manifest = has_manifest
        self._budget = budget
        self._known: BoundedCache[Digest, tuple[Digest, ...]] = BoundedCache(
            _MAX_BYTES, lambda references: len(references) * _REFERENCE_BYTES
        )

    def check_deletable(self, name: RepositoryName, digest: Digest) -> None:
        """
        Check that no immutable tag of the repository depends on a blob or manifest.

        Reads every manifest with an immutable tag whose references are not cached.

        Raises:
            ContentImmutable: an immutable tag depends on the content.
        """
        tag = self._find_dependent(name, digest) if self._immutable else None
        if tag is not None:
            raise ContentImmutable(name=str(name), digest=str(digest), tag=tag)

    def _find_dependent(self, name: RepositoryName, digest: Digest) -> str | None:
        """Return an immutable tag that depends on the content with a digest; None if there is none."""
        seen: set[Digest] = set()
        for tag in self._budget.pace(self._tags.names(name)):
            if not self._immutable.covers(str(name), tag):
                continue
            target = self._tags.find(name, Tag(tag))
            if target is not None and self._depends(name, [target], digest, seen):
                return tag
        return None

    def _depends(self, name: RepositoryName, manifests: list[Digest], digest: Digest, seen: set[Digest]) -> bool:
        """
        Return whether manifests or their descendants reference a digest.

        Args:
            manifests: the manifests to search; emptied by the search.
            seen: manifests that were already searched, which are skipped; those searched here are added.
        """
        while manifests:
            manifest = manifests.pop()
            if manifest in seen:
                continue
            seen.add(manifest)
            references = self._references(name, manifest)
            if digest in references:
                return True
            manifests += references
        return False

    def _references(self, name: RepositoryName, digest: Digest) -> Iterable[Digest]:
        """Return the digests that a manifest references; empty if the repository has no such manifest."""
        if not self._has_manifest(name, digest):
            return ()
        known = self._known.get(digest)
        if known is None:
            try:
                payload = self._get_blob(digest)
            except BlobUnknown:
                return ()
            with self._budget.reserve(payload):
                known = manifest_payload.references(payload, self._budget.pace)
            self._known.put(digest, known)
        return known
