"""
Migration of the raw layers that docker-registry 0.7 to 0.9 wrote to ``images/<id>/layer`` into blobs.

Each layer is verified, and its digest recorded with its image, before it is moved. So an interruption loses no layer,
and the next run continues. On stores with hard links nothing is copied, and the old path remains.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ImageUnfinished, ImageUnknown, PathNotFound, StorageError
from docker_registry.registry import layout, store_removal
from docker_registry.registry.actor import COMMAND_LINE, Actor
from docker_registry.registry.names import ImageId
from docker_registry.registry.stored_file import is_intact
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.layer_links import LayerLink

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Report:
    """
    The result of a run.

    Attributes:
        migrated: number of layers that became blobs, or would in a dry run.
        migrated_bytes: total size of these layers.
        shared: how many of these already existed as blobs; always 0 in a dry run.
        blobs: number of layers that were blobs before the run.
        unfinished: images with an unfinished push or a damaged layer; they must be pushed again.
        without_layer: images without a layer.
        failed: images for which the store failed, with the error message; the next run retries them.
    """

    migrated: int = 0
    migrated_bytes: int = 0
    shared: int = 0
    blobs: int = 0
    unfinished: list[str] = field(default_factory=list)
    without_layer: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Migration:
    """A migration run over all images."""

    def __init__(
        self, driver: StorageDriver, images: Images, *, dry_run: bool = False, actor: Actor = COMMAND_LINE
    ) -> None:
        """
        Args:
            dry_run: only report: read metadata files, but no layers, and do not migrate any.
        """
        self._driver = driver
        self._images = images
        self._dry_run = dry_run
        self._actor = actor
        self.report = Report()

    def run(self, report_progress: Callable[[int, int], object] = lambda _done, _of: None) -> Report:
        """
        Migrate the layers of all images.

        Args:
            report_progress: called after each image with the number of processed images and the total.
        """
        ids = self._ids()
        for done, image_id in enumerate(ids, 1):
            try:
                self._migrate(image_id)
            except ImageUnfinished:
                self.report.unfinished.append(str(image_id))
            except (ImageUnknown, PathNotFound):
                self.report.without_layer.append(str(image_id))
            except StorageError as error:
                logger.warning("image %s was not migrated: %s", image_id, error)
                self.report.failed[str(image_id)] = error.sentence
            report_progress(done, len(ids))
        return self.report

    def _ids(self) -> Sequence[ImageId]:
        try:
            paths = sorted(self._driver.list_directory(layout.IMAGES))
        except PathNotFound:
            return ()
        found = []
        for path in paths:
            try:
                found.append(ImageId.parse(path.rpartition("/")[2]))
            except ImageUnknown:  # not an image
                continue
        return found

    def _migrate(self, image_id: ImageId) -> None:
        raw = image_layout.layer(image_id)
        if self._dry_run and self._images.is_marked(image_id):
            raise ImageUnfinished(id=str(image_id))
        known = self._images.find_link(image_id, self._images.check_pushed(image_id))
        if known is not None and self._has_blob(known):
            if not self._dry_run and self._driver.exists(raw):
                self._drop_copy(raw, known)
            self.report.blobs += 1
            return
        if self._dry_run:
            size = self._driver.get_size(raw)
        else:
            link, _ = self._images.find_pushed_layer(image_id)
            self._settle(raw, link)
            size = link.size
            logger.debug("the layer of image %s was migrated by %s", image_id, self._actor)
        self.report.migrated += 1
        self.report.migrated_bytes += size

    def _settle(self, raw: str, link: LayerLink) -> None:
        """Link or move a verified layer to the path of its blob."""
        blob = layout.blob_data(link.digest)
        if self._has_blob(link):
            self.report.shared += 1
            self._drop_copy(raw, link)
        elif not self._driver.link(raw, blob):
            self._driver.move(raw, blob)
        self._driver.touch(blob)

    def _drop_copy(self, raw: str, link: LayerLink) -> None:
        """Deduplicate a layer that exists both raw and as a blob; repair a damaged blob from the raw layer first."""
        blob = layout.blob_data(link.digest)
        try:
            if self._driver.is_shared(raw) and self._driver.is_shared(blob):  # already hard links to each other
                return
            if not is_intact(self._driver, blob, link.digest):
                if not is_intact(self._driver, raw, link.digest):
                    raise ImageUnfinished(raw=raw)
                self._driver.repair(blob, self._driver.stream_read(raw))
            if not self._driver.link(blob, raw):
                store_removal.remove(self._driver, raw)
        except PathNotFound:  # no raw layer
            pass

    def _has_blob(self, link: LayerLink) -> bool:
        return self._driver.find_size(layout.blob_data(link.digest)) == link.size
