"""
Pushes of API V1 images: the JSON, the layer, and the checksum that ends the push.

The pending JSON and the staged layer (:mod:`docker_registry.registry.v1.pending_pushes`) are stored beside the image,
separately for concurrent pushes. The checksum selects a staged layer, which becomes a blob. Then the image is committed
(:mod:`docker_registry.registry.v1.image_commits`); of several concurrent pushes, one wins. Any request can complete the
remaining steps of a committed image, so a crash loses nothing that was acknowledged and exposes nothing unverified.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import (
    ChecksumMismatch,
    ChecksumMissing,
    ChecksumUnexpected,
    DigestInvalid,
    ImageExists,
    ImageUnknown,
    LayerFormatUnsupported,
    ParentUnknown,
    StorageUnavailable,
    TooLarge,
    UploadUnknown,
)
from docker_registry.registry import events
from docker_registry.registry.actor import ANONYMOUS_PUSH, Actor, Principal
from docker_registry.registry.ingest import Body, Content
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.uploads import Uploads
from docker_registry.registry.v1.image_commits import ImageCommits
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.layer_inspections import LayerInspections
from docker_registry.registry.v1.layer_links import LayerLink, Receipt
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.registry.v1.pending_pushes import (
    KnownTarSum,
    Pending,
    PendingPushes,
    StagedLayer,
    StagedLayers,
    parse_image_json,
)
from docker_registry.resources.time_slices import TimeSlices

#: Maximum attempts to end a push while concurrent pushes of the image interfere.
_MAX_ATTEMPTS: Final = 100

#: Maximum number of ancestors of an image; Docker could run at most 127.
MAX_ANCESTORS: Final = 4096

#: How a checksum that is a TarSum begins.
_TARSUM: Final = "tarsum+"


@dataclass(frozen=True, slots=True)
class Checksum:
    """
    The checksums that a client sends for a layer.

    Attributes:
        payload: sum of the image's JSON and the layer's bytes as sent. Docker 0.9.0 and 0.9.1 send the sum of the
            uncompressed layer instead, which is never equal to it.
        tarsum: TarSum of the layer. Where *payload* is missing, it may be the payload sum instead.
        is_payload_decisive: a payload sum that differs means a damaged layer, whatever the TarSum. The TarSum does not
            cover extended attributes, so it is no substitute where the client computes the payload sum correctly.
    """

    payload: str | None = None
    tarsum: str | None = None
    is_payload_decisive: bool = False


class ResolveImage(Protocol):
    """Returns the id of an image, or its hidden form if a principal may not see the image."""

    def __call__(self, image_id: ImageId, *, principal: Principal) -> ImageId:
        """Return the id."""
        ...


class ImagePushes:
    """Pushes of all V1 images."""

    def __init__(
        self,
        driver: StorageDriver,
        uploads: Uploads,
        images: Images,
        commits: ImageCommits,
        pending_pushes: PendingPushes,
        resolve: ResolveImage,
        reader: LayerReader,
        inspections: LayerInspections,
        slices: TimeSlices,
    ) -> None:
        """
        Args:
            resolve: returns the id of an image, or its hidden form if the client may not see the image.
            slices: divides long computations into time slices.
        """
        self._driver = driver
        self._uploads = uploads
        self._images = images
        self._commits = commits
        self._pending_pushes = pending_pushes
        self._resolve = resolve
        self._staged_layers = StagedLayers(driver, uploads, slices)
        self._reader = reader
        self._inspections = inspections

    def put_json(
        self, image_id: ImageId, payload: bytes, *, is_proof: bool = False, actor: Actor = ANONYMOUS_PUSH
    ) -> None:
        """
        Start the push of an image.

        Args:
            payload: the image's JSON, stored byte for byte.
            is_proof: the client may not know of an image that exists; its push only proves that it has the layer, and
                changes nothing.

        Raises:
            ImageInvalid: *payload* is not a JSON object, has too many values, or its ``id`` is missing or differs.
            ParentUnknown: the parent image does not exist, has the image as an ancestor, or has too many ancestors.
            ImageExists: the image has already been pushed completely.
        """
        document = parse_image_json(image_id, payload)
        ancestry = self._ancestry(image_id, document.get("parent"), actor.principal)
        events.before_put_image_json.send(self._driver, image_id=str(image_id), image_json=document)
        if image_id.is_hidden:  # the next request fails because no push has started
            return
        if self._images.is_complete(image_id, principal=actor.principal):
            if is_proof:
                return
            raise self._exists(image_id)
        self._pending_pushes.begin(image_id, Pending(payload, ancestry))
        if self._commits.committed(image_id) is not None:  # another push ended concurrently
            raise self._exists(image_id)

    def put_layer(
        self, image_id: ImageId, body: Body, *, is_proof: bool = False, actor: Actor = ANONYMOUS_PUSH
    ) -> None:
        """
        Receive and stage the layer of an image; its content is not inspected.

        Args:
            is_proof: as for :meth:`put_json`.

        Raises:
            ImageUnknown: no push of the image has started.
            ImageExists: the image has already been pushed completely.
            SizeInvalid: the body ended early; the received bytes are discarded.
        """
        receipts = [Receipt(payload) for payload in self._payloads(image_id)]
        if not is_proof and self._images.is_complete(image_id, principal=actor.principal):
            raise self._exists(image_id)
        upload_id, links = self._staged_layers.receive(receipts, body, actor=actor)
        for link in links:
            self._staged_layers.put(image_id, upload_id, link)

    def put_checksum(
        self,
        image_id: ImageId,
        checksum: Checksum,
        *,
        is_proof: bool = False,
        is_mirrored: bool = False,
        actor: Actor = ANONYMOUS_PUSH,
    ) -> bool:
        """
        Verify the checksum of the staged layer and commit the image.

        Args:
            is_proof: as for :meth:`put_json`; the layer must be that of the image.
            is_mirrored: the image comes from a mirrored registry, as its commit then says.

        Returns:
            Whether this call committed the image; False if a concurrent push did.

        Raises:
            ChecksumMissing: the client sent no checksum.
            ImageUnknown: no push of the image has started.
            ChecksumUnexpected: the image is complete and no staged layer has this checksum.
            ChecksumMismatch: no staged layer has this checksum, or its JSON no longer exists.
            StorageUnavailable: concurrent pushes of the image interfered too often.
        """
        if not checksum.payload and not checksum.tarsum:
            raise ChecksumMissing(id=str(image_id))
        if not self._pending_pushes.exists(image_id) and self._commits.find_json(image_id) is None:
            raise ImageUnknown(id=str(image_id))
        for _ in range(_MAX_ATTEMPTS):
            staged = self._choose(image_id, checksum)
            if self._images.is_complete(image_id, principal=actor.principal):
                # A concurrent push was committed first; a client with a valid layer still receives success.
                self._complete(image_id)
                if staged is None:
                    raise ChecksumMismatch(id=str(image_id)) if is_proof else ChecksumUnexpected(id=str(image_id))
                if is_proof and not self._is_its_layer(image_id, staged):
                    self._staged_layers.discard(staged)
                    raise ChecksumMismatch(id=str(image_id))
                self._staged_layers.discard(staged)
                return False
            if staged is None:
                raise ChecksumMismatch(id=str(image_id))
            if self._publish(image_id, staged, actor, is_mirrored=is_mirrored):
                self._complete(image_id)
                self._staged_layers.discard(staged)
                self._inspections.add(image_id)
                return True
        raise StorageUnavailable("Too many pushes of one image at once.", id=str(image_id))

    def adopt(
        self,
        image_id: ImageId,
        payload: bytes,
        ancestry: Sequence[str],
        body: Body,
        checksums: Collection[str],
        *,
        before_commit: Callable[[], object],
        actor: Actor = ANONYMOUS_PUSH,
    ) -> Digest:
        """
        Store an image of another registry, whose ancestors need not be here; nothing is stored of an invalid one.

        An image that is pushed meanwhile stays as it was pushed.

        Args:
            payload: the image's JSON.
            ancestry: the ids of the image and all its ancestors, newest first.
            body: the layer.
            checksums: payload sums and TarSums of the layer, of which one must be right; without any, the layer must be
                a complete archive.
            before_commit: is called when the image is valid, just before it is committed.

        Returns:
            The digest of the layer that was received.

        Raises:
            ImageInvalid: as for :meth:`put_json`.
            ChecksumMismatch: the layer has none of the checksums, or is no archive.
            SizeInvalid: the body ended early.
            Overloaded: the layer must be read to verify it, and too many layers are being read.
            StorageUnavailable: concurrent pushes of the image interfered too often.
        """
        parse_image_json(image_id, payload)
        upload_id, (link,) = self._staged_layers.receive([Receipt(payload)], body, actor=actor)
        try:
            link = self._verified(image_id, payload, link, upload_id, checksums)
        except BaseException:
            self._staged_layers.cancel(upload_id)
            raise
        self._pending_pushes.begin(image_id, Pending(payload, tuple(ancestry)))
        self._staged_layers.put(image_id, upload_id, link)
        before_commit()
        with suppress(ChecksumUnexpected):  # a push of another layer has ended meanwhile
            self.put_checksum(image_id, Checksum(payload=link.checksums[0]), is_mirrored=True, actor=actor)
        return link.digest

    # ------------------------------------------------------------------------------------------------- steps

    def _verified(
        self, image_id: ImageId, payload: bytes, link: LayerLink, upload_id: str, checksums: Collection[str]
    ) -> LayerLink:
        """
        Return the link of a received layer with the checksums that are right.

        Raises:
            ChecksumMismatch, Overloaded: as for :meth:`adopt`.
        """
        if link.checksums[0] in checksums:
            return link
        tarsums = [checksum for checksum in checksums if checksum.startswith(_TARSUM)]
        if not checksums or tarsums:
            facts = self._reader.inspect(payload, self._uploads.read(None, upload_id), with_tarsum=bool(tarsums))
            is_valid = facts.tarsum in tarsums if tarsums else facts.is_complete
            if is_valid:
                return replace(link, checksums=(link.checksums[0], *([facts.tarsum] if tarsums else [])))
        raise ChecksumMismatch(id=str(image_id))

    def _exists(self, image_id: ImageId) -> ImageExists:
        """Return the error for an existing image, after completing a commit that a crash may have interrupted."""
        self._complete(image_id)
        return ImageExists(id=str(image_id))

    def _complete(self, image_id: ImageId) -> None:
        link = self._commits.committed(image_id)
        if link is not None and self._images.is_marked(image_id):
            self._commits.complete(image_id, link)

    def _payloads(self, image_id: ImageId) -> list[bytes]:
        """
        Return the JSON payloads for which a layer may be received, newest first.

        Raises:
            ImageUnknown: there are none.
        """
        payloads = dict.fromkeys(pending.payload for pending in self._pending_pushes.pending(image_id))
        committed = self._commits.find_json(image_id)
        if committed is not None:
            payloads[committed] = None  # for a proof, or a push that version 0.9 or earlier started
        elif not payloads:
            raise ImageUnknown(id=str(image_id))
        return list(payloads)

    def _ancestry(self, image_id: ImageId, parent: object, principal: Principal) -> tuple[str, ...]:
        """
        Return the ids of an image and all its ancestors, newest first.

        Raises:
            ParentUnknown: the parent does not exist, has the image as an ancestor, or has too many ancestors.
        """
        if not parent:
            return (str(image_id),)
        try:
            parent_id = self._resolve(ImageId.parse(str(parent)), principal=principal)
            below = self._images.ancestry(parent_id, principal=principal)
        except ImageUnknown:
            raise ParentUnknown(parent=str(parent)[:64]) from None
        if str(image_id) in below or len(below) >= MAX_ANCESTORS:  # no cycles
            raise ParentUnknown(parent=str(parent_id))
        return (str(image_id), *below)

    def _choose(self, image_id: ImageId, checksum: Checksum) -> StagedLayer | None:
        """Return the staged layer that has a checksum, with that checksum added to its link; None if there is none."""
        payload = checksum.payload or checksum.tarsum or ""
        waiting = list(self._staged_layers.of(image_id))
        for staged in waiting:
            if payload in staged.link.checksums:
                return staged
        tarsum = checksum.tarsum
        if not tarsum or (checksum.payload and checksum.is_payload_decisive):
            return None
        for staged in waiting:
            if self._tarsum(image_id, staged) == tarsum:
                return replace(staged, link=replace(staged.link, checksums=(*staged.link.checksums, tarsum)))
        return None

    def _tarsum(self, image_id: ImageId, staged: StagedLayer) -> str | None:
        """Return the TarSum of a staged layer, computed once; None if it cannot be computed."""
        if staged.tarsum is not None and staged.tarsum.rules == self._reader.rules:
            return staged.tarsum.text
        layer = self._uploads.read(None, staged.upload_id)
        try:
            text = self._reader.tarsum(self._image_json(image_id, staged.link.image_json), layer)
        except (LayerFormatUnsupported, TooLarge):
            text = None
        except (ImageUnknown, UploadUnknown):  # the JSON or the layer no longer exists
            return None
        self._staged_layers.put_tarsum(staged, KnownTarSum(text, self._reader.rules))
        return text

    def _image_json(self, image_id: ImageId, digest: Digest) -> Iterator[bytes]:
        """
        Yield the pending or committed JSON with a digest; a generator, so that waiting requests do not hold it.

        Raises:
            ImageUnknown: there is none.
        """
        pending = self._pending_pushes.find(image_id, digest)
        image_json = pending.payload if pending is not None else self._commits.get_json(image_id)
        if Digest.of(image_json) != digest:
            raise ImageUnknown(id=str(image_id))
        yield image_json

    def _publish(self, image_id: ImageId, staged: StagedLayer, actor: Actor, *, is_mirrored: bool) -> bool:
        """Publish a staged layer and commit the image; return False if the caller must retry with the new state."""
        has_json = self._commits.has_json(image_id, staged.link.image_json)
        stored = self._commits.stored(image_id)
        if self._commits.committed(image_id) is not None:
            return False
        if not has_json:  # deleted because too many newer ones are pending
            self._staged_layers.remove_record(staged)
            return False
        self._commits.protect(image_id, staged.link.digest)
        try:
            self._uploads.commit(None, staged.upload_id, staged.link.digest, Content(b""), actor=actor)
        except (UploadUnknown, DigestInvalid):
            # The upload session and its bytes no longer exist.
            self._staged_layers.remove_record(staged)
            return False
        # A client and the mirror may stage equal layers, and commit either one: the commit counts, not the staging.
        return self._commits.commit(image_id, replace(staged.link, is_mirrored=is_mirrored), stored)

    def _is_its_layer(self, image_id: ImageId, staged: StagedLayer) -> bool:
        """Return whether a staged layer has the bytes or a TarSum of the layer of a complete image."""
        link, _ = self._images.find_layer(image_id, principal=None)
        if staged.link.digest == link.digest:
            return True
        sums = [text for text in staged.link.checksums if text.startswith("tarsum")]
        return any(text in link.checksums for text in sums)
