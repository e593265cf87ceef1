"""
Images of a mirrored registry that speaks only API V2, as clients of API V1 see them.

Manifests and blobs are pulled through as for clients of API V2, into the repositories that mirror the registry; the
bridge derives the images of API V1 from them. The id of a tag's image follows from its manifest and configuration, so
a list of all tags would cost several requests for each: it has a limited number of them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from docker_registry.concurrency import run_concurrently
from docker_registry.errors import (
    BlobUnknown,
    ImageTagUnknown,
    ImageUnknown,
    ManifestUnknown,
    UpstreamError,
    UpstreamUnavailable,
)
from docker_registry.registry import layout
from docker_registry.registry.bridge.derived_images import DerivedImages
from docker_registry.registry.bridge.image_sources import PartMissing
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag, is_repository_name
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.read_only import ReadOnly
from docker_registry.registry.sources import NOTHING_FETCHED, Found, Origin
from docker_registry.registry.stored_file import ServedFile
from docker_registry.registry.v1.sources import ImageQuery, Permitted, SourceImage
from docker_registry.registry.v1.tag_json import LATEST
from docker_registry.registry.v1_mirror.bridged_layer import BridgedLayer

logger = logging.getLogger(__name__)

#: Tags in a list of tags: those that are known, `latest`, and the first others up to this number.
MAX_TAGS: Final = 50

#: Missing parts of one image that are fetched: manifests of nested indexes and the configuration.
_MAX_PARTS: Final = 8

#: Tags in the first page of the registry's list.
_PAGE: Final = 1000


class BridgedImages:
    """A :class:`~docker_registry.registry.v1.sources.V1Source` of one upstream of the mirror."""

    def __init__(self, registry: OciRegistry, derived: DerivedImages, upstream: str, read_only: ReadOnly) -> None:
        """
        Args:
            registry: mirrors the upstream for clients of API V2.
            derived: the images that the bridge derives.
            upstream: name of the upstream.
            read_only: while writes are refused, nothing is fetched.
        """
        self._read_only = read_only
        self._registry = registry
        self._derived = derived
        self._prefix = f"{upstream}/"

    def tags(self, name: ImageRepositoryName, permitted: Permitted | None = None) -> Found[Mapping[str, str]] | None:
        """
        Return tags of a repository with the ids of their images; None when there is no such repository.

        Tags without an image of API V1 are left out.

        Args:
            permitted: restricts the repositories of API V2; None for all.

        Raises:
            UpstreamError: the upstream cannot be asked and no tag is known, or it denies access.
        """
        repository = self._repository(name, permitted)
        names = None if repository is None else self._tag_names(repository)
        if repository is None or names is None:
            return None
        tags = dict[str, str]()
        looked_up = run_concurrently(*(partial(self._find, repository, Tag(text)) for text in names))
        for text, found in zip(names, looked_up, strict=True):
            if isinstance(found, UpstreamError) and not tags:
                raise found
            if isinstance(found, Found):
                tags[text] = str(found.value)
        return Found(tags, Origin(expires=time.monotonic()))

    def tag(self, name: ImageRepositoryName, tag: Tag, permitted: Permitted | None = None) -> Found[ImageId] | None:
        """
        Return the image that a tag points at; None when there is no such tag.

        Raises:
            ImageTagUnknown: V1 cannot represent the target of the tag; the message gives the reason.
            UpstreamError: as for :meth:`tags`.
        """
        repository = self._repository(name, permitted)
        return None if repository is None else self._look_up(repository, tag)

    def images(self, name: ImageRepositoryName, permitted: Permitted | None = None) -> Found[bytes] | None:
        """
        Return the list of the images that were requested by their tags; None when there is no such repository.

        Raises:
            UpstreamError: as for :meth:`tags`.
        """
        repository = self._repository(name, permitted)
        if repository is None or self._tag_names(repository) is None:
            return None
        ids = dict[str, None]()
        for text in self._registry.tags.names(repository)[:MAX_TAGS]:
            digest = self._registry.tags.find(repository, Tag(text))
            try:
                if digest is not None:
                    ids[str(self._derived.top(repository, digest))] = None
            except ImageUnknown:  # no image of API V1, or not pulled by it yet
                continue
        return Found(json.dumps([{"id": image_id} for image_id in ids]).encode(), Origin(expires=time.monotonic()))

    def image(self, query: ImageQuery) -> Found[SourceImage] | None:
        """Return an image without its layer; None when no tag was requested that has it."""
        ancestry = self._derived.ancestry(query.image_id, query.permitted)
        for name, source in self._derived.permitted_sources(query.image_id, query.permitted):
            if ancestry is not None and str(name).startswith(self._prefix):
                payload = source.chain.payload(source.chain.ids.index(query.image_id))
                return Found(SourceImage(payload, ancestry), Origin(expires=time.monotonic()))
        return None

    def fetch(self, query: ImageQuery) -> bool:
        """
        Store the layer of an image; return False when the upstream does not have it.

        Raises:
            UpstreamError: the upstream cannot be asked, or its layer has another digest.
            UpstreamUnavailable: the registry is read-only and does not have the layer.
        """
        for name, source in self._derived.permitted_sources(query.image_id, query.permitted):
            if not str(name).startswith(self._prefix):
                continue
            position = source.chain.ids.index(query.image_id)
            try:
                if source.layers:
                    layer = source.layers[position]
                    self._check_fetchable(partial(self._has_link, name, layer))
                    self._registry.blobs.fetch(name, layer)
                return True
            except BlobUnknown:
                continue
        return False

    def arriving_size(self, query: ImageQuery) -> int | None:
        """Return the size of the layer of an image that is being received; see :meth:`layer`."""
        arriving = self._arriving(query)
        return arriving.value.size if arriving is not None and arriving.value.is_readable() else None

    def layer(self, query: ImageQuery) -> Found[ServedFile] | None:
        """
        Return the layer of an image; None when the upstream does not have it.

        It is served while it is received, unless clients of API V1 need it uncompressed.

        Raises:
            UpstreamError: as for :meth:`fetch`.
            Overloaded: too many layers are being verified.
        """
        arriving = self._arriving(query)
        if arriving is not None and arriving.value.is_readable():
            return Found(arriving.value, arriving.origin)
        image = self._derived.find(query.image_id, query.permitted) if self.fetch(query) else None
        stored = None if image is None else self._derived.stored_file(query.image_id, image)
        if image is None or stored is None:
            return None
        return Found(self._derived.sent_file(image, stored), Origin(expires=time.monotonic()))

    # ------------------------------------------------------------------------------------------------- steps

    def _arriving(self, query: ImageQuery) -> Found[BridgedLayer] | None:
        """Return the layer of an image that is being received; None if it is here, or the upstream does not have it."""
        for name, source in self._derived.permitted_sources(query.image_id, query.permitted):
            if not str(name).startswith(self._prefix) or not source.layers:
                continue
            layer = source.layers[source.chain.ids.index(query.image_id)]
            self._check_fetchable(partial(self._has_link, name, layer))
            try:
                blob = self._registry.blobs.get_readable(name, layer)
            except BlobUnknown:
                continue
            if blob.file is None or blob.is_passed_on:
                return None
            file = BridgedLayer(blob.file, partial(self._verified, query, name, layer))
            return Found(file, blob.origin or Origin(expires=time.monotonic()))
        return None

    def _verified(self, query: ImageQuery, name: RepositoryName, layer: Digest) -> ServedFile:
        """
        Return a layer that has been received, when it is in the store.

        Raises:
            UpstreamError: it is not the layer of the image.
        """
        self._registry.blobs.fetch(name, layer)
        image = self._derived.find(query.image_id, query.permitted)
        stored = None if image is None else self._derived.stored_file(query.image_id, image)
        if image is None or stored is None or image.link.digest != layer:
            raise UpstreamError(
                "The layer of the upstream registry is not that of the image.",
                id=str(query.image_id),
                digest=str(layer),
            )
        return stored

    def _repository(self, name: ImageRepositoryName, permitted: Permitted | None) -> RepositoryName | None:
        """Return the repository that mirrors the one that a client means; None if there can be none for it."""
        text = f"{self._prefix}{name}"
        repository = RepositoryName(text) if is_repository_name(text) else None
        return repository if repository is not None and (permitted is None or permitted(repository)) else None

    def _tag_names(self, repository: RepositoryName) -> list[str] | None:
        """Return the tags to list; None when there is no such repository."""
        known = self._registry.tags.names(repository)
        page = self._registry.tags.sources.page(repository, _PAGE)
        if page is None and not known:
            return None
        others = () if page is None else page.names
        first = [LATEST.value] if LATEST.value in others else []
        return list(dict.fromkeys((*known, *first, *others)))[:MAX_TAGS]

    def _find(self, repository: RepositoryName, tag: Tag) -> Found[ImageId] | UpstreamError | None:
        try:
            return self._look_up(repository, tag)
        except ImageTagUnknown:
            return None
        except UpstreamError as error:
            return error

    def _look_up(self, repository: RepositoryName, tag: Tag) -> Found[ImageId] | None:
        self._check_fetchable(lambda: self._registry.tags.find(repository, tag) is not None)
        try:
            manifest = self._registry.manifests.get(repository, tag)
        except ManifestUnknown:
            return None
        try:
            image_id = self._top(repository, manifest.descriptor.digest)
        except ImageUnknown as error:
            raise ImageTagUnknown(error.sentence, name=str(repository), tag=str(tag)) from None
        return Found(image_id, manifest.origin or Origin())

    def _top(self, repository: RepositoryName, manifest: Digest) -> ImageId:
        """Return the newest image of a manifest, after fetching what is needed to compute its id."""
        for _ in range(_MAX_PARTS):
            try:
                return self._derived.top(repository, manifest)
            except PartMissing as missing:
                self._fetch_part(repository, missing)
        raise ImageUnknown("The image has too many parts.")

    def _has_link(self, name: RepositoryName, layer: Digest) -> bool:
        return self._registry.driver.has_file(layout.layer_link(name, layer))

    def _check_fetchable(self, is_here: Callable[[], bool]) -> None:
        """
        Check that content is here or may be fetched.

        Args:
            is_here: is only called while the registry is read-only.

        Raises:
            UpstreamUnavailable: the registry is read-only, so what is fetched could not be stored.
        """
        if self._read_only.is_on and not is_here():
            raise UpstreamUnavailable(NOTHING_FETCHED)

    def _fetch_part(self, repository: RepositoryName, missing: PartMissing) -> None:
        self._check_fetchable(lambda: False)
        try:
            if missing.is_manifest:
                self._registry.manifests.get(repository, missing.digest)
            else:
                self._registry.blobs.fetch(repository, missing.digest)
        except (ManifestUnknown, BlobUnknown):
            raise ImageUnknown(missing.sentence, digest=str(missing.digest)) from None
