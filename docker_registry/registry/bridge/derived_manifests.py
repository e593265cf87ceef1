"""
V2 manifests derived from chains of V1 images.

A manifest is created when it is first requested. Its parts are written in the order layer links, configuration,
manifest, revision, so nothing ever references missing content. From then on it is an ordinary manifest. Its layers are
the existing blobs. Layers that clients of V2 cannot unpack (such as xz) are stored again as plain tar and not
recompressed, because compressors differ in the bytes that they write.

``images/<id>/_manifest`` stores the digest. A lease ensures that only one process works on an image at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from docker_registry.concurrency import KeyedLocks, check_client
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    DigestInvalid,
    ImageInvalid,
    ImageUnknown,
    LayerFormatUnsupported,
    PathNotFound,
)
from docker_registry.registry import layout
from docker_registry.registry.access import Access
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.bridge.conversion import to_config, to_manifest
from docker_registry.registry.bridge.derived_images import DerivedImages
from docker_registry.registry.bridge.unpacked_layers import UnpackedLayers
from docker_registry.registry.leases import Leases
from docker_registry.registry.manifests import Manifests
from docker_registry.registry.names import Descriptor, Digest, ImageId, RepositoryName
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.layer_links import MEDIA_TYPES, LayerLink
from docker_registry.registry.v1.sources import Permitted

#: Media types of layers that every client of V2 can unpack.
_READABLE: Final = frozenset({MEDIA_TYPES["gzip"], MEDIA_TYPES["tar"]})

#: Maximum bytes of the JSON of an image and all its ancestors: as for the configuration of a V2 image.
MAX_JSON_BYTES: Final = 8 * 1024 * 1024

#: A process that has not renewed its lease for this time is considered dead, seconds.
_LEASE_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.2


class DerivedManifests:
    """Derives V2 manifests from V1 images."""

    def __init__(
        self,
        driver: StorageDriver,
        images: Images,
        derived_images: DerivedImages,
        blobs: Blobs,
        leases: Leases,
        access: Access,
        unpacked: UnpackedLayers,
        manifests: Manifests,
    ) -> None:
        """
        Args:
            access: decides from which repositories an existing manifest of API V2 may be reused.
        """
        self._driver = driver
        self._images = images
        self._derived_images = derived_images
        self._blobs = blobs
        self._leases = leases
        self._access = access
        self._unpacked = unpacked
        self._manifests = manifests
        self._locks = KeyedLocks()

    def get(self, name: RepositoryName, image_id: ImageId, principal: Principal = ANONYMOUS) -> Digest:
        """
        Return the manifest of a V1 image, creating it if necessary, and grant it to a repository.

        Args:
            principal: an existing manifest of API V2 is reused only from a repository that it may pull from, and so are
                the layers of images that derive from API V2. All clients of *name* may pull them from then on. For an
                image that was also pushed, they are reused only from *name* and from repositories that everyone may
                pull from: the client that pushed it may have known nothing but the id.

        Raises:
            ImageUnknown, ImageUnfinished: the image or one of its ancestors is missing or incomplete, or it was pushed
                with another layer than that of the image of API V2 with its id.
            LayerFormatUnsupported: a layer is not a tar.
            ImageInvalid: the JSON of an image is invalid, so that Docker could not read it either; or the JSON of the
                image and its ancestors is longer than :data:`MAX_JSON_BYTES`.
        """
        digest = self.find(image_id)
        if digest is not None and self._driver.has_file(layout.revision_link(name, digest)):
            return digest
        origin = self._derived_images.manifest(image_id, name, self._permitted(name, image_id, principal))
        if origin is not None:
            self._manifests.grant(name, origin[1])
            return origin[1]
        self._viewer(image_id, principal)  # the same conditions hold for a manifest that was derived before
        with self._locks.hold(image_id):
            digest = self.find(image_id) or self._derive(name, image_id, principal)
        self._manifests.grant(name, digest)
        return digest

    def find(self, image_id: ImageId) -> Digest | None:
        """Return the manifest that was derived from an image; None when there is none yet."""
        try:
            return Digest.parse(self._driver.get_content(image_layout.manifest(self._folder(image_id))).decode())
        except (PathNotFound, DigestInvalid, UnicodeDecodeError):
            return None

    # ------------------------------------------------------------------------------------------------- steps

    def _folder(self, image_id: ImageId) -> str:
        return self._images.folder(image_id)

    def _is_claimed(self, image_id: ImageId) -> bool:
        """Return whether a client has pushed an image under an id that derives from API V2, which not everyone sees."""
        is_open = self._access.pull_filter(ANONYMOUS) is None
        return not is_open and self._derived_images.is_known(image_id) and self._images.is_pushed(image_id)

    def _permitted(self, name: RepositoryName, image_id: ImageId, principal: Principal) -> Permitted | None:
        """Return a predicate for the repositories from which a manifest is reused; None for all."""
        permitted = self._access.pull_filter(ANONYMOUS if self._is_claimed(image_id) else principal)
        return None if permitted is None else lambda each: each == name or permitted(each)

    def _viewer(self, image_id: ImageId, principal: Principal) -> Principal:
        """
        Return the principal as which an image is looked up; *principal* unless the image was also pushed.

        Raises:
            ImageUnknown, ImageUnfinished: as for :meth:`get`.
        """
        if not self._is_claimed(image_id):
            return principal
        derived = self._derived_images.find(image_id)
        if derived is not None and derived.link.diff_id != self._images.inspect_layer(image_id).diff_id:
            raise ImageUnknown("Another image has this id.", id=str(image_id))
        return ANONYMOUS

    def _derive(self, name: RepositoryName, image_id: ImageId, principal: Principal) -> Digest:
        """Create a manifest, or wait for another process that is creating it."""
        lease = f"manifest-of-{image_id}"
        while not self._leases.take(lease, _LEASE_SECONDS):
            time.sleep(_PAUSE_SECONDS)
            check_client()
            digest = self.find(image_id)
            if digest is not None:
                return digest
        try:
            return self._create(name, image_id, lease, principal)
        finally:
            self._leases.release(lease)

    def _create(self, name: RepositoryName, image_id: ImageId, lease: str, principal: Principal) -> Digest:
        images, viewer = self._images, self._viewer(image_id, principal)
        images.check(image_id, principal=viewer)
        payloads, diff_ids, layers = [], [], []
        json_bytes = 0
        for ancestor in map(ImageId.parse, reversed(images.ancestry(image_id, principal=viewer))):
            self._leases.take(lease, _LEASE_SECONDS)
            viewer = self._viewer(ancestor, principal)
            payloads.append(images.check(ancestor, principal=viewer))
            json_bytes += len(payloads[-1])
            if json_bytes > MAX_JSON_BYTES:
                raise ImageInvalid("The JSON of the image and its ancestors is too long.", max_bytes=MAX_JSON_BYTES)
            link = images.inspect_layer(ancestor, principal=viewer)
            if link.diff_id is None:
                raise LayerFormatUnsupported(id=str(ancestor))
            _, file = images.find_layer(ancestor, principal=viewer)
            diff_ids.append(link.diff_id)
            layers.append(self._publish_layer(link, link.diff_id, file))
        try:
            config = to_config(payloads, diff_ids)
        except ValueError as error:
            raise ImageInvalid(f"The image's JSON is invalid: {error}.") from None
        return self._write(name, image_id, config, layers)

    def _write(self, name: RepositoryName, image_id: ImageId, config: bytes, layers: Sequence[Descriptor]) -> Digest:
        for layer in layers:
            self._blobs.link(name, layer.digest)
        blob = self._blobs.put(config, Digest.of(config))
        self._blobs.link(name, blob.digest)
        payload = to_manifest(config, layers)
        manifest = self._blobs.put(payload, Digest.of(payload))
        self._driver.put_content(layout.revision_link(name, manifest.digest), str(manifest.digest).encode())
        self._driver.put_content(image_layout.manifest(self._folder(image_id)), str(manifest.digest).encode())
        return manifest.digest

    def _publish_layer(self, link: LayerLink, diff_id: Digest, file: StoredFile) -> Descriptor:
        """Publish a layer as a blob that clients of V2 can unpack, and return its descriptor."""
        is_copy = file.path == image_layout.unpacked_layer(diff_id)
        if link.media_type in _READABLE and not is_copy:
            self._blobs.publish_in_place(link.digest, link.size, file.path)
            return Descriptor(link.media_type, link.digest, link.size)
        target = layout.blob_data(diff_id)
        if is_copy and self._driver.find_size(target) is None:
            # A copy may be removed at any time, so nothing may depend on its path.
            self._driver.link(file.path, target)
        return Descriptor(MEDIA_TYPES["tar"], diff_id, self._unpacked.put(file, diff_id, target))
