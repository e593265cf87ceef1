"""
Operations on the blobs of one Azure Blob Storage container, addressed by their names.

Every write stores a random token in the blob's metadata (:data:`_WRITTEN`). A touch changes the ETag as well, so only
the token shows a reader, or a writer whose response was lost, whether the content is still the same.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobBlock, ContainerClient

from docker_registry.drivers.azureblob.account import READ_BYTES, registry_error_of, translated
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.objects import chunks
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

_WRITTEN: Final = "docker_registry_written"
_TOUCHED: Final = "docker_registry_touched"
_DELETE_BATCH: Final = 256
#: Retries of the request for one block.
_RESUMES: Final = 3
_COPY_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One blob in a listing or a response.

    Attributes:
        name: the blob's name; that of a folder ends with a slash.
        size: in bytes.
        modified: time of the last change, in seconds since the Unix epoch.
        etag: the ETag of this version; a touch changes it too.
        metadata: the blob's metadata; None if the response lacks it.
        created: time of creation, in seconds since the Unix epoch; 0 if unknown.
    """

    name: str
    size: int = 0
    modified: float = 0
    etag: str = ""
    metadata: Mapping[str, str] | None = None
    created: float = 0

    @property
    def content(self) -> tuple[object, ...]:
        """A key that is equal for two entries of the same content, also across a touch."""
        return (self.metadata or {}).get(_WRITTEN), self.created, self.size


class AzureContainer:
    """An existing container."""

    def __init__(self, client: ContainerClient, *, probe_prefix: str = "") -> None:
        """
        Args:
            probe_prefix: a prefix that is listed to check that the container is usable.

        Raises:
            StorageError: the container does not exist or is not accessible.
        """
        self.client = client
        self.has_any(probe_prefix)

    # ---------------------------------------------------------------------------------------------- one blob

    def head(self, name: str) -> Entry:
        """
        Return a blob's properties.

        Raises:
            PathNotFound: there is no such blob.
        """
        with translated():
            return _entry(self._blob(name).get_blob_properties())

    def put(self, name: str, content: Bytes, *, if_match: str | None = None) -> None:
        """
        Write a blob in one call.

        Args:
            if_match: the ETag of the version to replace, or an empty string to create only; None writes
                unconditionally.

        Raises:
            PreconditionFailed: the blob is another version, or exists although it was to be created.
        """
        token = secrets.token_hex(16)
        condition = {"etag": if_match, "match_condition": MatchConditions.IfNotModified} if if_match else {}
        try:
            with translated():
                self._blob(name).upload_blob(
                    bytes(content), overwrite=if_match != "", metadata={_WRITTEN: token}, **condition
                )
        except PathNotFound:
            raise PreconditionFailed from None
        except PreconditionFailed:
            if not self._has_token(name, token):  # otherwise an earlier attempt succeeded and its response was lost
                raise

    def _has_token(self, name: str, token: str) -> bool:
        try:
            return (self.head(name).metadata or {}).get(_WRITTEN) == token
        except PathNotFound:
            return False

    def write(self, name: str, blocks: Iterable[Bytes], block_bytes: int) -> int:
        """
        Write a blob of any size. It becomes visible when *blocks* ends; a failed write is invisible in listings.

        The blocks of a failed write take up space until Azure discards them after a week.

        Args:
            block_bytes: size of the blocks, of which up to two are in memory; a smaller file is sent in one call.

        Returns:
            The blob's size in bytes.
        """
        token, size = secrets.token_hex(16), 0
        block_ids: list[str] = []
        for content in chunks(blocks, block_bytes):
            if not block_ids and len(content) < block_bytes:
                self.put(name, content)
                return len(content)
            if content:
                block_ids.append(f"{token}-{len(block_ids):05d}")
                with translated():
                    self._blob(name).stage_block(block_ids[-1], content, length=len(content))
                size += len(content)
        try:
            with translated():
                self._blob(name).commit_block_list(
                    [BlobBlock(block_id) for block_id in block_ids], metadata={_WRITTEN: token}
                )
        except StorageUnavailable:  # a retried commit fails if an earlier attempt already committed the blocks
            if not self._has_token(name, token):
                raise
        return size

    def delete(self, name: str, version: str | None = None) -> None:
        """
        Delete one blob.

        Args:
            version: the ETag that the blob must have; None deletes unconditionally.

        Raises:
            PathNotFound: there is no such blob.
            PreconditionFailed: the blob has another ETag.
        """
        condition = {"etag": version, "match_condition": MatchConditions.IfNotModified} if version else {}
        retries: list[object] = []
        try:
            with translated():
                self._blob(name).delete_blob(
                    delete_snapshots="include", retry_hook=lambda **attempt: retries.append(attempt), **condition
                )
        except PathNotFound:
            if not retries:  # otherwise an earlier attempt deleted it
                raise

    def copy(self, source: Entry, target: str) -> None:
        """
        Copy a blob on the server and wait for the end; within one account most copies complete immediately.

        Raises:
            PathNotFound: the source does not exist.
            PreconditionFailed: the source has another ETag.
            StorageUnavailable: the copy failed or took longer than an hour.
        """
        url, blob = self._blob(source.name).url, self._blob(target)
        with translated():
            status = blob.start_copy_from_url(
                url, source_etag=source.etag, source_match_condition=MatchConditions.IfNotModified
            )["copy_status"]
        deadline, pause = time.monotonic() + _COPY_SECONDS, 0.05
        etag = None
        while status == "pending" and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 5)
            with translated():
                properties = blob.get_blob_properties()
            status, etag = properties.copy.status, properties.etag
        if status in ("failed", "aborted") and etag:  # Azure leaves an empty blob
            with suppress(PathNotFound, PreconditionFailed):
                self.delete(target, etag)
        if status != "success":
            raise StorageUnavailable(f"Azure failed to copy a file ({status}).")

    def touch(self, name: str) -> None:
        """
        Update a blob's modification time; its token is kept, so that its content is known to be unchanged.

        Raises:
            PathNotFound: there is no such blob.
        """
        entry = self.head(name)
        metadata = {**(entry.metadata or {}), _TOUCHED: f"{time.time():.3f}"}
        try:
            with translated():
                self._blob(name).set_blob_metadata(
                    metadata, etag=entry.etag, match_condition=MatchConditions.IfNotModified
                )
        except PreconditionFailed:  # a blob that changed just now has a new time already, and its own metadata
            self.head(name)  # unless it was removed

    def _blob(self, name: str) -> Any:
        return self.client.get_blob_client(name)

    # ----------------------------------------------------------------------------------------------- reading

    def get(self, name: str) -> tuple[bytes, str]:
        """Return a blob's content and its ETag."""
        stream = _Reading(self, name)
        blocks = stream.blocks(0, None)
        next(blocks)
        return b"".join(blocks), stream.etag

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Open a blob and return an iterator over its blocks, each read by its own request for the same content.

        Args:
            offset: first byte to read, from 0.
            length: maximum number of bytes; None reads to the end.

        Raises:
            PathNotFound: there is no such blob; raised by the call itself.
            StorageError: the blob cannot be read, or was replaced or removed; also raised during iteration.
        """
        blocks = _Reading(self, name).blocks(offset, length)
        next(blocks)
        return blocks

    # -------------------------------------------------------------------------------------------- many blobs

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield all blobs whose names begin with a prefix."""
        for properties in _items(self.client.list_blobs(name_starts_with=prefix)):
            yield _entry(properties)

    def children(self, prefix: str) -> Iterator[Entry]:
        """Yield the blobs and folders directly below a prefix that ends with a slash; each folder is yielded once."""
        for properties in _items(self.client.walk_blobs(name_starts_with=prefix, delimiter="/")):
            yield Entry(properties.name) if properties.name.endswith("/") else _entry(properties)

    def has_any(self, prefix: str) -> bool:
        """Return whether any blob's name begins with a prefix."""
        return any(True for _ in _items(self.client.list_blobs(name_starts_with=prefix, results_per_page=1)))

    def delete_all(self, names: Iterable[str]) -> int:
        """
        Delete blobs; missing ones are ignored.

        Returns:
            The number of names, including those of missing blobs.
        """
        names, deleted = iter(names), 0
        while batch := list(islice(names, _DELETE_BATCH)):
            deleted += len(batch)
            with translated():
                responses = list(
                    self.client.delete_blobs(*batch, delete_snapshots="include", raise_on_any_failure=False)
                )
            for response in responses:
                if response.status_code >= 400 and response.status_code != 404:
                    raise registry_error_of(response.headers.get("x-ms-error-code", ""), response.status_code)
        return deleted


