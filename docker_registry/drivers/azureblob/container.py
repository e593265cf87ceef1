"""
One container of Azure Blob Storage: blobs by their names.

What we write carries a token in its metadata (:data:`_WRITTEN`): an ETag changes with every touch too, and only the
token tells a reader, or a writer that did not hear its answer, whether the content is still the same.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobBlock, ContainerClient

from docker_registry.drivers.azureblob.account import READ_BYTES, in_our_words, translated
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.chunks import chunks
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

_WRITTEN: Final = "docker_registry_written"
_TOUCHED: Final = "docker_registry_touched"
_DELETED_AT_ONCE: Final = 256
#: A broken read is taken up again so often without a single byte in between.
_RESUMES: Final = 3
_COPY_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Entry:
    """
    What a list or an answer says of a blob.

    Attributes:
        name: the blob's; a folder's ends with a slash.
        size: bytes.
        modified: seconds since the Unix epoch.
        etag: the name of exactly this version; also a touch makes another one.
        metadata: what is told of it, where it was asked for.
        created: seconds since the Unix epoch.
    """

    name: str
    size: int = 0
    modified: float = 0
    etag: str = ""
    metadata: Mapping[str, str] | None = None
    created: float = 0

    @property
    def content(self) -> tuple[object, ...]:
        """What stays the same as long as the content does."""
        return (self.metadata or {}).get(_WRITTEN), self.created, self.size


class AzureContainer:
    """A container that is there."""

    def __init__(self, client: ContainerClient, *, listed: str = "") -> None:
        """
        Args:
            listed: a prefix that is listed, to see that the container can be used.

        Raises:
            StorageError: it cannot be used.
        """
        self.client = client
        self.has_any(listed)

    # ---------------------------------------------------------------------------------------------- one blob

    def head(self, name: str) -> Entry:
        """
        Raises:
            PathNotFound: there is no such blob.
        """
        with translated():
            return _entry(self._blob(name).get_blob_properties())

    def put(self, name: str, content: Bytes, *, if_match: str | None = None) -> None:
        """
        Write a blob whole.

        Args:
            if_match: the ETag of the version to replace, or the empty text to create only.

        Raises:
            PreconditionFailed: something else lies there.
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
            if not self._has(name, token):  # else an attempt before, of whose end we did not hear, succeeded
                raise

    def _has(self, name: str, token: str) -> bool:
        try:
            return (self.head(name).metadata or {}).get(_WRITTEN) == token
        except PathNotFound:
            return False

    def write(self, name: str, blocks: Iterable[Bytes], block_bytes: int) -> int:
        """
        Publish a blob of any size once its source has ended; of one that fails no list shows anything.

        The blocks of one that failed cost nothing but room, and Azure forgets them after a week.

        Args:
            block_bytes: a file of more is sent in blocks of this size, of which one is in memory.

        Returns:
            Its size in bytes.
        """
        token, size = secrets.token_hex(16), 0
        staged: list[str] = []
        for content in chunks(blocks, block_bytes):
            if not staged and len(content) < block_bytes:
                self.put(name, content)
                return len(content)
            if content:
                staged.append(f"{token}-{len(staged):05d}")
                with translated():
                    self._blob(name).stage_block(staged[-1], content, length=len(content))
                size += len(content)
        try:
            with translated():
                self._blob(name).commit_block_list([BlobBlock(one) for one in staged], metadata={_WRITTEN: token})
        except StorageUnavailable:  # what was committed once cannot be again
            if not self._has(name, token):
                raise
        return size

    def delete(self, name: str, version: str | None = None) -> None:
        """
        Delete one blob.

        Args:
            version: the ETag that it must have; None deletes whatever it is.

        Raises:
            PathNotFound: it is not there.
            PreconditionFailed: it is another version.
        """
        condition = {"etag": version, "match_condition": MatchConditions.IfNotModified} if version else {}
        repeated: list[object] = []
        try:
            with translated():
                self._blob(name).delete_blob(
                    delete_snapshots="include", retry_hook=lambda **attempt: repeated.append(attempt), **condition
                )
        except PathNotFound:
            if not repeated:  # else an attempt before has done it
                raise

    def copy(self, source: Entry, target: str) -> None:
        """
        Let Azure copy a blob; within one account that is mostly done at once.

        Raises:
            PathNotFound: the source is gone.
            PreconditionFailed: it is another version.
        """
        url, blob = self._blob(source.name).url, self._blob(target)
        with translated():
            status = blob.start_copy_from_url(
                url, source_etag=source.etag, source_match_condition=MatchConditions.IfNotModified
            )["copy_status"]
        deadline, pause = time.monotonic() + _COPY_SECONDS, 0.05
        while status == "pending" and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(2 * pause, 5)
            with translated():
                status = blob.get_blob_properties().copy.status
        if status != "success":
            raise StorageUnavailable(f"Azure did not copy a file ({status}).")

    def touch(self, name: str) -> None:
        """Renew the time of a blob; its content stays, and is known to be the same."""
        metadata = {**(self.head(name).metadata or {}), _TOUCHED: f"{time.time():.3f}"}
        with translated():
            self._blob(name).set_blob_metadata(metadata)

    def _blob(self, name: str) -> Any:
        return self.client.get_blob_client(name)

    # ----------------------------------------------------------------------------------------------- reading

    def get(self, name: str) -> tuple[bytes, str]:
        """Return a blob whole, and its ETag."""
        stream = _Reading(self, name)
        blocks = stream.blocks(0, None)
        next(blocks)
        return b"".join(blocks), stream.etag

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Open a blob and read it in blocks, each by a request of its own, of the very content that was begun.

        Raises:
            PathNotFound: there is no such blob; at the call.
            StorageError: also in the middle, when the rest cannot be had or has been replaced.
        """
        blocks = _Reading(self, name).blocks(offset, length)
        next(blocks)
        return blocks

    # -------------------------------------------------------------------------------------------- many blobs

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield what begins with a prefix."""
        for row in _rows(self.client.list_blobs(name_starts_with=prefix)):
            yield _entry(row)

    def children(self, prefix: str) -> Iterator[Entry]:
        """Yield what begins with a prefix, which ends with a slash, up to the next slash: blobs, and folders once."""
        for row in _rows(self.client.walk_blobs(name_starts_with=prefix, delimiter="/")):
            yield Entry(row.name) if row.name.endswith("/") else _entry(row)

    def has_any(self, prefix: str) -> bool:
        """Tell whether anything begins with a prefix."""
        return any(True for _ in _rows(self.client.list_blobs(name_starts_with=prefix, results_per_page=1)))

    def delete_all(self, names: Iterable[str]) -> int:
        """
        Delete blobs; those that are gone meanwhile do not matter.

        Returns:
            How many names there were.
        """
        names, deleted = iter(names), 0
        while some := list(islice(names, _DELETED_AT_ONCE)):
            deleted += len(some)
            with translated():
                answers = list(self.client.delete_blobs(*some, delete_snapshots="include", raise_on_any_failure=False))
            for answer in answers:
                if answer.status_code >= 400 and answer.status_code != 404:
                    raise in_our_words(answer.headers.get("x-ms-error-code", ""), answer.status_code)
        return deleted


