"""V2 images as the source of V1 images: the manifest of an image, or the one for the right platform in an index."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import DigestInvalid, ImageUnknown
from docker_registry.registry import json_scanner, layout, manifest_payload
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.bridge.conversion import Chain, to_chain
from docker_registry.registry.names import Digest
from docker_registry.resources.memory_budget import JsonBudget

_CONFIGS: Final = frozenset(
    {"application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"}
)

#: Docker also accepts these as image configurations in manifests of its own type (moby, distribution/registry.go):
#: 1.10 and 1.11 used the Content-Type with which their registry served the blob.
_DOCKER_CONFIGS: Final = _CONFIGS | {"application/octet-stream", "application/json", "text/html", ""}
_LAYERS: Final = frozenset(
    {
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    }
)

#: Annotation of an index's child that describes another child (BuildKit, "Attestation storage").
_ATTESTATION: Final = "vnd.docker.reference.type"

#: What reading JSON of another structure raises.
_UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DigestInvalid)

#: Longest manifest or configuration that is read.
_MAX_PART_BYTES: Final = 8 * 1024 * 1024

#: Maximum nesting of indexes; deeper ones do not occur in practice.
_MAX_DEPTH: Final = 3

#: Memory for the images that a worker caches; one with a hundred layers takes about 50 kB.
_CACHED_BYTES: Final = 16 * 1024 * 1024

#: Estimated memory for a layer of a cached image: its digests, and the id of its V1 image.
_LAYER_BYTES: Final = 600

#: Memory for the cached error messages of manifests that have no V1 form.
_REFUSED_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageSource:
    """
    A V2 image and the V1 images that derive from it.

    Attributes:
        manifest: digest of the image's own manifest, also when it was found through an index.
        children: the manifests on the way from the requested index to the image, ending with ``manifest``; empty
            without an index. A repository has the image only if it has these manifests too.
        chain: the derived V1 images.
        layers: the digest of each V1 image's stored layer; empty for an image without layers.
        config: the digest of the image's configuration.
    """

    manifest: Digest
    chain: Chain
    layers: tuple[Digest, ...]
    config: Digest
    children: tuple[Digest, ...] = ()


class ImageSources:
    """Reads V2 images from the store and caches them."""

    def __init__(self, driver: StorageDriver, platform: str, json_budget: JsonBudget) -> None:
        """
        Args:
            platform: selects the image of an index: ``os/architecture`` or ``os/architecture/variant``.
            json_budget: limits the memory for parsing large manifests and configurations.
        """
        self._driver = driver
        self._platform = platform
        self._json_budget = json_budget
        self._cached: BoundedCache[Digest, ImageSource] = BoundedCache(_CACHED_BYTES, content_bytes=_size_bytes)
        self._refused: BoundedCache[Digest, str] = BoundedCache(_REFUSED_BYTES, content_bytes=len)

    def get(self, digest: Digest) -> ImageSource:
        """
        Return the V2 image of a manifest or index.

        Raises:
            PartMissing: the manifest, one of its children or its configuration is not in the store.
            ImageUnknown: it has no form in API V1; the message explains why.
        """
        refusal = self._refused.get(digest)
        if refusal is not None:
            raise ImageUnknown(refusal)
        source = self._cached.get(digest)
        if source is None:
            try:
                source = self._read(digest, _MAX_DEPTH)
            except PartMissing:  # not cached: the part may still be pushed
                raise
            except ImageUnknown as error:
                self._refused.put(digest, error.sentence)
                raise
            self._cached.put(digest, source)
        return source

    def _read(self, digest: Digest, depth: int) -> ImageSource:
        payload = self._content(digest, is_manifest=True)
        with self._json_budget.reserve(payload):
            try:
                return self._interpret(digest, payload, depth)
            except _UNREADABLE:  # stored by another server or an earlier version, which checked less
                raise ImageUnknown("The image's manifest or configuration cannot be read.") from None

    def _interpret(self, digest: Digest, payload: bytes, depth: int) -> ImageSource:
        declared, _ = manifest_payload.stored_media_type(payload)
        media_type = (declared or "").lower()
        if media_type in manifest_payload.INDEXES and depth:
            child = self._select_platform(json.loads(payload))
            source = self._read(child, depth - 1)
            return replace(source, children=(child, *source.children))
        if media_type not in manifest_payload.IMAGES:
            raise ImageUnknown("The tag does not refer to an image that API V1 supports.")
        document = json.loads(payload)
        config = _member(document, "config")
        known = _DOCKER_CONFIGS if media_type == manifest_payload.DOCKER_MANIFEST else _CONFIGS
        if str(config.get("mediaType", "")).lower() not in known:
            raise ImageUnknown("The tag refers to an artifact, not an image.")
        try:
            config_digest = Digest.parse(str(config.get("digest")))
            chain = self._chain(self._content(config_digest, is_manifest=False))
        except (ValueError, DigestInvalid) as error:
            raise ImageUnknown(f"The image's configuration cannot be read: {error}.") from None
        layers = _layers(document)
        if len(layers) != len(chain.diff_ids):
            raise ImageUnknown("The number of layers differs from the image's configuration.")
        return ImageSource(digest, chain, layers, config_digest)

    def _select_platform(self, document: Mapping[str, Any]) -> Digest:
        """Return the child of an index for the configured platform."""
        children = [child for child in document.get("manifests") or () if _is_image(child)]
        platform_parts = self._platform.split("/")
        for child in children:
            platform = _member(child, "platform")
            parts = [platform.get(key) for key in ("os", "architecture", "variant")]
            if parts[: len(platform_parts)] == platform_parts:
                return Digest.parse(child["digest"])
        if len(children) == 1 and "platform" not in children[0]:
            return Digest.parse(children[0]["digest"])
        raise ImageUnknown(f"The index has no image for {self._platform}.")

    def _chain(self, config: bytes) -> Chain:
        with self._json_budget.reserve(config):
            return to_chain(config)

    def _content(self, digest: Digest, *, is_manifest: bool) -> bytes:
        path, kind = layout.blob_data(digest), "manifest" if is_manifest else "configuration"
        size = self._driver.find_size(path)
        if size is not None and size > _MAX_PART_BYTES:
            raise ImageUnknown(f"The image's {kind} is too large.")
        content = None if size is None else self._driver.find(path)
        if content is None:
            raise PartMissing(digest, is_manifest=is_manifest)
        if json_scanner.count_values(content) > json_scanner.MAX_PART_VALUES:  # it is parsed in one go
            raise ImageUnknown(f"The image's {kind} has too many values.")
        return content


class PartMissing(ImageUnknown):
    """
    A part of the image is missing.

    Attributes:
        digest: of the part.
        is_manifest: whether the part is a manifest; otherwise it is a blob.
    """

    def __init__(self, digest: Digest, *, is_manifest: bool) -> None:
        super().__init__("A part of the image is missing.", digest=str(digest))
        self.digest = digest
        self.is_manifest = is_manifest


def _size_bytes(source: ImageSource) -> int:
    return len(source.chain.newest) + _LAYER_BYTES * len(source.chain.ids)


def _layers(document: Mapping[str, Any]) -> tuple[Digest, ...]:
    layers: Sequence[Mapping[str, Any]] = document.get("layers") or ()
    for layer in layers:
        media_type = str(layer.get("mediaType")).lower()
        if media_type in manifest_payload.FOREIGN_LAYERS:
            raise ImageUnknown("The image has a layer that must not be distributed.")
        if "encrypted" in media_type:
            raise ImageUnknown("The image has an encrypted layer.")
        if media_type not in _LAYERS:
            raise ImageUnknown(
                "The image has a layer of a media type that API V1 does not support.", type=media_type[:256]
            )
    return tuple(Digest.parse(str(layer.get("digest"))) for layer in layers)


def _is_image(child: Mapping[str, Any]) -> bool:
    return _ATTESTATION not in _member(child, "annotations")


def _member(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a nested object; empty when the member is missing or not an object, which is not validated elsewhere."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}
