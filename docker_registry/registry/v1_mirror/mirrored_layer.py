"""Layers of a mirrored registry of API V1, served while they are received, and stored once they are verified."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from docker_registry.errors import ImageInvalid, SizeInvalid, UpstreamError
from docker_registry.registry.ingest import Body
from docker_registry.registry.mirror.remotes import MIRROR
from docker_registry.registry.mirror.responses import UpstreamBlob
from docker_registry.registry.mirror.upstream_content import UpstreamContent
from docker_registry.registry.names import Digest
from docker_registry.registry.stored_file import ServedFile
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.pushes import ImagePushes
from docker_registry.registry.v1.sources import ImageQuery, SourceImage
from docker_registry.registry.v1_mirror.records import Records
from docker_registry.registry.v1_mirror.source_client import SourceClient, invalid

logger = logging.getLogger(__name__)


class MirroredLayer(UpstreamContent):
    """The layer of an image; with it, the image is stored."""

    def __init__(
        self,
        client: SourceClient,
        records: Records,
        images: Images,
        pushes: ImagePushes,
        query: ImageQuery,
        image: SourceImage,
        *,
        check: Callable[[], None],
    ) -> None:
        """
        Args:
            image: the image without its layer.
            check: raises UpstreamUnavailable if nothing may be fetched.
        """
        image_id = query.image_id
        # The source chooses the id, so it is hashed: else the work could be that of a blob or of another image. All
        # that is known of the layer is part of it, so that an abandoned transfer of another one is not continued.
        known = ("image", image_id, client.upstream.url, Digest.of(image.payload), image.size, *image.checksums)
        work = f"mirror-{Digest.of(' '.join(map(str, known)).encode()).hex[:40]}"
        detail = {"id": str(image_id)}
        super().__init__(client.upstream, work, detail, has_digest=False, is_verifiable=bool(image.checksums))
        self._client = client
        self._records = records
        self._images = images
        self._pushes = pushes
        self._query = query
        self._image = image
        self._check = check

    def find(self) -> ServedFile | None:
        """See :class:`UpstreamContent`."""
        return self.get() if self._is_complete() else None

    def is_stored(self) -> bool:
        """Return whether the image is in the store and came from the source; a client may have pushed another layer."""
        return self._is_complete() and self._records.is_stored(self._query.image_id)

    def get(self) -> ServedFile:
        """See :class:`UpstreamContent`."""
        return self._images.find_layer(self._query.image_id, principal=None)[1]

    def open(self, start: int, validator: str = "") -> UpstreamBlob | None:
        """See :class:`UpstreamContent`."""
        self._check()
        stream = self.open_part(start, validator=validator)
        if stream is None or self._image.size is None:
            return stream
        if stream.size not in (None, self._image.size):
            stream.close()
            raise UpstreamError("The mirrored registry sent a layer of another size than it stated.", **self.detail)
        stream.size = self._image.size
        return stream

    def open_part(self, start: int, end: int | None = None, validator: str = "") -> UpstreamBlob | None:
        """See :class:`UpstreamContent`."""
        return self._client.open_layer(self._query.image_id, self._query.repository, start, end, validator)

    def publish(self, body: Body) -> None:
        """See :class:`UpstreamContent`."""
        image_id, image = self._query.image_id, self._image
        try:
            layer = self._pushes.adopt(
                image_id,
                image.payload,
                image.ancestry,
                body,
                image.checksums,
                before_commit=partial(self._records.mark_stored, image_id),
                actor=MIRROR,
            )
        except (ImageInvalid, SizeInvalid) as error:
            self._records.discard_image(image_id)
            logger.warning("image %s of the mirrored registry is invalid: %s", image_id, error)
            what = "another layer than its checksums say" if image.checksums else "a layer that is not a whole archive"
            raise invalid(what, self._client) from None
        self._records.settle_stored(image_id)
        self._records.discard_image(image_id)
        if self._images.find_digest(image_id) != layer:
            raise UpstreamError("The image was pushed while it was received.", **self.detail)

    def _is_complete(self) -> bool:
        return self._images.is_complete(self._query.image_id, principal=None)