def _rows(found: Iterable[Any]) -> Iterator[Any]:
    rows = iter(found)
    while True:
        with translated():
            row = next(rows, None)
        if row is None:
            return
        yield row


def _entry(row: Any) -> Entry:
    if row.last_modified is None or row.size is None or not row.etag:
        raise StorageUnavailable("An answer of Azure was cut off.")
    created = row.creation_time.timestamp() if row.creation_time else 0
    return Entry(row.name, row.size, row.last_modified.timestamp(), row.etag, row.metadata, created)


class _Reading:
    """One blob while it is read."""

    def __init__(self, container: AzureContainer, name: str) -> None:
        self.etag = ""
        self._container = container
        self._name = name
        self._content: tuple[object, ...] = ()
        self._size = 0

    def blocks(self, position: int, length: int | None) -> Iterator[bytes]:
        """Yield nothing once it is open, then the blocks."""
        block = self._ask(position, READ_BYTES if length is None else min(READ_BYTES, length))
        end = self._size if length is None else min(self._size, position + length)
        yield b""
        while block:
            position += len(block)
            yield block
            block = self._again(position, min(READ_BYTES, end - position)) if position < end else b""

    def _again(self, position: int, length: int) -> bytes:
        for failures in range(_RESUMES + 1):
            try:
                return self._ask(position, length)
            except PreconditionFailed:
                self._follow_a_touch()
            except PathNotFound:
                break
            except StorageUnavailable:
                if failures == _RESUMES:
                    raise
        raise StorageError("The file was replaced or removed while it was read.")

    def _follow_a_touch(self) -> None:
        """Go on with a version that has the same content."""
        found = self._container.head(self._name)
        if found.content != self._content:
            raise StorageError("The file was replaced while it was read.")
        self.etag = found.etag

    def _ask(self, position: int, length: int) -> bytes:
        """Ask for a part of a blob, of the very version that was begun."""
        blob: Any = self._container.client.get_blob_client(self._name)
        pinned = {"etag": self.etag, "match_condition": MatchConditions.IfNotModified} if self.etag else {}
        with translated():
            try:
                found = blob.download_blob(offset=position, length=length, **pinned)
            except HttpResponseError as error:
                if error.status_code != 416:
                    raise
                self._begin(self._container.head(self._name), 0)  # it ends before
                return b""
            content: bytes = found.readall()
        if not self.etag:
            self._begin(_entry(found.properties), int(found.properties.content_range.rpartition("/")[2]))
        return content

    def _begin(self, entry: Entry, size: int) -> None:
        self.etag, self._size = entry.etag, size
        self._content = ((entry.metadata or {}).get(_WRITTEN), entry.created, size)
