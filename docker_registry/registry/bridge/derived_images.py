"""
Images of API V1 that nobody pushed: each is one layer of an image of V2.

Their ids follow from the configuration alone, but who shows a layer under an id says that it has the digest which the
id is made of; so a layer is read once, when its image is first asked for, and only then shown. What was found out is
kept, and may be forgotten: it is found again. So is which manifests an image is a part of, since clients of V1 ask for
images without saying of which repository::

    docker/registry/v2/_v1/derived/<id>/from-<sum>    {"repository": "acme/web", "manifest": "sha256:0c2d…"}
    docker/registry/v2/_v1/derived/<id>/image         {"json": "{\\"id\\": …}", "blob": "sha256:9b1d…", "layer": {…}}
    docker/registry/v2/_v1/derived/<id>/not-<hex>     {"rules": "1-6871…"}, of a blob that is another layer
    docker/registry/v2/_v1/tops/<algorithm>/<hex>     {"id": "…", "platform": "linux/amd64", "children": ["sha256:…"]}

A repository has the image of an index only if it has the index's manifest for that image too. What is asked for by id
alone may come from any repository that has it; a *permitted* function restricts that to those the client may see.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    DigestInvalid,
    ImageUnknown,
    LayerFormatUnsupported,
    NameInvalid,
    PathNotFound,
    TooLarge,
)
from docker_registry.registry import layout
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.bridge.image_sources import ImageSource, ImageSources
from docker_registry.registry.json_budget import JsonBudget
from docker_registry.registry.keyed_locks import KeyedLocks
from docker_registry.registry.layers.tar_headers import BLOCK_BYTES
from docker_registry.registry.names import Digest, ImageId, RepositoryName
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.registry.v1.unpacked_layers import UnpackedLayers

logger = logging.getLogger(__name__)

#: A layer without files, as Docker wrote it: the end of a tar and nothing before it.
_EMPTY_LAYER: Final = bytes(2 * BLOCK_BYTES)

#: Tells which repositories an image may come from.
Permitted = Callable[[RepositoryName], bool]

#: Memory for what a worker remembers: small facts of each kind, and images.
_FACTS_BYTES: Final = 8 * 1024 * 1024
_IMAGES_BYTES: Final = 16 * 1024 * 1024

#: What a fact takes: digests or paths, and objects around them.
_FACT_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class _Top:
    """
    The newest image of V1 that a manifest is.

    Attributes:
        children: manifests that a repository must have besides; see :class:`ImageSource`.
    """

    id: ImageId
    children: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class DerivedImage:
    """
    An image of V1 whose layer is what its id says.

    Attributes:
        payload: its JSON.
        blob: where the bytes of its layer lie.
        link: the layer as clients of V1 are sent it: those bytes, or the plain tar that they unpack to.
    """

    payload: bytes
    blob: Digest
    link: LayerLink


class DerivedImages:
    """All images of V1 that follow from V2."""

    def __init__(
        self,
        driver: StorageDriver,
        reader: LayerReader,
        unpacked: UnpackedLayers,
        json_budget: JsonBudget,
        *,
        platform: str,
    ) -> None:
        """
        Args:
            json_budget: bounds what large manifests and configurations take.
            platform: which image of an index V1 sees, such as ``linux/amd64``.
        """
        self._driver = driver
        self._reader = reader
        self._unpacked = unpacked
        self._platform = platform
        self._sources = ImageSources(driver, platform, json_budget)
        self._at_work = KeyedLocks()
        self._tops: BoundedCache[Digest, _Top] = BoundedCache(_FACTS_BYTES, lambda _: _FACT_BYTES)
        self._noted: BoundedCache[str, bool] = BoundedCache(_FACTS_BYTES, lambda _: _FACT_BYTES)
        self._known: BoundedCache[ImageId, DerivedImage] = BoundedCache(
            _IMAGES_BYTES, lambda image: _FACT_BYTES + len(image.payload)
        )

    # -------------------------------------------------------------------------------------- from V2 to V1

    def top(self, name: RepositoryName, manifest: Digest) -> ImageId:
        """
        Return the newest image of V1 that a manifest, or an index, of a repository is.

        Raises:
            ImageUnknown: none; the sentence says why.
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
        if not self._has_all(name, top.children):
            raise ImageUnknown("A part of the image is not here.", digest=str(top.children[0]))
        self._note(top.id, name, manifest)
        return top.id

    def _stored_top(self, manifest: Digest) -> _Top | None:
        try:
            document = json.loads(self._driver.get_content(image_layout.top(manifest)))
            top = _Top(ImageId.parse(document["id"]), tuple(map(Digest.parse, document["children"])))
            return top if document["platform"] == self._platform else None
        except (PathNotFound, ValueError, KeyError, TypeError, AttributeError, ImageUnknown, DigestInvalid):
            return None

    def _has_all(self, name: RepositoryName, manifests: Sequence[Digest]) -> bool:
        return all(self._driver.exists(layout.revision_link(name, manifest)) for manifest in manifests)

    def _note(self, image_id: ImageId, name: RepositoryName, manifest: Digest) -> None:
        """Keep that an image is a part of a manifest."""
        path = image_layout.derived_from(image_id, name, manifest)
        if self._noted.get(path):
            return
        if not self._driver.exists(path):
            document = {"repository": str(name), "manifest": str(manifest)}
            self._driver.put_content(path, json.dumps(document).encode())
        self._noted.put(path, True)

    # ---------------------------------------------------------------------------------------- by their ids

    def is_known(self, image_id: ImageId) -> bool:
        """Tell whether an id follows from an image of V2."""
        return image_id in self._known or self._driver.exists(image_layout.derived(image_id))

    def origins(self, image_id: ImageId) -> Iterator[tuple[RepositoryName, Digest]]:
        """Yield the repositories and manifests that an image is known to be a part of."""
        try:
            paths = list(self._driver.list_directory(image_layout.derived(image_id)))
        except PathNotFound:
            return
        for path in filter(image_layout.is_derived_from, paths):
            try:
                document = json.loads(self._driver.get_content(path))
                yield RepositoryName.parse(document["repository"]), Digest.parse(document["manifest"])
            except (PathNotFound, ValueError, KeyError, TypeError, NameInvalid, DigestInvalid):
                continue

    def manifest(
        self, image_id: ImageId, preferred: RepositoryName, permitted: Permitted | None = None
    ) -> tuple[RepositoryName, Digest] | None:
        """
        Return an image of V2 of which this is the newest image of V1, and a repository that has it; None for others.

        Args:
            preferred: a repository that is taken if it has one.
            permitted: which others may be taken; None for all.
        """
        found = []
        for name, source in self._permitted_sources(image_id, permitted):
            if source.chain.ids[-1] == image_id:
                found.append((name, source.manifest))
        return min(found, key=lambda each: (each[0] != preferred, str(each[0]), str(each[1])), default=None)

    def ancestry(self, image_id: ImageId, permitted: Permitted | None = None) -> tuple[str, ...] | None:
        """
        Return the ids of an image and of all below it, newest first; None when it does not follow from V2.

        Args:
            permitted: which repositories it may come from; None for all.
        """
        found = None
        for name, source in self._permitted_sources(image_id, permitted):
            position = source.chain.ids.index(image_id)
            found = source.chain.ancestry(position)
            for below in source.chain.ids[:position]:
                self._note(below, name, source.manifest)
        return found

    def find(self, image_id: ImageId, permitted: Permitted | None = None) -> DerivedImage | None:
        """
        Return an image whose layer is what the id says; None when there is none.

        The layer is read once, when it is first asked for.

        Args:
            permitted: which repositories it may come from; None for all.
        """
        known = self._known.get(image_id)
        if known is None and self._driver.exists(image_layout.derived(image_id)):
            with self._at_work.hold(image_id):
                known = self._known.get(image_id) or self._stored(image_id) or self._work_out(image_id, permitted)
        if known is not None and permitted is not None and not self._is_held(image_id, known, permitted):
            with self._at_work.hold(image_id):
                known = self._work_out(image_id, permitted)
        if known is not None:
            self._known.put(image_id, known)
        return known

    def stored_file(self, image_id: ImageId, image: DerivedImage) -> StoredFile | None:
        """Find where the layer of an image is stored, packed or not; None when it was removed."""
        path = layout.blob_data(image.blob)
        try:
            return StoredFile(self._driver, path, self._driver.get_size(path), ImageUnknown(id=str(image_id)))
        except PathNotFound:
            return None

    def sent_file(self, image: DerivedImage, stored: StoredFile) -> StoredFile:
        """
        Return the layer of an image as clients of V1 are sent it, unpacked if they could not read it.

        Args:
            stored: what :meth:`stored_file` returned.
        """
        if image.link.digest == image.blob:
            return stored
        path = image_layout.unpacked_layer(image.link.digest)
        return replace(stored, path=path, size=self._unpacked.put(stored, image.link.digest, path))

    # ------------------------------------------------------------------------------------------------- steps

    def _source(self, digest: Digest) -> ImageSource | None:
        try:
            return self._sources.get(digest)
        except ImageUnknown:  # deleted, and its bytes collected
            return None

    def _stored(self, image_id: ImageId) -> DerivedImage | None:
        try:
            document = json.loads(self._driver.get_content(image_layout.derived_image(image_id)))
            link = LayerLink.from_json(document["layer"])
            return DerivedImage(document["json"].encode(), Digest.parse(document["blob"]), link)
        except (PathNotFound, ValueError, KeyError, TypeError, AttributeError, DigestInvalid):
            return None

    def _permitted_sources(
        self, image_id: ImageId, permitted: Permitted | None
    ) -> Iterator[tuple[RepositoryName, ImageSource]]:
        """Yield the repositories that an image may come from, and what it is a part of there."""
        for name, digest in self.origins(image_id):
            if permitted is not None and not permitted(name):
                continue
            source = self._source(digest)
            if source is None or image_id not in source.chain.ids:
                continue
            if permitted is None or self._has_all(name, (digest, *source.children)):
                yield name, source

    def _is_held(self, image_id: ImageId, image: DerivedImage, permitted: Permitted) -> bool:
        """Tell whether a repository that the client may see has the verified layer of an image."""
        return any(
            not source.layers or self._driver.exists(layout.layer_link(name, image.blob))
            for name, source in self._permitted_sources(image_id, permitted)
        )

    def _work_out(self, image_id: ImageId, permitted: Permitted | None) -> DerivedImage | None:
        for name, source in self._permitted_sources(image_id, permitted):
            position = source.chain.ids.index(image_id)
            if permitted is not None and not self._has_layer(name, source, position):
                continue
            image = self._verify(image_id, source, position)
            if image is None:
                logger.warning("a layer of %s is not what its configuration says; image %s is not shown for it",
                               source.manifest, image_id)  # fmt: skip
                continue
            document = {"json": image.payload.decode(), "blob": str(image.blob), "layer": image.link.to_json()}
            self._driver.put_content(image_layout.derived_image(image_id), json.dumps(document).encode())
            return image
        return None

    def _has_layer(self, name: RepositoryName, source: ImageSource, position: int) -> bool:
        return not source.layers or self._driver.exists(layout.layer_link(name, source.layers[position]))

    def _verify(self, image_id: ImageId, source: ImageSource, position: int) -> DerivedImage | None:
        """Read a layer and tell what it is; None when it is not what the image's id is made of."""
        payload = source.chain.payload(position)
        if not source.layers:
            blob = Digest.of(_EMPTY_LAYER)
            self._driver.put_content(layout.blob_data(blob), _EMPTY_LAYER)
        else:
            blob = source.layers[position]
        if self._is_refused(image_id, blob):
            return None
        try:
            stored = self._driver.stream_read(layout.blob_data(blob))
        except PathNotFound:
            return None
        try:
            link = self._reader.inspect(payload, stored, as_sent=True).link
        except (LayerFormatUnsupported, TooLarge):
            self._refuse(image_id, blob)
            return None
        diff_id = source.chain.diff_ids[position] if source.layers else blob
        if link.diff_id != diff_id:
            self._refuse(image_id, blob)
            return None
        return DerivedImage(payload, blob, link)

    def _refuse(self, image_id: ImageId, blob: Digest) -> None:
        """Keep that a blob is not the layer of an image, or exceeds a limit, so that it is not read again."""
        refusal = json.dumps({"rules": self._reader.rules}).encode()
        self._driver.put_content(image_layout.derived_refusal(image_id, blob), refusal)

    def _is_refused(self, image_id: ImageId, blob: Digest) -> bool:
        try:
            refusal = json.loads(self._driver.get_content(image_layout.derived_refusal(image_id, blob)))
            return bool(refusal["rules"] == self._reader.rules)
        except (PathNotFound, ValueError, KeyError, TypeError):
            return False