def _items(pages: Iterable[Any]) -> Iterator[Any]:
    items = iter(pages)
    while True:
        with translated():
            item = next(items, None)
        if item is None:
            return
        yield item


def _entry(properties: Any) -> Entry:
    if properties.last_modified is None or properties.size is None or not properties.etag:
        raise StorageUnavailable("A response from Azure was cut off.")
    created = properties.creation_time.timestamp() if properties.creation_time else 0
    return Entry(
        properties.name,
        properties.size,
        properties.last_modified.timestamp(),
        properties.etag,
        properties.metadata,
        created,
    )


class _Reading:
    """One read of a blob."""

    def __init__(self, container: AzureContainer, name: str) -> None:
        self.etag = ""
        self._container = container
        self._name = name
        self._content: tuple[object, ...] = ()
        self._size = 0

    def blocks(self, position: int, length: int | None) -> Iterator[bytes]:
        """Yield one empty block when the blob is open, then its content."""
        block = self._request(position, READ_BYTES if length is None else min(READ_BYTES, length))
        end = self._size if length is None else min(self._size, position + length)
        yield b""
        while block:
            position += len(block)
            yield block
            block = self._retry(position, min(READ_BYTES, end - position)) if position < end else b""

    def _retry(self, position: int, length: int) -> bytes:
        for failures in range(_RESUMES + 1):
            try:
                return self._request(position, length)
            except PreconditionFailed:
                self._accept_touched_version()
            except PathNotFound:
                break
            except StorageUnavailable:
                if failures == _RESUMES:
                    raise
        raise StorageError("The file was replaced or removed while it was read.")

    def _accept_touched_version(self) -> None:
        """Continue with the current version if it has the same content, as after a touch."""
        current = self._container.head(self._name)
        if current.content != self._content:
            raise StorageError("The file was replaced while it was read.")
        self.etag = current.etag

    def _request(self, position: int, length: int) -> bytes:
        """Read a range of the version that is being read; empty if the range starts beyond the blob's end."""
        blob: Any = self._container.client.get_blob_client(self._name)
        condition = {"etag": self.etag, "match_condition": MatchConditions.IfNotModified} if self.etag else {}
        with translated():
            try:
                download = blob.download_blob(offset=position, length=length, **condition)
            except HttpResponseError as error:
                if error.status_code != 416:
                    raise
                self._start(self._container.head(self._name), 0)  # the range starts beyond the blob's end
                return b""
            content: bytes = download.readall()
        if not self.etag:
            self._start(_entry(download.properties), int(download.properties.content_range.rpartition("/")[2]))
        return content

    def _start(self, entry: Entry, size: int) -> None:
        self.etag, self._size = entry.etag, size
        self._content = ((entry.metadata or {}).get(_WRITTEN), entry.created, size)
