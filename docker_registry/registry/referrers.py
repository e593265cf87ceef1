"""
Referrers: the manifests of a repository that are about another one, by their ``subject``.

Each is kept as its descriptor, written before the manifest's own link, so that no manifest is ever there without it;
a descriptor whose manifest is missing does not count::

    {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:…", "size": 1234,
     "artifactType": "application/vnd.example.sbom.v1", "annotations": {…}}

A client that met a registry without this list kept one itself, as an index under a tag made from the subject's
digest. What such an index names, and is here, is listed too ("Enabling the Referrers API").
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import BlobUnknown, ManifestInvalid, PathNotFound, TagInvalid
from docker_registry.registry import layout, payloads
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.names import Descriptor, Digest, RepositoryName, Tag
from docker_registry.registry.payloads import Payload
from docker_registry.registry.tags import Tags

_TAG_ALGORITHM_CHARACTERS = 32
_TAG_HEX_CHARACTERS = 64


def fallback_tag(subject: Digest) -> Tag:
    """Return the tag of the list that clients keep themselves ("Referrers Tag Schema")."""
    return Tag.parse(f"{subject.algorithm[:_TAG_ALGORITHM_CHARACTERS]}-{subject.hex[:_TAG_HEX_CHARACTERS]}")


class Referrers:
    """All referrers of the registry."""

    def __init__(self, driver: StorageDriver, blobs: Blobs, tags: Tags) -> None:
        self._driver = driver
        self._blobs = blobs
        self._tags = tags

    def put(self, name: RepositoryName, descriptor: Descriptor, document: Payload) -> None:
        """Note that a manifest is about another one."""
        if document.subject is None:
            return
        path = layout.referrer(name, document.subject.digest, descriptor.digest)
        self._driver.put_content(path, json.dumps(_entry(descriptor, document)).encode())

    def delete(self, name: RepositoryName, digest: Digest, payload: bytes) -> None:
        """Forget what a manifest is about, when it is deleted."""
        document = _read(payload)
        if document is not None and document.subject is not None:
            try:
                self._driver.remove(layout.referrer(name, document.subject.digest, digest))
            except PathNotFound:
                pass

    def list(self, name: RepositoryName, subject: Digest) -> tuple[dict[str, Any], ...]:
        """
        Return the descriptors of all manifests about another one, in the order of their digests (end-12a).

        The other one need not be there, nor the repository.
        """
        entries = {entry["digest"]: entry for entry in self._kept_by_clients(name, subject)}
        entries |= {entry["digest"]: entry for entry in self._kept_here(name, subject)}
        return tuple(entries[digest] for digest in sorted(entries))

    def _kept_here(self, name: RepositoryName, subject: Digest) -> Iterator[dict[str, Any]]:
        for stat in self._driver.walk(layout.referrers(name, subject)):
            algorithm, encoded = stat.path.split("/")[-2:]
            if self._driver.exists(layout.revision_link(name, Digest(algorithm, encoded))):
                try:
                    yield json.loads(self._driver.get_content(stat.path))
                except PathNotFound:  # deleted just now
                    continue

    def _kept_by_clients(self, name: RepositoryName, subject: Digest) -> Iterator[dict[str, Any]]:
        try:
            digest = self._tags.find_link(name, fallback_tag(subject))
            index = _read(self._blobs.get(digest)) if digest else None
        except (BlobUnknown, TagInvalid):
            return
        for child in index.manifests if index else ():
            if not self._driver.exists(layout.revision_link(name, child.digest)):
                continue
            try:
                payload = self._blobs.get(child.digest)
            except BlobUnknown:
                continue
            document = _read(payload)
            if document and document.subject and document.subject.digest == subject:
                yield _entry(Descriptor(document.media_type, child.digest, len(payload)), document)


def _entry(descriptor: Descriptor, document: Payload) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if document.artifact_type:
        entry["artifactType"] = document.artifact_type
    if document.annotations:
        entry["annotations"] = document.annotations
    return entry


def _read(payload: bytes) -> Payload | None:
    try:
        return payloads.read(payload, None)
    except ManifestInvalid:
        return None
