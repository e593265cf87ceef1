"""
Immutable tags: which tags may not change, and which content may therefore not be deleted.

A pattern is matched against a tag (``v*``) or, with a colon, against repository and tag (``acme/*:v*``). The repository
is matched under its name in API V2. API V1 calls the repository ``foo`` of V2 ``library/foo`` too, so a pattern that
names ``library/foo`` covers ``foo`` as well, whichever API a request comes by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, Protocol

from docker_registry.errors import BlobUnknown, ContentImmutable
from docker_registry.registry import payloads
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.json_budget import JsonBudget
from docker_registry.registry.names import LIBRARY, Digest, RepositoryName, Tag

#: Memory for the references of manifests, and what one of them takes.
_MAX_BYTES: Final = 8 * 1024 * 1024
_REFERENCE_BYTES: Final = 256


class ImmutableTags:
    """The patterns of immutable tags."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """
        Args:
            patterns: as in ``fnmatch``; ``*`` also matches a slash.
        """
        self._patterns = tuple(patterns)

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def covers(self, name: str, tag: str) -> bool:
        """
        Tell whether a tag may not change once it exists.

        Args:
            name: the repository in API V2; of a repository that V2 cannot name, its name in V1.
        """
        names = (name,) if "/" in name else (name, f"{LIBRARY}/{name}")
        return any(
            any(fnmatchcase(f"{each}:{tag}", pattern) for each in names)
            if ":" in pattern
            else fnmatchcase(tag, pattern)
            for pattern in self._patterns
        )


class _Tags(Protocol):
    """The part of :class:`~docker_registry.registry.tags.Tags` that is needed here."""

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
            has_manifest: tells whether a repository has a manifest.
            budget: bounds what it takes to read manifests.
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
        Refuse to delete a blob or manifest that an immutable tag of the repository depends on.

        Every manifest with an immutable tag is read, unless its references are still in memory.

        Raises:
            ContentImmutable: an immutable tag depends on it.
        """
        tag = self._find_dependent(name, digest) if self._immutable else None
        if tag is not None:
            raise ContentImmutable(name=str(name), digest=str(digest), tag=tag)

    def first_tag(self, name: RepositoryName) -> str | None:
        """Return an immutable tag that a repository has; None when it has none."""
        for tag in self._tags.names(name) if self._immutable else ():
            if self._immutable.covers(str(name), tag) and self._tags.find(name, Tag(tag)) is not None:
                return tag
        return None

    def _find_dependent(self, name: RepositoryName, digest: Digest) -> str | None:
        """Return an immutable tag that depends on a content."""
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
        Tell whether manifests, or their children, refer to a content.

        Args:
            seen: manifests that do not, which are skipped; those that are looked at here are added.
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
        """Return what a manifest of the repository refers to; nothing for what is no manifest of it."""
        if not self._has_manifest(name, digest):
            return ()
        known = self._known.get(digest)
        if known is None:
            try:
                payload = self._get_blob(digest)
            except BlobUnknown:
                return ()
            with self._budget.reserve(payload):
                known = payloads.references(payload, self._budget.pace)
            self._known.put(digest, known)
        return known
