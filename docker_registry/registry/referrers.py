"""
Referrers: the manifests of a repository that name another manifest as their ``subject``.

Each referrer is stored as a descriptor. It is written before the link of the manifest, so every linked manifest has
one; a descriptor whose manifest is not linked is ignored::

    {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:…", "size": 1234,
     "artifactType": "application/vnd.example.sbom.v1", "annotations": {…}}

Clients of a registry without the referrers API maintain an index themselves, under a tag derived from the subject's
digest. The manifests in such an index are listed too if the repository has them ("Enabling the Referrers API").
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from heapq import merge
from itertools import islice, repeat
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    BlobUnknown,
    DigestInvalid,
    ManifestInvalid,
    PathNotFound,
    StorageError,
    TagInvalid,
)
from docker_registry.registry import json_scanner, layout, manifest_payload, store_removal
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.json_scanner import Kind
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.manifest_payload import Payload
from docker_registry.registry.manifests import ManifestTypes
from docker_registry.registry.names import ALGORITHMS, Descriptor, Digest, RepositoryName, Tag
from docker_registry.registry.referrer_pages import MAX_PAGE_BYTES, Page, PageBuilder
from docker_registry.registry.referrer_removal import ReferrerRemoval
from docker_registry.registry.sources import ReferrerSource
from docker_registry.registry.tags import Tags
from docker_registry.resources.memory_budget import LARGE_JSON_BYTES, JsonBudget

#: Maximum descriptors examined for a page, whether or not they match the requested artifact type.
_MAX_EXAMINED: Final = 5000

#: Maximum bytes of manifests without descriptors that are read for a page; the last one may exceed it.
_MAX_EXAMINED_BYTES: Final = 16 * 1024 * 1024

#: Bytes of a descriptor that are read to find its artifact type; the members before it are short.
_HEAD_BYTES: Final = 4096

#: Memory for the children of indexes that clients maintain, and for the subjects of those children.
_CHILDREN_BYTES: Final = 16 * 1024 * 1024
_SUBJECTS_BYTES: Final = 8 * 1024 * 1024

#: Memory of a digest, as a text in a tuple.
_DIGEST_BYTES: Final = 130

#: Replaces ``mediaType`` in the descriptor of a payload without one: the type inferred from its fields. The effective
#: type depends on the last push and is stored only by :class:`ManifestTypes`.
_INFERRED: Final = "toldMediaType"

_TAG_ALGORITHM_CHARACTERS = 32
_TAG_HEX_CHARACTERS = 64


def fallback_tag(subject: Digest) -> Tag:
    """Return the tag of the index that clients maintain themselves ("Referrers Tag Schema")."""
    return Tag.parse(f"{subject.algorithm[:_TAG_ALGORITHM_CHARACTERS]}-{subject.hex[:_TAG_HEX_CHARACTERS]}")


class Referrers:
    """All referrers of the registry."""

    def __init__(
        self,
        driver: StorageDriver,
        blobs: Blobs,
        tags: Tags,
        types: ManifestTypes,
        listings: ListingCache,
        json_budget: JsonBudget,
        sources: Sequence[ReferrerSource] = (),
    ) -> None:
        """
        Args:
            types: the media types of manifests whose payload does not state it.
            json_budget: limits the memory for large manifests.
            sources: have further referrers, of which those that the store has too are ignored.
        """
        self._driver = driver
        self._blobs = blobs
        self._tags = tags
        self._types = types
        self._listings = listings
        self._json_budget = json_budget
        self._sources = sources
        self._removal = ReferrerRemoval(driver)
        self._children: BoundedCache[Digest, tuple[str, ...]] = BoundedCache(
            _CHILDREN_BYTES, content_bytes=lambda children: _DIGEST_BYTES * len(children)
        )
        self._subjects: BoundedCache[str, str] = BoundedCache(_SUBJECTS_BYTES, content_bytes=len)

    def put(self, name: RepositoryName, subject: Digest, descriptor: Descriptor, document: Payload) -> None:
        """Store the descriptor of a manifest that names *subject* as its subject."""
        path = layout.referrer(name, subject, descriptor.digest)
        self._driver.put_content(path, _dump(_entry(descriptor, document)))

    def delete(self, name: RepositoryName, digest: Digest, payload: bytes) -> None:
        """Remove the descriptor of a deleted manifest, unless the manifest is pushed again concurrently."""
        document = self._read(payload)
        if document is not None and document.subject is not None:
            path = layout.referrer(name, document.subject.digest, digest)
            self._removal.remove_descriptor(path, layout.revision_link(name, digest))

    def needs(self, name: RepositoryName, subject: Digest, digest: Digest) -> bool:
        """Return whether the descriptor of a linked manifest is missing or marked; False where looking is a request."""
        if self._driver.capabilities.pages:
            return False
        stored = self._driver.find(layout.referrer(name, subject, digest))
        return stored is None or store_removal.unmarked(stored) != stored

    def page(
        self,
        name: RepositoryName,
        subject: Digest,
        *,
        max_entries: int,
        last: str = "",
        artifact_types: Collection[str] = (),
    ) -> Page:
        """
        Return a page of the referrers of a manifest, ordered by digest (end-12a).

        Neither the subject nor the repository needs to exist. The work for a page is limited, so a page may have fewer
        than *max_entries* descriptors, or none, even if more pages follow.

        Args:
            max_entries: the maximum number of descriptors.
            last: return only digests after this one.
            artifact_types: return only descriptors of these types, given in lower case; empty for all.

        Raises:
            Overloaded: a large manifest must be read, and other large manifests use the worker's memory.
        """
        page = PageBuilder(max_entries)
        examination = _Examination()
        elsewhere = self._list_elsewhere(name, subject)
        for digest, is_stored in self._json_budget.pace(self._candidates(name, subject, last, elsewhere)):
            if page.examined == _MAX_EXAMINED or examination.read_bytes > _MAX_EXAMINED_BYTES:
                return page.end(has_more=True)
            entry = self._stored_entry(name, subject, digest, artifact_types, examination) if is_stored else None
            if entry is None and digest in elsewhere:
                entry = _filtered(elsewhere[digest], artifact_types)
            elif not is_stored:
                entry = self._adopted_entry(name, subject, digest, artifact_types, examination)
            if not page.add(digest, entry):
                return page.end(has_more=True)
        return page.end(has_more=False)

    def list(self, name: RepositoryName, subject: Digest) -> tuple[dict[str, Any], ...]:
        """Return the descriptors of all referrers of a manifest; only for short lists."""
        entries: list[dict[str, Any]] = []
        last: str | None = ""
        while last is not None:
            page = self.page(name, subject, max_entries=_MAX_EXAMINED, last=last)
            entries += map(json.loads, page.entries)
            last = page.last
        return tuple(entries)

    # ------------------------------------------------------------------------------------------------- steps

    def _list_elsewhere(self, name: RepositoryName, subject: Digest) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for source in self._sources:
            for digest, entry in source.list(name, subject).items():
                found.setdefault(str(digest), entry)
        return found

    def _candidates(
        self, name: RepositoryName, subject: Digest, last: str, elsewhere: Collection[str]
    ) -> Iterator[tuple[str, bool]]:
        """Yield the candidate digests after *last*, in order, each with whether its descriptor is stored here."""
        stored = zip(self._stored(name, subject, last), repeat(True))
        children = zip(_after(self._from_fallback_tag(name, subject), last), repeat(False))
        previous = ""
        others = zip(_after(sorted(elsewhere), last), repeat(False))
        for digest, is_stored in merge(stored, children, others, key=lambda each: (each[0], not each[1])):
            if digest != previous:
                previous = digest
                yield digest, is_stored

    def _stored(self, name: RepositoryName, subject: Digest, last: str) -> Iterator[str]:
        for algorithm in sorted(ALGORITHMS):
            folder = layout.referrers_of_algorithm(name, subject, algorithm)
            yield from _after(self._listings.names(folder, partial(_digest, algorithm)), last)

    def _from_fallback_tag(self, name: RepositoryName, subject: Digest) -> Sequence[str]:
        """Return the digests in the index that clients maintain, in order."""
        try:
            digest = self._tags.links.find(name, fallback_tag(subject))
        except TagInvalid:
            return ()
        if digest is None:
            return ()
        children = self._children.get(digest)
        if children is None:
            try:
                index = self._read(self._blobs.get(digest))
            except BlobUnknown:
                return ()
            found = index.manifests if index else ()
            children = tuple(self._json_budget.sort({str(child.digest) for child in found}))
            self._children.put(digest, children)
        return children

    def _stored_entry(
        self,
        name: RepositoryName,
        subject: Digest,
        text: str,
        artifact_types: Collection[str],
        examination: _Examination,
    ) -> bytes | None:
        """
        Return a descriptor that was stored when its manifest was pushed; None if it must not be listed.

        A damaged descriptor is computed from its manifest again.
        """
        digest = Digest.parse(text)
        path = layout.referrer(name, subject, digest)
        try:
            if artifact_types and _artifact_type(self._head(path)) not in artifact_types:
                return None
            if not self._driver.has_file(layout.revision_link(name, digest)):
                return None
            return self._served(name, digest, self._driver.get_content(path))
        except PathNotFound:  # deleted concurrently
            return None
        except (ValueError, RecursionError):
            return self._adopted_entry(name, subject, text, artifact_types, examination)

    def _head(self, path: str) -> bytes:
        return b"".join(self._driver.stream_read(path, 0, _HEAD_BYTES))

    def _adopted_entry(
        self,
        name: RepositoryName,
        subject: Digest,
        text: str,
        artifact_types: Collection[str],
        examination: _Examination,
    ) -> bytes | None:
        """
        Return the descriptor of a manifest that only the clients' index names; None if it must not be listed.

        Such a manifest was pushed to a server without the referrers API, or has another subject. It is read once;
        afterwards its descriptor is stored, or its subject is cached.
        """
        known = self._subjects.get(text)
        digest = Digest.parse(text)
        if known not in (None, str(subject)) or not self._driver.has_file(layout.revision_link(name, digest)):
            return None
        try:
            payload = self._blobs.get(digest)
        except BlobUnknown:
            return None
        examination.read_bytes += len(payload)
        document = self._read(payload)
        found = document.subject.digest if document and document.subject else None
        self._subjects.put(text, str(found))
        if document is None or found != subject:
            return None
        descriptor = Descriptor(document.media_type, digest, len(payload))
        with suppress(StorageError):  # if the store is full or read-only, it is read again next time
            self.put(name, subject, descriptor, document)
        is_wanted = not artifact_types or (document.artifact_type or "").lower() in artifact_types
        return self._served(name, digest, _dump(_entry(descriptor, document))) if is_wanted else None

    def _served(self, name: RepositoryName, digest: Digest, stored: bytes) -> bytes:
        """
        Return a stored descriptor in the form that clients receive.

        Annotations that are not text are dropped. All annotations are dropped if the descriptor does not fit on a page
        or has too many values.

        Raises:
            ValueError, RecursionError: *stored* is not a descriptor.
        """
        stored = store_removal.unmarked(stored)
        with self._json_budget.reserve(stored):
            entry = json.loads(stored) if len(stored) <= LARGE_JSON_BYTES else self._load_large(stored)
            if not isinstance(entry, dict):
                raise ValueError("a descriptor is a JSON object")
            inferred = entry.pop(_INFERRED, None)
            if inferred is not None:
                entry = {"mediaType": self._types.get(name, digest, str(inferred)), **entry}
            annotations = manifest_payload.text_annotations(entry.pop("annotations", None))
            if annotations and len(served := _dump({**entry, "annotations": annotations})) <= MAX_PAGE_BYTES:
                return served
            return _dump(entry)

    def _load_large(self, stored: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"annotations": {}}
        try:
            for part in self._json_budget.pace(json_scanner.scan(stored.decode())):
                if part.kind is Kind.VALUE:
                    entry[part.key] = part.value
                elif part.kind is Kind.ITEM and part.key == "annotations":
                    entry["annotations"][part.name] = part.value
        except ValueError:  # earlier versions stored any annotations: too many values, or invalid numbers
            del entry["annotations"]
        return entry

    def _read(self, payload: bytes) -> Payload | None:
        with self._json_budget.reserve(payload):
            try:
                return manifest_payload.read(payload, None, self._json_budget.pace, is_stored=True)
            except ManifestInvalid:
                return None


class _Examination:
    """Counts the bytes that a request has read of manifests without descriptors."""

    read_bytes = 0


def _after(names: Sequence[str], last: str) -> Iterator[str]:
    return islice(names, bisect_right(names, last) if last else 0, None)


def _digest(algorithm: str, encoded: str) -> str | None:
    text = f"{algorithm}:{encoded}"
    try:
        return str(Digest.parse(text))
    except DigestInvalid:
        return None


def _artifact_type(head: bytes) -> str:
    """
    Return the artifact type in the first bytes of a descriptor, in lower case; it precedes the annotations.

    Raises:
        ValueError: the descriptor is damaged.
    """
    try:
        for part in json_scanner.scan(store_removal.unmarked(head).decode("utf-8", "ignore")):
            if part.key == "artifactType":
                return str(part.value).lower()
            if part.key == "annotations":
                break
    except ValueError:
        if len(head) < _HEAD_BYTES:  # otherwise the descriptor continues
            raise
    return ""


def _filtered(entry: dict[str, Any], artifact_types: Collection[str]) -> bytes | None:
    """Return a descriptor of a source, serialized; None if it is not of one of the wanted types."""
    is_wanted = not artifact_types or str(entry.get("artifactType", "")).lower() in artifact_types
    return _dump(entry) if is_wanted else None


def _dump(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _entry(descriptor: Descriptor, document: Payload) -> dict[str, Any]:
    has_type = document.has_media_type
    entry: dict[str, Any] = {
        **({"mediaType": descriptor.media_type} if has_type else {_INFERRED: document.inferred_type}),
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if document.artifact_type:
        entry["artifactType"] = document.artifact_type
    if document.annotations:
        entry["annotations"] = document.annotations
    return entry
