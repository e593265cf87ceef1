"""Images and repositories of a mirrored registry that speaks API V1: fetched when requested, verified and stored."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from docker_registry.concurrency import KeyedLocks
from docker_registry.errors import ImageInvalid, ImageUnknown, UpstreamDenied, UpstreamError, UpstreamUnavailable
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.mirror import stale
from docker_registry.registry.mirror.remotes import ABSENT_SECONDS
from docker_registry.registry.mirror.stale import STALE_SECONDS
from docker_registry.registry.mirror.transfers import Transfers
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from docker_registry.registry.read_only import ReadOnly
from docker_registry.registry.search.index import Result
from docker_registry.registry.sources import NOTHING_FETCHED, Found, Origin
from docker_registry.registry.stored_file import ServedFile
from docker_registry.registry.v1.image_memberships import ImageMemberships
from docker_registry.registry.v1.images import Images
from docker_registry.registry.v1.pending_pushes import parse_image_json
from docker_registry.registry.v1.pushes import ImagePushes
from docker_registry.registry.v1.sources import ImageQuery, Permitted, SourceImage
from docker_registry.registry.v1_mirror import answers
from docker_registry.registry.v1_mirror.mirrored_layer import MirroredLayer
from docker_registry.registry.v1_mirror.records import ListKind, ListRecord, Records
from docker_registry.registry.v1_mirror.source_client import SourceClient, invalid, is_checksum
from docker_registry.resources.memory_budget import JsonBudget

logger = logging.getLogger(__name__)

#: Memory of each cache: of what is absent, why requests failed, the ancestors of images, and the recorded lists.
_REMEMBERED_BYTES: Final = 1024 * 1024

_ID_BYTES: Final = 128

#: What reading an answer of another structure raises.
_UNREADABLE: Final = (ValueError, RecursionError)


class MirroredImages:
    """A :class:`~docker_registry.registry.v1.sources.V1Source` of one registry."""

    def __init__(
        self,
        client: SourceClient,
        records: Records,
        images: Images,
        pushes: ImagePushes,
        transfers: Transfers,
        json_budget: JsonBudget,
        read_only: ReadOnly,
        memberships: ImageMemberships,
        *,
        ttl_seconds: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            images, pushes: read and store images.
            transfers: receive layers.
            read_only: while writes are refused, nothing is fetched.
            memberships: records in which repositories clients may find an image, in a registry with access control.
            ttl_seconds: how long lists of tags and images are served before the registry is asked again.
            now: the clock, seconds since the Unix epoch.
        """
        self._client = client
        self._records = records
        self._images = images
        self._pushes = pushes
        self._transfers = transfers
        self._json_budget = json_budget
        self._read_only = read_only
        self._memberships = memberships
        self._ttl_seconds = ttl_seconds
        self._now = now
        self._locks = KeyedLocks()
        self._absent: BoundedCache[str, float] = BoundedCache(_REMEMBERED_BYTES)
        self._failures: BoundedCache[str, tuple[str, float]] = BoundedCache(_REMEMBERED_BYTES)
        self._recorded: BoundedCache[str, float] = BoundedCache(_REMEMBERED_BYTES)
        self._ancestries: BoundedCache[str, tuple[str, ...]] = BoundedCache(
            _REMEMBERED_BYTES, lambda ids: _ID_BYTES * len(ids)
        )

    def tags(
        self,
        name: ImageRepositoryName,
        permitted: Permitted | None = None,  # noqa: ARG002
    ) -> Found[Mapping[str, str]] | None:
        """
        Return the tags of a repository with the ids of their images; None when there is no such repository.

        While the registry cannot be asked, the last known ones are returned with a warning.

        Raises:
            UpstreamError: the registry cannot be asked and the tags are not known, or it denies access.
        """
        found = self._list(name, "tags", self._client.list_tags, lambda payload: self._check_tags(payload).values())
        return None if found is None else Found(self._check_tags(found.value), found.origin)

    def tag(
        self,
        name: ImageRepositoryName,
        tag: Tag,
        permitted: Permitted | None = None,  # noqa: ARG002
    ) -> Found[ImageId] | None:
        """
        Return the image that a tag points at; None when there is no such tag.

        Raises:
            UpstreamError: as for :meth:`tags`.
        """
        tags = self.tags(name)
        text = None if tags is None else tags.value.get(str(tag))
        return None if tags is None or text is None else Found(ImageId.parse(text), tags.origin)

    def images(
        self,
        name: ImageRepositoryName,
        permitted: Permitted | None = None,  # noqa: ARG002
    ) -> Found[bytes] | None:
        """
        Return the list of all images of a repository, as JSON; None when there is no such repository.

        Raises:
            UpstreamError: as for :meth:`tags`.
        """
        return self._list(name, "images", self._client.list_images, self._listed_ids)

    def image(self, query: ImageQuery) -> Found[SourceImage] | None:
        """
        Return an image without its layer; None when the registry does not have it.

        Raises:
            UpstreamError: the registry cannot be asked, or its answer is invalid.
        """
        found = self._records.find_image(query.image_id)
        if found is None:
            with self._locks.hold(("json", query.image_id)):
                found = self._records.find_image(query.image_id) or self._ask_for_image(query)
        return None if found is None else Found(found, Origin(expires=time.monotonic()))

    def fetch(self, query: ImageQuery) -> bool:
        """
        Store an image with its verified layer; return False when the registry does not have it.

        Raises:
            UpstreamError: the registry cannot be asked, or its layer has none of the stated checksums, or, if none are
                stated, is not a whole archive.
            Overloaded: the layer must be read to verify it, and too many layers are being read.
        """
        found = self.image(query)
        return found is not None and self._transfers.wait(self._layer(query, found.value))

    def arriving_size(self, query: ImageQuery) -> None:  # noqa: ARG002
        """Return None: the registry states the size with the image, or not at all."""
        return

    def layer(self, query: ImageQuery) -> Found[ServedFile] | None:
        """
        Return the layer of an image, served while it is received; None when the registry does not have it.

        Raises:
            UpstreamError, Overloaded: as for :meth:`fetch`.
        """
        found = self.image(query)
        opened = None if found is None else self._transfers.open(self._layer(query, found.value))
        if opened is None:
            return None
        fetched_from = self._client.upstream.name if opened.is_new else ""
        return Found(opened.file, Origin(expires=time.monotonic(), fetched_from=fetched_from))

    def search(self, text: str, size: int) -> list[Result]:
        """Return repositories of the registry whose names contain a text; none while it cannot be asked."""
        try:
            payload = self._client.search(text, size)
            return [] if payload is None else answers.read_results(payload, self._json_budget)[:size]
        except (UpstreamError, *_UNREADABLE) as error:
            logger.warning("the mirrored registry was not searched: %s", error)
            return []

    # ------------------------------------------------------------------------------------------------- steps

    def _list(
        self,
        name: ImageRepositoryName,
        kind: ListKind,
        ask: Callable[[ImageRepositoryName], bytes | None],
        check: Callable[[bytes], Iterable[str]],
    ) -> Found[bytes] | None:
        """Return a list of a repository: the recorded one within its ttl, else that of the registry."""
        key = f"{kind} {name}"
        with self._locks.hold(key):
            record = self._records.find_list(name, kind)
            if record is not None:
                self._record_known(name, key, record, check)
            if record is not None and 0 <= self._now() - record.checked < self._ttl_seconds:
                left_seconds = record.checked + self._ttl_seconds - self._now()
                return Found(record.payload, Origin(expires=time.monotonic() + left_seconds))
            if record is not None and (failed := self._failures.get(key)) is not None and time.monotonic() < failed[1]:
                return self._stale(kind, record, failed[0])
            if record is None and self._is_absent(key):
                return None
            try:
                self._check_writable()
                payload = ask(name)
                ids = () if payload is None else check(payload)
            except UpstreamDenied:
                raise
            except UpstreamError as error:
                if record is None:
                    raise
                reason = stale.reason_of(error)
                self._failures.put(key, (reason, time.monotonic() + STALE_SECONDS))
                return self._stale(kind, record, reason)
            if payload is None:
                self._absent.put(key, time.monotonic() + ABSENT_SECONDS)
                self._records.discard_lists(name)
                return None
            record = ListRecord(payload, self._now())
            self._record_listed(name, key, ids, record)
            self._records.put_list(name, kind, record)
            return Found(payload, Origin(expires=time.monotonic() + self._ttl_seconds))

    def _stale(self, kind: ListKind, record: ListRecord, reason: str) -> Found[bytes]:
        """Return the last known list, with a warning that says when it was checked."""
        age_seconds = self._now() - record.checked
        text = stale.warning(self._client.upstream.name, reason, f"these {kind} were", age_seconds)
        return Found(record.payload, Origin(expires=time.monotonic(), warning=text))

    def _check_tags(self, payload: bytes) -> dict[str, str]:
        try:
            return answers.read_tags(payload, self._json_budget)
        except _UNREADABLE:
            raise invalid("no list of tags", self._client) from None

    def _listed_ids(self, payload: bytes) -> list[str]:
        return [image_id for image_id, _ in self._check_images(payload)]

    def _record_known(
        self, name: ImageRepositoryName, key: str, record: ListRecord, check: Callable[[bytes], Iterable[str]]
    ) -> None:
        """
        Record that a repository has the images of a list that was received earlier; once per worker.

        The registry may have had no access control then.
        """
        is_recorded = self._recorded.get(key) == record.checked
        if is_recorded or not self._memberships.is_maintained or self._read_only.is_on:
            return
        try:
            ids = check(record.payload)
        except UpstreamError:  # a damaged record
            return
        self._record_listed(name, key, ids, record)

    def _record_listed(self, name: ImageRepositoryName, key: str, ids: Iterable[str], record: ListRecord) -> None:
        """Record that a repository has the images of a list, and those of their ancestors that are here."""
        if not self._memberships.is_maintained:
            return
        members = dict.fromkeys(ids)
        for text in self._json_budget.pace(list(members)):
            if self._records.is_stored(ImageId.parse(text)):
                members.update(dict.fromkeys(self._stored_ancestry(ImageId.parse(text))))
        self._record_members(name, members)
        self._recorded.put(key, record.checked)

    def _stored_ancestry(self, image_id: ImageId) -> tuple[str, ...]:
        try:
            return self._images.ancestry_anywhere(image_id)
        except ImageUnknown:  # evicted
            return ()

    def _record_members(self, name: ImageRepositoryName, ids: Iterable[str]) -> None:
        """
        Record that a repository has images.

        An image that was pushed here is left out: the registry must not open it to others by naming its id.
        """
        if self._memberships.is_maintained:
            members = [text for text in self._json_budget.pace(ids) if not self._was_pushed(ImageId.parse(text))]
            self._memberships.record_tagged(name, members)

    def _was_pushed(self, image_id: ImageId) -> bool:
        """Return whether an image exists that did not come from the mirrored registry."""
        return not self._records.is_stored(image_id) and self._images.exists(image_id)

    def _is_listed(self, query: ImageQuery) -> bool:
        """Return whether the repository in which a client looks for an image is known to have it."""
        tags, images = (
            None if query.repository is None else self._records.find_list(query.repository, kind)
            for kind in ("tags", "images")
        )
        ids = {
            *(self._check_tags(tags.payload).values() if tags else ()),
            *(self._listed_ids(images.payload) if images else ()),
        }
        return str(query.image_id) in ids

    def _check_images(self, payload: bytes) -> list[tuple[str, str]]:
        try:
            return list(answers.read_images(payload, self._json_budget))
        except _UNREADABLE:
            raise invalid("no list of images", self._client) from None

    def _ask_for_image(self, query: ImageQuery) -> SourceImage | None:
        image_id, text = query.image_id, str(query.image_id)
        key = f"{query.repository} {image_id}"  # the registry may hide an image from clients of other repositories
        if self._is_absent(key):
            return None
        self._check_writable()
        answer = self._client.get_image(image_id, query.repository)
        if answer is None:
            self._absent.put(key, time.monotonic() + ABSENT_SECONDS)
            return None
        try:
            document = parse_image_json(image_id, answer.payload)
        except ImageInvalid as error:
            raise invalid(f"an invalid image ({error.sentence})", self._client) from None
        ancestry = self._ancestries.get(text) or self._ask_for_ancestry(query)
        if ancestry[1:2] != ((document["parent"],) if document.get("parent") else ()):
            raise invalid("an image with another parent than in its ancestry", self._client)
        checksums = dict.fromkeys((*answer.checksums, *self._listed_checksums(query)))
        image = SourceImage(answer.payload, ancestry, answer.size, tuple(checksums))
        if query.repository is not None and self._memberships.is_maintained and self._is_listed(query):
            self._record_members(query.repository, ancestry)
        self._records.put_image(image_id, image)
        return image

    def _ask_for_ancestry(self, query: ImageQuery) -> tuple[str, ...]:
        payload = self._client.get_ancestry(query.image_id, query.repository)
        try:
            ids = answers.read_ancestry(payload or b"", query.image_id)
        except _UNREADABLE:
            raise invalid("no ancestry", self._client) from None
        for position in range(1, len(ids)):  # the same request of its ancestors need not be sent
            self._ancestries.put(ids[position], ids[position:])
        return ids

    def _listed_checksums(self, query: ImageQuery) -> Iterator[str]:
        """Yield the checksum of an image in the list of its repository, if that list was requested before."""
        record = None if query.repository is None else self._records.find_list(query.repository, "images")
        for image_id, checksum in self._check_images(record.payload) if record is not None else ():
            if image_id == str(query.image_id) and is_checksum(checksum):
                yield checksum

    def _layer(self, query: ImageQuery, image: SourceImage) -> MirroredLayer:
        if self._read_only.is_on and not self._images.is_complete(query.image_id, principal=None):
            self._check_writable()  # before a lease is taken
        return MirroredLayer(
            self._client, self._records, self._images, self._pushes, query, image, check=self._check_writable
        )

    def _is_absent(self, key: str) -> bool:
        return time.monotonic() < (self._absent.get(key) or 0)

    def _check_writable(self) -> None:
        """
        Raises:
            UpstreamUnavailable: the registry is read-only, so what is fetched could not be stored.
        """
        if self._read_only.is_on:
            raise UpstreamUnavailable(NOTHING_FETCHED)
