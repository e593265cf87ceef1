"""
V1 images derived from V2 images, one for each layer.

The ids follow from the configuration alone. But serving a layer under an id asserts that it has the digest from which
the id was computed; so each layer is read and verified once, when its image is first requested, and only served after
that. The results are stored and can be rebuilt at any time. The same holds for the manifests that an image belongs to,
which are stored because clients of V1 request images without naming a repository::

    docker/registry/v2/_v1/derived/<id>/from-<sum>    {"repository": "acme/web", "manifest": "sha256:0c2d…"}
    docker/registry/v2/_v1/derived/<id>/image         {"json": "{\\"id\\": …}", "blob": "sha256:9b1d…", "layer": {…}}
    docker/registry/v2/_v1/derived/<id>/not-<hex>     {"rules": "1-6871…"}, of a blob that is another layer
    docker/registry/v2/_v1/tops/<algorithm>/<hex>     {"id": "…", "platform": "linux/amd64", "children": ["sha256:…"]}

``from-`` records one manifest that contains the image, ``image`` the verified image, ``not-`` a blob that is not its
layer or exceeds a limit, and ``tops`` the newest V1 image of a manifest.

A repository has the image of an index only if it also has the index's manifest of that image. An image requested by id
may come from any repository that has it; a *permitted* function restricts this to repositories that the client may see.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from docker_registry.concurrency import KeyedLocks
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    BlobUnknown,
    DigestInvalid,
    ImageUnknown,
    LayerFormatUnsupported,
    NameInvalid,
    PathNotFound,
    TooLarge,
)
from docker_registry.registry import layout
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.bridge.image_sources import ImageSource, ImageSources, PartMissing
from docker_registry.registry.bridge.unpacked_layers import UnpackedCopies
from docker_registry.registry.layers.tar_headers import BLOCK_BYTES
from docker_registry.registry.names import Digest, ImageId, RepositoryName
from docker_registry.registry.sources import Blob
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.registry.v1.sources import DerivedImage, Permitted
from docker_registry.resources.memory_budget import JsonBudget

logger = logging.getLogger(__name__)

#: An empty layer as Docker wrote it: only the end-of-archive marker of a tar.
_EMPTY_LAYER: Final = bytes(2 * BLOCK_BYTES)

#: Memory limits of the caches of a worker: each cache of small facts, and the cache of images.
_FACTS_BYTES: Final = 8 * 1024 * 1024
_IMAGES_BYTES: Final = 16 * 1024 * 1024

#: Estimated memory of a cached fact: digests or paths, and object headers.
_FACT_BYTES: Final = 512

#: A repository and its manifest that contains an image.
_Origin = tuple[RepositoryName, Digest]


@dataclass(frozen=True, slots=True)
class _Top:
    """
    The newest V1 image of a manifest.

    Attributes:
        children: further manifests that a repository must have; see :class:`ImageSource`.
    """

    id: ImageId
    children: tuple[Digest, ...]


class DerivedImages:
    """Derives V1 images from V2 images and keeps the results."""

    def __init__(
        self,
        driver: StorageDriver,
        blobs: Blobs,
        reader: LayerReader,
        copies: UnpackedCopies,
        json_budget: JsonBudget,
        *,
        platform: str,
    ) -> None:
        """
        Args:
            json_budget: limits the memory for parsing large manifests and configurations.
            platform: selects the image of an index that V1 sees, such as ``linux/amd64``.
        """
        self._driver = driver
        self._blobs = blobs
        self._reader = reader
        self._copies = copies
        self._platform = platform
        self._pace = json_budget.pace
        self._sources = ImageSources(driver, platform, json_budget)
        self._locks = KeyedLocks()
        self._tops: BoundedCache[Digest, _Top] = BoundedCache(_FACTS_BYTES, lambda _: _FACT_BYTES)
        self._origins: BoundedCache[str, _Origin] = BoundedCache(_FACTS_BYTES, lambda _: _FACT_BYTES)
        # By the layer too: repositories may have an image with different layers, of one content compressed differently.
        self._verified: BoundedCache[ImageId | tuple[ImageId, Digest], DerivedImage] = BoundedCache(
            _IMAGES_BYTES, lambda image: _FACT_BYTES + len(image.payload)
        )

    # -------------------------------------------------------------------------------------- from V2 to V1

    def top(self, name: RepositoryName, manifest: Digest) -> ImageId:
        """
        Return the newest V1 image of a manifest or index.

        Args:
            name: a repository that has *manifest*.

        Raises:
            PartMissing: the configuration is not in the store, or the repository lacks a child manifest.
            ImageUnknown: the manifest has no V1 form, which the message explains.
        """
        top = self._tops.get(manifest) or self._stored_top(manifest)
        if top is None:
            source = self._sources.get(manifest)
            top = _Top(source.chain.ids[-1], source.children)
            document = {
                "id": str(top.id),
                "platform": self._platform,
                "children": [str(child) for child in top.children],
            }
            self._driver.put_content(image_layout.top(manifest), json.dumps(document).encode())
        self._tops.put(manifest, top)
        for child in top.children:
            if not self._driver.exists(layout.revision_link(name, child)):
                raise PartMissing(child, is_manifest=True)
        self._record_origin(top.id, name, manifest)
        return top.id

    def _stored_top(self, manifest: Digest) -> _Top | None:
        try:
            document = json.loads(self._driver.get_content(image_layout.top(manifest)))
            top = _Top(ImageId.parse(document["id"]), tuple(map(Digest.parse, document["children"])))
            return top if document["platform"] == self._platform else None
        except (PathNotFound, ValueError, KeyError, TypeError, AttributeError, ImageUnknown, DigestInvalid):
            return None

    def _has_all(self, name: RepositoryName, manifests: Sequence[Digest]) -> bool:
        return all(self._driver.has_file(layout.revision_link(name, manifest)) for manifest in manifests)

    def _record_origin(self, image_id: ImageId, name: RepositoryName, manifest: Digest) -> None:
        """Record that a manifest of a repository contains an image."""
        path = image_layout.derived_from(image_id, name, manifest)
        if path in self._origins:
            return
        if not self._driver.exists(path):
            document = {"repository": str(name), "manifest": str(manifest)}
            self._driver.put_content(path, json.dumps(document).encode())
        self._origins.put(path, (name, manifest))

    # ---------------------------------------------------------------------------------------- by their ids

    def is_known(self, image_id: ImageId) -> bool:
        """Return whether an id is known to derive from a V2 image."""
        return image_id in self._verified or self._driver.exists(image_layout.derived(image_id))

    def origins(self, image_id: ImageId) -> Iterator[_Origin]:
        """Yield the repositories and manifests that are known to contain an image."""
        try:
            paths = list(self._pace(self._driver.list_directory(image_layout.derived(image_id))))
        except PathNotFound:
            return
        for path in filter(image_layout.is_derived_from, self._pace(paths)):
            with suppress(PathNotFound, ValueError, KeyError, TypeError, NameInvalid, DigestInvalid):
                yield self._origins.get(path) or self._read_origin(path)

    def _read_origin(self, path: str) -> _Origin:
        document = json.loads(self._driver.get_content(path))
        origin = RepositoryName.parse(document["repository"]), Digest.parse(document["manifest"])
        self._origins.put(path, origin)  # a path only ever belongs to one origin
        return origin

    def links(self, image_id: ImageId, is_wanted: Callable[[str], bool]) -> Iterator[str]:
        """
        Yield the links to the layer of an image, and to the manifests whose newest image it is.

        Args:
            is_wanted: returns whether the links of a repository of this name are yielded.
        """
        for name, manifest in self.origins(image_id):
            source = self.source(manifest) if is_wanted(str(name)) else None
            if source is None or image_id not in source.chain.ids:
                continue
            if source.layers:
                yield layout.layer_link(name, source.layers[source.chain.ids.index(image_id)])
            if source.chain.ids[-1] == image_id:
                yield layout.layer_link(name, source.config)
                yield from (layout.revision_link(name, each) for each in {manifest, source.manifest, *source.children})

    def manifest(
        self, image_id: ImageId, preferred: RepositoryName, permitted: Permitted | None = None
    ) -> _Origin | None:
        """
        Find a manifest whose newest V1 image this is, and of which nothing was evicted.

        Args:
            preferred: the repository to use if it has such a manifest.
            permitted: restricts the repositories that are used; None for all.

        Returns:
            A repository and its manifest; None when there is none.
        """
        candidates = [
            (name, source)
            for name, source in self.permitted_sources(image_id, permitted)
            if source.chain.ids[-1] == image_id
        ]
        candidates.sort(key=lambda found: (found[0] != preferred, str(found[0]), str(found[1].manifest)))
        for name, source in candidates:
            parts = (source.manifest, source.config, *source.layers)
            if self._has_all(preferred, parts[:1]) or self._blobs.are_stored(parts, self._pace):
                return name, source.manifest
        return None

    def ancestry(self, image_id: ImageId, permitted: Permitted | None = None) -> tuple[str, ...] | None:
        """
        Return the ids of an image and all its ancestors, newest first; None when it does not derive from V2.

        Args:
            permitted: restricts the repositories that it may come from; None for all.
        """
        ancestry = None
        for name, source in self.permitted_sources(image_id, permitted):
            position = source.chain.ids.index(image_id)
            ancestry = source.chain.ancestry(position)
            for ancestor in source.chain.ids[:position]:
                self._record_origin(ancestor, name, source.manifest)
        return ancestry

    def is_permitted(self, image_id: ImageId, permitted: Permitted) -> bool:
        """Return whether a repository that *permitted* accepts has an image."""
        return next(self.permitted_sources(image_id, permitted), None) is not None

    def permitted_sources(
        self, image_id: ImageId, permitted: Permitted | None
    ) -> Iterator[tuple[RepositoryName, ImageSource]]:
        """
        Yield the permitted repositories that have an image, and the V2 image that contains it there.

        Args:
            permitted: restricts the repositories; None for all.
        """
        for name, digest in self.origins(image_id):
            if permitted is not None and not permitted(name):
                continue
            source = self.source(digest)
            if source is None or image_id not in source.chain.ids:
                continue
            if permitted is None or self._has_all(name, (digest, *source.children)):
                yield name, source

    def source(self, manifest: Digest) -> ImageSource | None:
        """Return the V2 image of a manifest or index; None if a part of it is not in the store, or it is no image."""
        try:
            return self._sources.get(manifest)
        except ImageUnknown:  # deleted and garbage-collected
            return None

    def find(self, image_id: ImageId, permitted: Permitted | None = None) -> DerivedImage | None:
        """
        Return an image with a verified layer; None when there is none.

        The layer is read and verified when the image is first requested.

        Args:
            permitted: restricts the repositories that it may come from; None for all.
        """
        image = self._verified.get(image_id)
        if image is None and self._driver.exists(image_layout.derived(image_id)):
            with self._locks.hold(image_id):
                image = self._verified.get(image_id) or self._stored(image_id) or self._derive(image_id, permitted)
        if image is not None and not self._is_readable(image_id, image, permitted):
            with self._locks.hold(image_id):
                image = self._derive(image_id, permitted)
        if image is not None:
            self._verified.put(image_id, image)
            self._verified.put((image_id, image.blob), image)
        return image

    def stored_file(self, image_id: ImageId, image: DerivedImage) -> StoredFile | None:
        """Return the stored layer of an image, compressed or not; None when it was removed."""
        blob = self._find_blob(image_id, image.blob)
        gone = partial(ImageUnknown, id=str(image_id))
        return None if blob is None else StoredFile(self._driver, blob.path, blob.size, gone)

    def sent_file(self, image: DerivedImage, stored: StoredFile) -> StoredFile:
        """
        Return the layer of an image as it is sent to clients of V1, uncompressed if they could not read it.

        Args:
            stored: what :meth:`stored_file` returned.
        """
        if image.link.digest == image.blob:
            return stored
        return self._copies.put(stored, image.blob, image.link.digest)

    # ------------------------------------------------------------------------------------------------- steps

    def _stored(self, image_id: ImageId) -> DerivedImage | None:
        try:
            document = json.loads(self._driver.get_content(image_layout.derived_image(image_id)))
            link = LayerLink.from_json(document["layer"])
            payload = document["json"].encode("utf-8", "surrogateescape")
            return DerivedImage(payload, Digest.parse(document["blob"]), link)
        except (PathNotFound, ValueError, KeyError, TypeError, AttributeError, DigestInvalid):
            return None

    def _find_blob(self, image_id: ImageId, digest: Digest) -> Blob | None:
        links = (layout.layer_link(name, digest) for name, _ in self.origins(image_id))
        try:
            return self._blobs.stat_anywhere(digest, restores=lambda: any(map(self._driver.has_file, links)))
        except BlobUnknown:  # evicted from a mirror
            return None

    def _is_readable(self, image_id: ImageId, image: DerivedImage, permitted: Permitted | None) -> bool:
        """Return whether the verified layer of an image is here, and a permitted repository has a link to it."""
        if self._find_blob(image_id, image.blob) is None:
            return False
        return permitted is None or any(
            not source.layers or self._driver.has_file(layout.layer_link(name, image.blob))
            for name, source in self.permitted_sources(image_id, permitted)
        )

    def _derive(self, image_id: ImageId, permitted: Permitted | None) -> DerivedImage | None:
        for name, source in self.permitted_sources(image_id, permitted):
            position = source.chain.ids.index(image_id)
            layer = source.layers[position] if source.layers else None
            if layer and permitted is not None and not self._driver.has_file(layout.layer_link(name, layer)):
                continue
            known = self._verified.get((image_id, layer)) if layer else None
            if known is not None and self._find_blob(image_id, known.blob) is not None:
                return known
            image = self._verify(image_id, source, position)
            if image is None:
                continue
            payload = image.payload.decode("utf-8", "surrogateescape")  # configurations need not be UTF-8
            document = {"json": payload, "blob": str(image.blob), "layer": image.link.to_json()}
            self._driver.put_content(image_layout.derived_image(image_id), json.dumps(document).encode())
            return image
        return None

    def _verify(self, image_id: ImageId, source: ImageSource, position: int) -> DerivedImage | None:
        """Read and verify a layer; None when it is missing or does not have the diff id in the configuration."""
        payload = source.chain.payload(position)
        if not source.layers:
            blob = Digest.of(_EMPTY_LAYER)
            self._driver.put_content(layout.blob_data(blob), _EMPTY_LAYER)
        else:
            blob = source.layers[position]
        if self._is_refused(image_id, blob):
            return None
        stored = self._find_blob(image_id, blob)
        if stored is None:
            return None
        try:
            content = self._driver.stream_read(stored.path)
        except PathNotFound:  # evicted just now
            return None
        try:
            link = self._reader.inspect(payload, content, as_sent=True).link
            diff_id = link.diff_id
        except (LayerFormatUnsupported, TooLarge):
            diff_id = None
        if diff_id is None or diff_id != (source.chain.diff_ids[position] if source.layers else blob):
            logger.warning("a layer of %s does not match its configuration; image %s is hidden from API V1",
                           source.manifest, image_id)  # fmt: skip
            self._record_refusal(image_id, blob)
            return None
        return DerivedImage(payload, blob, link)

    def _record_refusal(self, image_id: ImageId, blob: Digest) -> None:
        """Record that a blob is not the layer of an image, or exceeds a limit, so that it is not read again."""
        refusal = json.dumps({"rules": self._reader.rules}).encode()
        self._driver.put_content(image_layout.derived_refusal(image_id, blob), refusal)

    def _is_refused(self, image_id: ImageId, blob: Digest) -> bool:
        try:
            refusal = json.loads(self._driver.get_content(image_layout.derived_refusal(image_id, blob)))
            return bool(refusal["rules"] == self._reader.rules)
        except (PathNotFound, ValueError, KeyError, TypeError):
            return False
