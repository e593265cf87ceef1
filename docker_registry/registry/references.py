"""References to blobs: the links of repositories, and the images of API V1."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from typing import Final

from docker_registry.drivers.base import Stat, StorageDriver
from docker_registry.errors import DigestInvalid, PathNotFound
from docker_registry.registry import layout
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.repositories import Repositories
from docker_registry.resources.time_slices import TimeSlices

#: Memory for the layers of images of API V1, which are read one by one.
_LAYERS_BYTES: Final = 8 * 1024 * 1024


class References:
    """Finds out which blobs of a store are in use. Reads the whole store, in time slices."""

    def __init__(self, driver: StorageDriver, repositories: Repositories, slices: TimeSlices) -> None:
        self._driver = driver
        self._repositories = repositories
        self._slices = slices
        self._layers: BoundedCache[tuple[str, float], Digest] = BoundedCache(_LAYERS_BYTES)

    def among(
        self,
        digests: Collection[Digest],
        counts: Callable[[str], bool] = bool,
        counts_image: Callable[[str], bool] | None = None,
    ) -> set[Digest]:
        """
        Return those of some blobs and manifests that are in use.

        Args:
            counts: whether the links of a repository count, by its name.
            counts_image: whether the layer of an image of API V1 counts, by the id of the image; None if all do, and
                hard links, which images may have to their layers, count too.
        """
        wanted = set(self._slices.pace(digests))
        algorithms = {digest.algorithm for digest in self._slices.pace(wanted)}
        linked = self._slices.pace(wanted) if counts_image is None else ()
        found = {digest for digest in linked if self._driver.is_shared(layout.blob_data(digest))}
        for name in self._slices.pace(self._repositories.folders()):
            if not counts(str(name)):
                continue
            for algorithm in algorithms:
                for link in self._links(name, algorithm):
                    digest = layout.read_link(link)
                    if digest in wanted and digest not in found and self._driver.exists(link):
                        found.add(digest)
        if found != wanted:
            found.update(wanted.intersection(self._layers_of_images(counts_image or bool)))
        return found

    def links_of(self, name: RepositoryName) -> Iterator[tuple[Digest, Stat]]:
        """Yield the digest of each blob and manifest of a repository, and the file that links to it."""
        for folder in (layout.layers(name), layout.revisions(name)):
            for file in self._slices.pace(self._driver.walk(folder)):
                digest = layout.read_link(file.path)
                if digest is not None:
                    yield digest, file

    def _links(self, name: RepositoryName, algorithm: str) -> Iterator[str]:
        """Yield the paths of possible links of a repository."""
        for folder in (layout.layers(name), layout.revisions(name)):
            try:
                children = self._driver.list_directory(f"{folder}/{algorithm}")
                yield from (f"{child}/link" for child in self._slices.pace(children))
            except PathNotFound:
                continue

    def _layers_of_images(self, counts: Callable[[str], bool]) -> Iterator[Digest]:
        """Yield the layers of those images of API V1 that count, by their ids."""
        for file in self._slices.pace(self._driver.walk(layout.IMAGES)):
            folder = file.path.rpartition("/")[0]
            if file.path != layout.image_layer_link(folder) or not counts(folder.rpartition("/")[2]):
                continue
            key = file.path, file.modified
            digest = self._layers.get(key)
            if digest is None:
                digest = _layer(self._driver.find(file.path) or b"")
                if digest is None:
                    continue
                self._layers.put(key, digest)
            yield digest


def _layer(link: bytes) -> Digest | None:
    """Return the digest in the link from an image to its layer; None if the link is damaged."""
    try:
        return Digest.parse(json.loads(link)["digest"])
    except (ValueError, KeyError, TypeError, AttributeError, DigestInvalid):
        return None
