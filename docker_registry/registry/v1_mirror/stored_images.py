"""
The images in the store that came from a mirrored registry of API V1: when they were last pulled, and their removal.

A push may have found an image just before it is removed, and refer to it: by a tag, a list, or as the parent of another
image. So its files are replaced by a record of them. When such requests have ended, the files are written again if
pushed content needs the image by then. Its layer is removed by
:class:`~docker_registry.registry.reclamation.Reclamation`, which has this step taken first.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Final

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import ImageUnfinished, ImageUnknown, PathNotFound, PreconditionFailed
from docker_registry.registry import layout, store_removal
from docker_registry.registry.actor import Actor
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.mirror import purging
from docker_registry.registry.mirror.eviction import EvictableImage
from docker_registry.registry.mirror.purging import Purged
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, Tag
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.registry.v1.legacy_registry import LegacyRegistry
from docker_registry.registry.v1_mirror import answers
from docker_registry.registry.v1_mirror.records import Records, RemovedImage, StoredImage

logger = logging.getLogger(__name__)

#: Time after which the requests that had found an image have ended; less than until Reclamation removes bytes.
SETTLE_SECONDS: Final = 120.0

#: Time after which a push or fetch that has committed its image, but did not end, is completed.
_ABANDONED_SECONDS: Final = 3600.0

#: Memory for the parents of pushed images, which are read one by one.
_PARENTS_BYTES: Final = 8 * 1024 * 1024
_ID_BYTES: Final = 128

#: Files in the folder of an image that belong to a push in progress, and the link that commits it.
_OF_PUSHES: Final = frozenset({"_inprogress", "_pending", "_received", "_blob"})

#: What reading a list of another structure raises.
_UNREADABLE: Final = (ValueError, RecursionError)


class StoredImages:
    """The images of one mirrored registry that are in the store."""

    def __init__(
        self, registry: OciRegistry, legacy: LegacyRegistry, records: Records, now: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            now: the clock, seconds since the Unix epoch.
        """
        self._registry = registry
        self._driver: StorageDriver = registry.driver
        self._removed = registry.blobs.removed
        self._slices = registry.slices
        self._json_budget = registry.json_budget
        self._legacy = legacy
        self._records = records
        self._now = now
        self._layers: dict[ImageId, Digest] = {}
        self._parents: BoundedCache[tuple[str, float], str] = BoundedCache(_PARENTS_BYTES, lambda _: _ID_BYTES)
        registry.reclamation.first_steps.append(self.settle)

    def all(self) -> Iterator[EvictableImage]:
        """Yield all images."""
        layers = {}
        for listed in self._slices.pace(self._records.stored()):
            layer = self._layers.get(listed.image_id) or self._find_layer(listed)
            if layer is not None:
                layers[listed.image_id] = layer
                yield EvictableImage(listed.image_id, layer, listed.path, listed.pulled)
        self._layers = layers

    def path(self, image_id: ImageId) -> str:
        """Return the path of the file whose modification time is the time of the last pull of an image."""
        return self._records.stored_path(image_id)

    def needed(self, ids: Collection[str]) -> set[str]:
        """
        Return those of some images that pushed content needs: tags, lists, and images whose ancestors they are.

        Reads the names of the files of all images, and the tags and lists of all repositories of API V1.
        """
        listed = self._slices.pace(self._records.stored())
        mirrored = {str(each.image_id) for each in listed if not self._is_pushed(each)}.union(ids)
        found = {text for text in self._slices.pace(self._named_by_pushes(mirrored)) if text in mirrored}
        for text in self._slices.pace(list(found)):
            found.update(self._ancestry(ImageId(text)))
        return found.intersection(ids)

    def evict(self, image: EvictableImage, *, actor: Actor) -> bool:
        """Remove an image; return False if it is being fetched, was pushed, or was removed by another process."""
        image_id = image.image_id
        folder, link = image_layout.image(image_id), image_layout.blob_link(image_id)
        if not self._is_finished(image_id):
            return False
        others = (image_layout.ancestry(image_id), image_layout.image_json(image_id), image_layout.checksum(image_id))
        # The link is read last and removed first: as long as it is there, the other files are too.
        contents = {path.removeprefix(f"{folder}/"): self._driver.find(path) for path in (*others, link)}
        files = {name: content for name, content in contents.items() if content is not None}
        if len(files) < len(contents):
            return False
        listed, committed = self._records.find_stored(image_id), files[link.removeprefix(f"{folder}/")]
        layer = _read_link(committed)
        if listed is None or layer is None or not listed.has_commit(layer):  # pushed since the images were listed
            return False
        files[link.removeprefix(f"{folder}/")] = replace(layer, is_mirrored=True).dump()
        self._removed.add(image.layer)
        self._records.put_removed(image_id, RemovedImage(self._now(), image.layer, files))
        if store_removal.take_if(self._driver, link, lambda content: content == committed) is None:
            return False
        self._discard_files(image_id)
        logger.debug("image %s was removed by %s", image_id, actor)
        return True

    def settle(self) -> None:
        """Restore the images that pushed content needs, of those that were removed some time ago; forget the others."""
        due = {}
        for image_id in self._records.removed():
            removed = self._records.find_removed(image_id)
            if removed is None or self._now() - removed.since >= SETTLE_SECONDS:
                due[image_id] = removed
        needed = self.needed({str(image_id) for image_id in due}) if due else set()
        for image_id, removed in due.items():
            if removed is not None and (self._is_back(image_id, removed) or str(image_id) in needed):
                self._restore(image_id, removed)
            elif self._legacy.images.find_digest(image_id) is None:  # perhaps a process died while it removed the files
                self._discard_files(image_id)
                if removed is not None and self._is_back(image_id, removed):  # it was fetched just now
                    self._restore(image_id, removed)
            self._records.discard_removed(image_id)

    def repositories(self) -> set[ImageRepositoryName]:
        """Return the repositories of the mirrored registry of which something is known."""
        return set(self._records.repositories())

    def purge(self, names: Collection[ImageRepositoryName], *, actor: Actor) -> dict[ImageRepositoryName, Purged]:
        """
        Remove the images of some repositories, except those that others of the mirrored registry or pushed ones have.

        Images that no repository lists any more are removed with those of the first one.
        """
        listed = {name: self._listed(name) for name in self.repositories()}
        stored = {str(image.image_id): image for image in self.all()}
        kept = set[str]().union(*(ids for name, ids in listed.items() if name not in names))
        kept |= self.needed(stored.keys() - kept)
        unlisted = stored.keys() - set[str]().union(*listed.values())
        layers = {}
        for name in names:
            images = (stored.pop(text, None) for text in (listed.get(name, set()) | unlisted) - kept)
            removed = (each for each in self._slices.pace(images) if each and self.evict(each, actor=actor))
            layers[name] = frozenset(image.layer for image in removed)
            self._records.discard_lists(name)
        return purging.measure(self._registry, layers)

    # ------------------------------------------------------------------------------------------------- steps

    def _find_layer(self, listed: StoredImage) -> Digest | None:
        """Return the layer of an image; None if the image is not in the store, or a client has pushed it."""
        link = self._legacy.images.find_committed(listed.image_id)
        return link.digest if link is not None and listed.has_commit(link) else None

    def _is_finished(self, image_id: ImageId) -> bool:
        """Return whether no push or fetch of an image is in progress, after completing one whose process has died."""
        try:
            since = self._driver.stat(image_layout.in_progress(image_id)).modified
            if self._now() - since < _ABANDONED_SECONDS:
                return False
            self._legacy.images.check(image_id, principal=None)
        except PathNotFound:
            return True
        except (ImageUnknown, ImageUnfinished):
            return False
        return not self._driver.exists(image_layout.in_progress(image_id))

    def _is_pushed(self, listed: StoredImage) -> bool:
        """Return whether a client has pushed an image that is listed because it was being fetched meanwhile."""
        if listed.is_certain or listed.image_id in self._layers:
            return False
        link = self._legacy.images.find_committed(listed.image_id)
        return link is not None and not listed.has_commit(link)

    def _named_by_pushes(self, mirrored: Collection[str]) -> Iterator[str]:
        """Yield the images that tags, lists, images that are not *mirrored*, and pushes in progress name."""
        fetched = {str(image_id) for image_id in self._layers}  # a process may have died before it ended the fetch
        for file in self._driver.walk(layout.IMAGES):
            text, _, name = file.path.removeprefix(f"{layout.IMAGES}/").partition("/")
            if name == "ancestry" and text not in mirrored:
                yield self._parent(file.path, file.modified)
            elif name.startswith("_pending/") and text not in fetched:
                yield from _read_ids((self._driver.find(file.path) or b"").partition(b"\n")[0])
        repositories, tags = self._legacy.image_repositories, self._legacy.tag_files
        for repository in repositories.names():
            yield from repositories.image_ids(repository)
            yield from (str(tags.find(repository, Tag(tag))) for tag in tags.names(repository))

    def _parent(self, path: str, modified: float) -> str:
        """Return the parent of a pushed image, whose own file names the next ancestor; empty if it has none."""
        parent = self._parents.get((path, modified))
        if parent is None:
            parent = next(iter(_read_ids(self._driver.find(path) or b"")[1:2]), "")
            self._parents.put((path, modified), parent)
        return parent

    def _ancestry(self, image_id: ImageId) -> Iterable[str]:
        removed = self._records.find_removed(image_id)
        content = self._driver.find(image_layout.ancestry(image_id))
        return _read_ids(content or (b"" if removed is None else removed.files.get("ancestry", b"")))

    def _listed(self, name: ImageRepositoryName) -> set[str]:
        """Return the images that the mirrored registry lists in a repository, and their ancestors."""
        tags, images = self._records.find_list(name, "tags"), self._records.find_list(name, "images")
        ids = set[str]()
        try:
            if tags is not None:
                ids.update(answers.read_tags(tags.payload, self._json_budget).values())
            if images is not None:
                ids.update(image_id for image_id, _ in answers.read_images(images.payload, self._json_budget))
        except _UNREADABLE:
            logger.warning("the lists of the mirrored repository %s are damaged", name)
        return ids.union(*(self._ancestry(ImageId(text)) for text in self._slices.pace(ids)))

    def _discard_files(self, image_id: ImageId) -> None:
        """Remove the files of an image without its link, except those of pushes."""
        self._records.forget_stored(image_id)
        try:
            paths = list(self._driver.list_directory(image_layout.image(image_id)))
        except PathNotFound:
            return
        for path in paths:
            if path.rpartition("/")[2] not in _OF_PUSHES:
                store_removal.remove(self._driver, path)

    def _is_back(self, image_id: ImageId, removed: RemovedImage) -> bool:
        """Return whether an image was pushed or fetched again, perhaps while its files were being removed."""
        return self._legacy.images.find_link(image_id, removed.files.get("json", b"")) is not None

    def _restore(self, image_id: ImageId, removed: RemovedImage) -> None:
        """Write the files of an image that are missing."""
        if not self._is_back(image_id, removed):
            logger.info("image %s was needed by a push while it was being removed, and stays", image_id)
            self._records.mark_stored(image_id)
        self._records.settle_stored(image_id)
        self._removed.restore(removed.layer)
        condition = ABSENT if self._driver.capabilities.if_match else None
        for name, content in removed.files.items():  # the link is the last one
            path = f"{image_layout.image(image_id)}/{name}"
            try:
                if not self._driver.exists(path):
                    self._driver.put_content(path, content, if_match=condition)
            except PreconditionFailed:
                continue


def _read_link(content: bytes) -> LayerLink | None:
    """Return the layer in a commit; None if the commit is damaged."""
    try:
        return LayerLink.parse(content)
    except ValueError:
        return None


def _read_ids(content: bytes) -> list[str]:
    """Return the ids in a stored ancestry; none if it is damaged."""
    try:
        ids = json.loads(content)
    except ValueError:
        return []
    return [text for text in ids if isinstance(text, str)] if isinstance(ids, list) else []
