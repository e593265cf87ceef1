"""
How an image of API V1 is pushed: its JSON, its layer, and the checksum that ends the push.

The layer goes into an upload session that belongs to no repository. When it has come, a note beside the image says
where it waits and what it is; several pushes of one image have a note each, ``images/<id>/_received/<sum>-<upload>``.
The checksum chooses one. Then, in this order, so that a crash in between loses nothing and shows nothing unverified:
the session becomes a blob, ``_blob`` links to it (by compare-and-swap: of several pushes one wins), what 0.7.1 knows is
written beside it, and the mark goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import (
    ChecksumMismatch,
    ChecksumMissing,
    ChecksumUnexpected,
    DigestInvalid,
    ImageInvalid,
    ImageUnknown,
    LayerFormatUnsupported,
    ParentUnknown,
    PathNotFound,
    PreconditionFailed,
    StorageUnavailable,
    TooLarge,
    UploadUnknown,
)
from docker_registry.registry import events, image_layout
from docker_registry.registry.archives import Expansion
from docker_registry.registry.image_marks import ImageMarks
from docker_registry.registry.images import Images
from docker_registry.registry.intake import Body, Content
from docker_registry.registry.layer_links import Inspection, LayerLink
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.tarstream import TarReader
from docker_registry.registry.tarsum import TarSum
from docker_registry.registry.uploads import Uploads
from docker_registry.threads import in_thread

#: How often a push tries to end while others begin anew.
_MAX_TRIES: Final = 100

#: Images below an image; the deepest that Docker could run had 127.
_MAX_ANCESTORS: Final = 4096


@dataclass(frozen=True, slots=True)
class Checksum:
    """
    What a client says of the layer that it has pushed.

    Attributes:
        payload: the sum over the bytes as they travelled, of Docker 0.10 and later; when it is there it alone counts.
        tarsum: the sum over the files, of older ones, which some of them send the payload sum as.
    """

    payload: str | None = None
    tarsum: str | None = None


@dataclass(frozen=True, slots=True)
class _Received:
    """A layer that waits for its checksum."""

    path: str
    upload_id: str
    link: LayerLink


class ImagePushes:
    """All images of API V1, for those who push."""

    def __init__(
        self, driver: StorageDriver, uploads: Uploads, images: Images, marks: ImageMarks, *, max_unpacked_bytes: int
    ) -> None:
        """
        Args:
            max_unpacked_bytes: uncompressed bytes of a layer that are looked at.
        """
        self._driver = driver
        self._uploads = uploads
        self._images = images
        self._marks = marks
        self._max_unpacked_bytes = max_unpacked_bytes

    def put_json(self, image_id: ImageId, payload: bytes) -> None:
        """
        Begin the push of an image.

        Args:
            payload: the image's JSON, which is kept as it is.

        Raises:
            ImageInvalid: it is no JSON object, or has no ``id``, or another one.
            ParentUnknown: the image that it stands on is not here.
            ImageExists: the image is here, whole.
        """
        document = _parse(image_id, payload)
        ancestry = self._ancestry(image_id, document.get("parent"))
        events.before_put_image_json.send(self._driver, image_id=str(image_id), image_json=document)
        self._end_overtaken(image_id)
        self._marks.begin(image_id, lambda: self._images.is_whole(image_id))
        self._remove(image_layout.checksum(image_id))
        self._driver.put_content(image_layout.image_json(image_id), payload)
        self._driver.put_content(image_layout.ancestry(image_id), json.dumps(ancestry).encode())
        if not self._marks.get(image_id).is_in_progress and self._images.find_link(image_id, payload) is None:
            # Another push has ended meanwhile, and its layer is not for this JSON.
            self._marks.renew(image_id)

    def put_layer(self, image_id: ImageId, body: Body) -> None:
        """
        Receive an image's layer, of any form; it waits for its checksum.

        Raises:
            ImageUnknown: nobody has begun to push this image.
            ImageExists: the image is here, whole.
            SizeInvalid: the body ended early; nothing of it is kept.
        """
        image_json = self._images.get_json(image_id)
        if not self._marks.get(image_id).is_in_progress:
            self._marks.begin(image_id, lambda: self._images.is_whole(image_id))
        inspection = Inspection(image_json, max_unpacked_bytes=self._max_unpacked_bytes)
        upload = self._uploads.start(None)
        try:
            upload = self._uploads.append(None, upload.id, body, taps=[inspection.look])
        except Exception:
            self._cancel(upload.id)
            raise
        digest = upload.chunks[0].digest if upload.chunks else Digest.of(b"")
        link = inspection.link(digest, upload.size)
        path = f"{image_layout.received(image_id)}/{_hex(inspection.payload_sum)}-{upload.id}"
        note = {"upload": upload.id, "layer": link.to_json()}
        self._driver.put_content(path, json.dumps(note).encode())

    def put_checksum(self, image_id: ImageId, checksum: Checksum) -> None:
        """
        End the push of an image, whose layer must be the one that the client meant.

        Raises:
            ChecksumMissing: the client says nothing.
            ImageUnknown: nobody has begun to push this image.
            ChecksumUnexpected: no push of it is under way.
            ChecksumMismatch: no layer has come, or another one.
        """
        if not checksum.payload and not checksum.tarsum:
            raise ChecksumMissing(id=str(image_id))
        for _ in range(_MAX_TRIES):
            image_json = self._images.get_json(image_id)
            mark = self._marks.get(image_id)
            received = self._choose(image_id, image_json, checksum)
            if not mark.is_in_progress:
                # Another push of this image was faster; a client that waits with a good layer hears that all is well.
                if received is None or not self._images.is_whole(image_id):
                    raise ChecksumUnexpected(id=str(image_id))
                self._discard(received)
                return
            if received is None:
                raise ChecksumMismatch(id=str(image_id))
            link = self._publish(image_id, image_json, received)
            if link is not None and self._images.complete(image_id, link, mark):
                self._discard(received)
                return
        raise StorageUnavailable("Too many pushes of one image at once.", id=str(image_id))

    # ------------------------------------------------------------------------------------------------- steps

    def _ancestry(self, image_id: ImageId, parent: object) -> list[str]:
        """Return the ids of an image and of all below it."""
        if not parent:
            return [str(image_id)]
        try:
            parent_id = ImageId.parse(str(parent))
            self._images.get_json(parent_id)
            below = self._images.ancestry(parent_id)
        except ImageUnknown:
            raise ParentUnknown(parent=str(parent)[:64]) from None
        if str(image_id) in below or len(below) >= _MAX_ANCESTORS:  # an image below itself would have no end
            raise ParentUnknown(parent=str(parent_id))
        return [str(image_id), *below]

    def _end_overtaken(self, image_id: ImageId) -> None:
        """End a push that died just before its end, so that the next one does not begin over it."""
        mark = self._marks.get(image_id)
        if not mark.is_in_progress or not self._images.exists(image_id):
            return
        link = self._images.find_link(image_id, self._images.get_json(image_id))
        if link is not None and self._images.place(image_id, link) is not None:
            self._images.complete(image_id, link, mark)

    def _choose(self, image_id: ImageId, image_json: bytes, checksum: Checksum) -> _Received | None:
        """Return the layer that a checksum is for, with that checksum among its own."""
        payload = checksum.payload or checksum.tarsum or ""
        waiting = [note for note in self._waiting(image_id) if note.link.image_json == Digest.of(image_json)]
        for note in waiting:
            if payload in note.link.checksums:
                return note
        if checksum.payload:
            return None
        for note in waiting:
            if self._tarsum(image_json, note) == checksum.tarsum:
                link = replace(note.link, checksums=(*note.link.checksums, payload))
                return replace(note, link=link)
        return None

    def _waiting(self, image_id: ImageId) -> Iterator[_Received]:
        try:
            paths = list(self._driver.list_directory(image_layout.received(image_id)))
        except PathNotFound:
            return
        for path in paths:
            try:
                note = json.loads(self._driver.get_content(path))
                yield _Received(path, str(note["upload"]), LayerLink.from_json(note["layer"]))
            except (PathNotFound, ValueError, KeyError, TypeError):  # discarded just now, or not ours
                continue

    def _tarsum(self, image_json: bytes, note: _Received) -> str | None:
        result = TarSum()
        expansion = Expansion(TarReader(result), max_bytes=self._max_unpacked_bytes)
        try:
            for block in self._uploads.read(None, note.upload_id):
                in_thread(expansion.update, block)
            in_thread(expansion.finish)
        except (LayerFormatUnsupported, TooLarge, UploadUnknown):
            return None
        return result.sum(image_json)

    def _publish(self, image_id: ImageId, image_json: bytes, received: _Received) -> LayerLink | None:
        """
        Make a received layer the image's own.

        Returns:
            The layer that the image has now: this one, or that of a push that was faster. None when that must be
            looked at again.
        """
        path = image_layout.blob_link(image_id)
        try:
            version = self._driver.get_versioned(path).version
        except PathNotFound:
            version = ABSENT
        known = self._images.find_link(image_id, image_json)
        if known is not None and self._images.place(image_id, known) is not None:
            return known
        try:
            self._uploads.commit(None, received.upload_id, received.link.digest, Content(b""))
            condition = version if self._driver.supports_if_match else None
            self._driver.put_content(path, received.link.dump(), if_match=condition)
        except PreconditionFailed:
            return None
        except (UploadUnknown, DigestInvalid):
            # The session is gone, and with it what had come.
            self._remove(received.path)
            return None
        return received.link

    def _discard(self, received: _Received) -> None:
        self._cancel(received.upload_id)
        self._remove(received.path)

    def _cancel(self, upload_id: str) -> None:
        try:
            self._uploads.cancel(None, upload_id)
        except UploadUnknown:
            pass

    def _remove(self, path: str) -> None:
        try:
            self._driver.remove(path)
        except PathNotFound:
            pass


def _parse(image_id: ImageId, payload: bytes) -> dict[str, Any]:
    try:
        document = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError):  # not UTF-8, not JSON, too deep, or a number beyond reason
        raise ImageInvalid from None
    if not isinstance(document, dict) or not document:
        raise ImageInvalid
    if "id" not in document:
        raise ImageInvalid("Missing key `id' in JSON")
    if document["id"] != str(image_id):
        raise ImageInvalid("JSON data contains invalid id")
    return document


def _hex(payload_sum: str) -> str:
    return payload_sum.rpartition(":")[2]
