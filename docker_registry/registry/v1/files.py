"""
The file list of a V1 image, and its difference from its ancestors.

Both are computed once and stored beside the image (:mod:`~docker_registry.registry.v1.stored_results`), as are
rejections. A list is computed on the first request. A diff needs the lists of all ancestors: if there is a queue,
workers compute it; otherwise it is computed during the request, unless the layers are too large.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol

from docker_registry.concurrency import KeyedLocks
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import DiffUnavailable
from docker_registry.registry.actor import ANONYMOUS, Principal
from docker_registry.registry.layers.file_lists import TRAILER_BYTES, read_trailer
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.layer_reader import LayerReader
from docker_registry.registry.v1.stored_results import Answer, StoredResults

#: Maximum stored bytes of layers that are read for a diff during a request.
MAX_DIFF_BYTES: Final = 1024**3


class DiffQueue(Protocol):
    """The queue of images whose diff must be computed."""

    def push(self, image_id: ImageId) -> None:
        """Add an image; must not raise if the queue is unreachable."""


class ImageFiles:
    """File lists and diffs of all images; what *principal* means is described at :class:`Images`."""

    def __init__(
        self,
        driver: StorageDriver,
        images: Images,
        reader: LayerReader,
        *,
        queue: DiffQueue | None = None,
        max_diff_bytes: int = MAX_DIFF_BYTES,
    ) -> None:
        """
        Args:
            queue: the queue that workers process; None if there are no workers.
            max_diff_bytes: the maximum stored bytes of layers that are read for a diff without a queue.
        """
        self._images = images
        self._reader = reader
        self._results = StoredResults(driver, reader.rules)
        self._queue = queue
        self._max_diff_bytes = max_diff_bytes
        self._locks = KeyedLocks()

    def files(self, image_id: ImageId, *, principal: Principal | None = ANONYMOUS) -> Answer:
        """
        Return the file list of an image as JSON.

        Raises:
            ImageUnknown, ImageUnfinished: as for :meth:`Images.find_layer`.
            LayerFormatUnsupported: the layer is not a tar in a supported compression, or is damaged.
            TooLarge: the layer exceeds a limit.
            Overloaded: too many layers are being read.
        """
        record = self._record(image_id, principal)
        return record.head(read_trailer(record.tail(TRAILER_BYTES)))

    def diff(self, image_id: ImageId, *, principal: Principal | None = ANONYMOUS) -> Answer | None:
        """
        Return the difference between an image and its ancestors as JSON; None if it was queued for computation.

        Raises:
            DiffUnavailable: there is no queue, and the layers to read exceed *max_diff_bytes*.
            ImageUnknown, ImageUnfinished, LayerFormatUnsupported, TooLarge, Overloaded: as for :meth:`files`.
        """
        known = self._known_diff(image_id, principal)
        if known is not None:
            return known
        if self._queue is not None:
            self._queue.push(image_id)
            return None
        chain = self._chain(image_id, principal)
        unread = sum(
            self._images.find_stored_layer(each, principal=principal)[1].size
            for each in chain
            if self._known_record(each, principal) is None
        )
        if unread > self._max_diff_bytes:
            raise DiffUnavailable(bytes=unread, max_bytes=self._max_diff_bytes)
        return self.compute_diff(image_id, principal=principal)

    def request_diff(self, image_id: ImageId) -> None:
        """Queue the diff of an image before it is requested; do nothing without a queue."""
        if self._queue is not None:
            self._queue.push(image_id)

    def compute_diff(self, image_id: ImageId, *, principal: Principal | None = None) -> Answer:
        """
        Compute and store the difference between an image and its ancestors.

        Raises:
            ImageUnknown, ImageUnfinished, LayerFormatUnsupported, TooLarge, Overloaded: as for :meth:`files`.
        """
        with self._locks.hold(("diff", image_id)):
            known = self._known_diff(image_id, principal)
            if known is not None:
                return known
            # Without their contents, which are read one by one: those of thousands of ancestors do not fit into memory.
            chain = self._chain(image_id, principal)
            records = [replace(self._record(ancestor, principal), content=None) for ancestor in chain]
            return self._results.put(
                image_layout.changes(self._images.folder(image_id)),
                self._digest(image_id, principal),
                lambda: self._reader.diff(record.read() for record in records),
            )

    # ------------------------------------------------------------------------------------------------- steps

    def _chain(self, image_id: ImageId, principal: Principal | None) -> list[ImageId]:
        self._images.check(image_id, principal=principal)
        return [ImageId.parse(ancestor) for ancestor in self._images.ancestry(image_id, principal=principal)]

    def _digest(self, image_id: ImageId, principal: Principal | None) -> Digest:
        return self._images.find_stored_layer(image_id, principal=principal)[0].digest

    def _record(self, image_id: ImageId, principal: Principal | None) -> Answer:
        """Return the record of an image's files (:class:`~docker_registry.registry.layers.file_lists.FileList`)."""
        known = self._known_record(image_id, principal)
        if known is not None:
            return known
        with self._locks.hold(("files", image_id)):
            known = self._known_record(image_id, principal)
            if known is not None:
                return known
            link, file = self._images.find_stored_layer(image_id, principal=principal)
            path = image_layout.file_list(self._images.folder(image_id))
            return self._results.put(path, link.digest, lambda: self._reader.list(file.read()))

    def _known_record(self, image_id: ImageId, principal: Principal | None) -> Answer | None:
        path, digest = image_layout.file_list(self._images.folder(image_id)), self._digest(image_id, principal)
        record = self._results.find(path, digest)
        if record is None:
            return None
        try:
            read_trailer(record.tail(TRAILER_BYTES))
        except ValueError:  # written by an earlier release or by other software
            self._results.check_refusal(path, digest)
            return None
        return record

    def _known_diff(self, image_id: ImageId, principal: Principal | None) -> Answer | None:
        return self._results.find(
            image_layout.changes(self._images.folder(image_id)), self._digest(image_id, principal)
        )
