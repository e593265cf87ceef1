"""Warming: fetches images of upstreams before clients request them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from docker_registry.errors import DigestInvalid, ManifestInvalid, ManifestUnknown
from docker_registry.registry import manifest_payload
from docker_registry.registry.mirror.platforms import DESCRIBED, Platform, platform_of
from docker_registry.registry.names import Digest, Reference, RepositoryName
from docker_registry.registry.oci_registry import OciRegistry

#: Maximum nesting of indexes.
_MAX_DEPTH: Final = 3


@dataclass(slots=True)
class Warmed:
    """
    The parts of an image that a repository now has.

    Attributes:
        digest: digest of the manifest that was requested.
        manifests: digests of all its manifests.
        blobs: digests of all its blobs, with their sizes in bytes.
    """

    digest: Digest
    manifests: set[Digest] = field(default_factory=set)
    blobs: dict[Digest, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the blobs."""
        return sum(self.blobs.values())


class Warming:
    """Fetches images into a registry that mirrors upstreams."""

    def __init__(self, registry: OciRegistry) -> None:
        self._registry = registry

    def warm(self, name: RepositoryName, reference: Reference, platforms: Sequence[Platform] = ()) -> Warmed:
        """
        Fetch an image with all its blobs.

        Args:
            name: a repository that mirrors another one.
            reference: its tag or digest.
            platforms: of an index, fetch only the images for these platforms; all when empty.

        Raises:
            ManifestUnknown, BlobUnknown: the upstream does not have a part, or an index has no image for the platforms.
            ManifestInvalid: a part of the image is invalid, or indexes are nested too deeply.
            UpstreamError: the upstream cannot be asked.
        """
        manifest = self._registry.manifests.get(name, reference)
        warmed = Warmed(manifest.descriptor.digest)
        self._fetch(name, warmed, manifest.descriptor.digest, manifest.payload, platforms, _MAX_DEPTH)
        return warmed

    def _fetch(
        self,
        name: RepositoryName,
        warmed: Warmed,
        digest: Digest,
        payload: bytes,
        platforms: Sequence[Platform],
        depth: int,
    ) -> None:
        warmed.manifests.add(digest)
        try:
            document = json.loads(payload)
            children = list(_children(document, platforms))
            blobs = list(_blobs(document))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, DigestInvalid):
            raise ManifestInvalid(digest=str(digest)) from None
        if not depth and not warmed.manifests.issuperset(child for child, _ in children):
            raise ManifestInvalid("The indexes are nested too deeply.", digest=str(digest))
        for child, platforms_in_child in children:
            if child not in warmed.manifests:
                payload = self._registry.manifests.get(name, child).payload
                self._fetch(name, warmed, child, payload, platforms_in_child, depth - 1)
        for blob in blobs:
            if blob not in warmed.blobs:
                warmed.blobs[blob] = self._registry.blobs.fetch(name, blob).size
        if document.get("manifests") and not warmed.blobs and platforms and depth == _MAX_DEPTH:
            raise ManifestUnknown(
                "The index has no image for these platforms.", platforms=[each.text for each in platforms]
            )


def _children(
    document: Mapping[str, Any], platforms: Sequence[Platform]
) -> Iterator[tuple[Digest, Sequence[Platform]]]:
    """
    Yield the manifests of an index that are for one of the platforms, have no platform, or describe one of these.

    Each comes with the platforms to fetch of it, should it be an index itself; all when empty.
    """
    # A manifest may have several entries, each with a platform that it is for.
    entries = [(Digest.parse(entry["digest"]), platform_of(entry), entry) for entry in document.get("manifests") or ()]
    chosen = {str(digest) for digest, platform, _ in entries if _is_for(platform, platforms)}
    for digest, platform, entry in entries:
        if chosen.intersection((str(digest), str((entry.get("annotations") or {}).get(DESCRIBED)))):
            yield digest, platforms if platform is None else ()


def _is_for(platform: Platform | None, platforms: Sequence[Platform]) -> bool:
    return not platforms or platform is None or any(each.includes(platform) for each in platforms)


def _blobs(document: Mapping[str, Any]) -> Iterator[Digest]:
    """Yield the blobs of an image's manifest, except layers that must not be distributed."""
    entries = [*([document["config"]] if document.get("config") else []), *(document.get("layers") or ())]
    for entry in entries:
        if str(entry.get("mediaType", "")).lower() not in manifest_payload.FOREIGN_LAYERS:
            yield Digest.parse(entry["digest"])
