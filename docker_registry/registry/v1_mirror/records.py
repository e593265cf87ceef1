"""
Records of what a mirrored registry of API V1 has answered.

They are no files of repositories and images, because these have precedence over every source. Each begins with a line
of JSON; the answer follows as it was received::

    docker/registry/v2/_mirror/_v1/repositories/library+base/tags     {"checked": 1767225600.0}
    docker/registry/v2/_mirror/_v1/repositories/library+base/images   {"checked": 1767225600.0}
    docker/registry/v2/_mirror/_v1/images/<id>     {"ancestry": ["<id>", …], "size": 1024, "checksums": ["sha256:…"]}
    docker/registry/v2/_mirror/_v1/stored/<id>     {}
    docker/registry/v2/_mirror/_v1/removed/<id>    {"since": 1767225600.0, "layer": "sha256:…", "files": {"json": 512}}

The record of an image is removed when the image itself is in the store. The commit of the image then says where it came
from (:attr:`LayerLink.is_mirrored`). Its file below ``stored`` is written before the commit; the modification time says
when the image was last pulled. Earlier versions wrote an empty file, after a commit that did not say where the image
came from. The record of a removed image is followed by the content of its files, each with the stated size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from docker_registry.drivers.base import Stat, StorageDriver
from docker_registry.errors import DigestInvalid, ImageUnknown, NameInvalid, PathNotFound
from docker_registry.registry import layout, store_removal, stored_document
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName
from docker_registry.registry.v1.layer_links import LayerLink
from docker_registry.registry.v1.sources import SourceImage

_ROOT: Final = f"{layout.MIRROR}/_v1"
_REPOSITORIES: Final = f"{_ROOT}/repositories"
_STORED: Final = f"{_ROOT}/stored"
_REMOVED: Final = f"{_ROOT}/removed"

#: What a file below ``stored`` contains, unlike those of earlier versions.
_STORED_CONTENT: Final = b"{}\n"

ListKind = Literal["tags", "images"]


@dataclass(frozen=True, slots=True)
class ListRecord:
    """
    A list of a repository.

    Attributes:
        checked: when the source sent it, seconds since the Unix epoch.
    """

    payload: bytes
    checked: float


@dataclass(frozen=True, slots=True)
class RemovedImage:
    """
    An image that was removed, and can still be restored.

    Attributes:
        since: when it was removed, seconds since the Unix epoch.
        layer: the digest of its layer.
        files: the content of its other files by their names.
    """

    since: float
    layer: Digest
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """
    An image that is listed as having come from a mirrored registry.

    Attributes:
        path: the file that lists it.
        pulled: when it was last pulled, seconds since the Unix epoch.
        is_certain: whether the list alone proves that it came from there. Earlier versions did not record this in the
            commit.
    """

    image_id: ImageId
    path: str
    pulled: float
    is_certain: bool

    def has_commit(self, link: LayerLink | None) -> bool:
        """Return whether a commit is that of the image as it came from the mirrored registry, not of a push."""
        return link is not None and (self.is_certain or link.is_mirrored)


class Records:
    """The records of a mirrored registry."""

    def __init__(self, driver: StorageDriver, find_committed: Callable[[ImageId], LayerLink | None]) -> None:
        """
        Args:
            find_committed: returns the committed layer of an image in the store.
        """
        self._driver = driver
        self._find_committed = find_committed

    def find_list(self, name: ImageRepositoryName, kind: ListKind) -> ListRecord | None:
        """Return a list of a repository; None if there is none, or it is damaged."""
        head, payload = self._read(_list_path(name, kind))
        try:
            return ListRecord(payload, float(head["checked"]))
        except (KeyError, TypeError, ValueError):
            return None

    def put_list(self, name: ImageRepositoryName, kind: ListKind, record: ListRecord) -> None:
        """Store a list of a repository."""
        self._write(_list_path(name, kind), {"checked": record.checked}, record.payload)

    def discard_lists(self, name: ImageRepositoryName) -> bool:
        """Remove the lists of a repository; return whether there were any."""
        return store_removal.remove(self._driver, _repository(name))

    def find_image(self, image_id: ImageId) -> SourceImage | None:
        """Return an image without its layer; None if there is no record, or it is damaged."""
        head, payload = self._read(_image_path(image_id))
        try:
            size = None if head["size"] is None else int(head["size"])
            return SourceImage(payload, tuple(map(str, head["ancestry"])), size, tuple(map(str, head["checksums"])))
        except (KeyError, TypeError, ValueError):
            return None

    def put_image(self, image_id: ImageId, image: SourceImage) -> None:
        """Store an image without its layer."""
        head = {"ancestry": image.ancestry, "size": image.size, "checksums": image.checksums}
        self._write(_image_path(image_id), head, image.payload)

    def discard_image(self, image_id: ImageId) -> None:
        """Remove the record of an image."""
        store_removal.remove(self._driver, _image_path(image_id))

    def mark_stored(self, image_id: ImageId) -> None:
        """List an image that is about to be committed as one that came from the mirrored registry."""
        self._driver.put_content(self.stored_path(image_id), _STORED_CONTENT)

    def forget_stored(self, image_id: ImageId) -> None:
        """Remove what :meth:`mark_stored` recorded."""
        store_removal.remove(self._driver, self.stored_path(image_id))

    def settle_stored(self, image_id: ImageId) -> None:
        """List a committed image if it came from the mirrored registry; remove it from the list if it was pushed."""
        listed, link = self.find_stored(image_id), self._find_committed(image_id)
        if listed is None and link is not None and link.is_mirrored:  # forgotten while it was being committed
            self.mark_stored(image_id)
        elif listed is not None and link is not None and not listed.has_commit(link):
            self.forget_stored(image_id)

    def is_stored(self, image_id: ImageId) -> bool:
        """Return whether an image in the store came from the mirrored registry."""
        listed = self.find_stored(image_id)
        return listed is not None and listed.has_commit(self._find_committed(image_id))

    def find_stored(self, image_id: ImageId) -> StoredImage | None:
        """Return an image that is listed as having come from the mirrored registry; None if it is not."""
        try:
            return _stored_image(image_id, self._driver.stat(self.stored_path(image_id)))
        except PathNotFound:
            return None

    def stored(self) -> Iterator[StoredImage]:
        """Yield the images that are listed as having come from the mirrored registry."""
        for file in self._driver.walk(_STORED):
            image_id = _parse_id(file.path)
            if image_id is not None:
                yield _stored_image(image_id, file)

    def stored_path(self, image_id: ImageId) -> str:
        """Return the path of the file that says that an image came from the mirrored registry."""
        return f"{_STORED}/{image_id}"

    def repositories(self) -> Iterator[ImageRepositoryName]:
        """Yield the repositories of which there are lists."""
        for path in self._list(_REPOSITORIES):
            try:
                yield ImageRepositoryName.parse(path.rpartition("/")[2].replace("+", "/"))
            except NameInvalid:
                continue

    def put_removed(self, image_id: ImageId, removed: RemovedImage) -> None:
        """Record an image that will be removed, before its first file is."""
        sizes = {name: len(content) for name, content in removed.files.items()}
        head = {"since": removed.since, "layer": str(removed.layer), "files": sizes}
        self._write(_removed_path(image_id), head, b"".join(removed.files.values()))

    def removed(self) -> Iterator[ImageId]:
        """Yield the images that were removed and can still be restored."""
        yield from filter(None, map(_parse_id, self._list(_REMOVED)))

    def find_removed(self, image_id: ImageId) -> RemovedImage | None:
        """Return a removed image; None if there is no record, or it is damaged."""
        head, payload = self._read(_removed_path(image_id))
        try:
            files, start = {}, 0
            for name, size in head["files"].items():
                files[str(name)] = payload[start : start + size]
                start += size
            is_whole = start == len(payload)
            return RemovedImage(float(head["since"]), Digest.parse(head["layer"]), files) if is_whole else None
        except (KeyError, TypeError, ValueError, AttributeError, DigestInvalid):
            return None

    def discard_removed(self, image_id: ImageId) -> None:
        """Remove the record of a removed image."""
        store_removal.remove(self._driver, _removed_path(image_id))

    # ------------------------------------------------------------------------------------------------- steps

    def _list(self, folder: str) -> list[str]:
        try:
            return list(self._driver.list_directory(folder))
        except PathNotFound:
            return []

    def _read(self, path: str) -> tuple[dict[str, Any], bytes]:
        head, _, payload = (self._driver.find(path) or b"").partition(b"\n")
        try:
            document = stored_document.parse(head)
        except ValueError:
            return {}, b""
        return document if isinstance(document, dict) else {}, payload

    def _write(self, path: str, head: dict[str, Any], payload: bytes) -> None:
        self._driver.put_content(path, json.dumps(head).encode() + b"\n" + payload)


def _stored_image(image_id: ImageId, file: Stat) -> StoredImage:
    return StoredImage(image_id, file.path, file.modified, is_certain=not file.size)


def _repository(name: ImageRepositoryName) -> str:
    return f"{_REPOSITORIES}/{layout.flat_name(name)}"


def _list_path(name: ImageRepositoryName, kind: ListKind) -> str:
    return f"{_repository(name)}/{kind}"


def _removed_path(image_id: ImageId) -> str:
    return f"{_REMOVED}/{image_id}"


def _parse_id(path: str) -> ImageId | None:
    try:
        return ImageId.parse(path.rpartition("/")[2])
    except ImageUnknown:
        return None


def _image_path(image_id: ImageId) -> str:
    return f"{_ROOT}/images/{image_id}"
