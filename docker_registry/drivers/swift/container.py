"""Operations on the objects of one Swift container, each over a connection of its own from the pool."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from io import BytesIO
from itertools import islice
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from swiftclient.client import Connection
from swiftclient.exceptions import ClientException
from swiftclient.utils import generate_temp_url

from docker_registry.drivers.swift.connections import NETWORK_ERRORS, Connections
from docker_registry.errors import PathNotFound, StorageError, StorageUnavailable

#: Media type of folder markers, which registry:2 and some clients create; they are not files.
FOLDER_TYPE: Final = "application/directory"

_BLOCK_BYTES: Final = 256 * 1024
_DELETE_BATCH: Final = 1000
#: Maximum number of consecutive resumes of a read that receive no byte.
_RESUMES: Final = 3
#: Entries that are requested to find one file: a folder may begin with markers, which are not files.
_PROBE_ENTRIES: Final = 16
_KEY_HEADER: Final = "x-container-meta-temp-url-key"
_GONE: Final = "The container of swift_container is gone."
#: After a successful listing, the container is assumed to exist for this long.
_TRUST_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One object in a listing or a response.

    Attributes:
        name: the object's name; that of a folder ends with a slash.
        size: in bytes; 0 in a listing for a dynamic large object.
        modified: seconds since the Unix epoch.
        is_static_large: whether the object is a static large object (SLO).
        dynamic_manifest: ``container/prefix`` of the segments of a dynamic large object (DLO); None for others and in a
            listing.
    """

    name: str
    size: int = 0
    modified: float = 0
    content_type: str = ""
    is_static_large: bool = False
    dynamic_manifest: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder or the marker of one."""
        return self.name.endswith("/") or self.content_type.partition(";")[0] == FOLDER_TYPE


class SwiftContainer:
    """A container, which the constructor creates if it does not exist."""

    def __init__(self, connections: Connections, name: str, temp_url_key: str | None = None) -> None:
        """
        Args:
            temp_url_key: the key with which :meth:`temp_url` signs; stored in the container's metadata for Swift.

        Raises:
            StorageError: Swift cannot be used with these settings.
        """
        self._connections = connections
        self.name = name
        self._temp_url_key = temp_url_key
        with connections.acquire() as connection:
            try:
                headers = connection.head_container(name)
            except ClientException as error:
                if error.http_status != 404:
                    raise
                connection.put_container(name)
                headers = {}
            if temp_url_key and headers.get(_KEY_HEADER) != temp_url_key:
                connection.post_container(name, {_KEY_HEADER: temp_url_key})
            self._listed_at = time.monotonic()
            self._url = connection.url
            try:
                self.capabilities: Mapping[str, Any] = connection.get_capabilities()
            except ClientException:  # an operator may disable /info
                self.capabilities = {}

    # ------------------------------------------------------------------------------------------- one object

    def head(self, name: str) -> Entry:
        """
        Return an object's metadata.

        Raises:
            PathNotFound: there is no such object, or it is a folder marker.
        """
        with self._container_checked(), self._connections.acquire() as connection:
            headers = connection.head_object(self.name, name)
        entry = Entry(
            name,
            int(headers["content-length"]),
            float(headers["x-timestamp"]),
            headers.get("content-type", ""),
            headers.get("x-static-large-object", "").lower() == "true",
            headers.get("x-object-manifest"),
        )
        if entry.is_folder:
            raise PathNotFound
        return entry

    def put(self, name: str, content: BytesIO, size: int, *, etag: str | None = None, **options: Any) -> str:
        """
        Write an object in one request.

        Args:
            content: read from its beginning; rewound if the request is retried.
            size: bytes to send.
            etag: MD5 of the content, which Swift verifies; None skips that.
            options: passed to ``Connection.put_object``.

        Returns:
            The object's ETag.
        """
        content.seek(0)
        options.setdefault("content_type", "application/octet-stream")
        try:
            with self._connections.acquire() as connection:
                new_etag: str = connection.put_object(
                    self.name, name, content if size else None, content_length=size, etag=etag, **options
                )
        except PathNotFound:
            raise StorageUnavailable(_GONE) from None
        return new_etag

    def copy(self, source: str, target: str) -> None:
        """Copy an object on the server. Of a large object, only the manifest is copied; both share the segments."""
        headers = {"X-Copy-From": quote(f"/{self.name}/{source}")}
        with self._connections.acquire() as connection:
            connection.put_object(
                self.name, target, None, content_length=0, headers=headers, query_string="multipart-manifest=get"
            )

    def touch(self, entry: Entry) -> None:
        """Update an object's modification time."""
        # A POST replaces all metadata; without X-Object-Manifest, a dynamic large object would become empty.
        headers = {"X-Object-Manifest": entry.dynamic_manifest} if entry.dynamic_manifest else {}
        with self._connections.acquire() as connection:
            connection.post_object(self.name, entry.name, headers)

    def delete(self, name: str) -> None:
        """
        Delete one object; of a large object, only the manifest.

        Raises:
            PathNotFound: there is no such object.
        """
        with self._connections.acquire() as connection:
            try:
                connection.delete_object(self.name, name)
            except ClientException as error:
                if error.http_status != 404 or connection.attempts == 1:
                    raise  # after a retry, 404 means that an earlier attempt deleted it and its response was lost

    def manifest(self, name: str) -> list[dict[str, Any]]:
        """
        Return the manifest of a static large object: ``[{"name": "/container/segment", "bytes": 16777216, …}]``.

        Raises:
            PathNotFound: there is no such object.
        """
        with self._connections.acquire() as connection:
            _, body = connection.get_object(self.name, name, query_string="multipart-manifest=get")
        parts: list[dict[str, Any]] = json.loads(body)
        return parts

    # ---------------------------------------------------------------------------------------- reading

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Open an object and return an iterator over its blocks, which resumes after a lost connection.

        Args:
            offset: first byte to read, from 0.
            length: maximum number of bytes; None reads to the end.

        Raises:
            PathNotFound: there is no such object; raised by the call itself.
            StorageError: the object cannot be read, or was replaced; also raised during iteration.
        """
        stream = self._stream(name, offset, length)
        with self._container_checked():
            next(stream)
        return stream

    def _stream(self, name: str, position: int, length: int | None) -> Iterator[bytes]:
        """Yield one empty block when the object is open, then its content."""
        etag, end, failures = None, "" if length is None else str(position + length - 1), 0
        while True:
            with self._connections.acquire() as connection:
                etag_found, remaining, body = self._request(connection, name, f"bytes={position}-{end}", etag)
                if etag is None:
                    etag = etag_found
                    yield b""
                try:
                    for block in body:
                        position, remaining, failures = position + len(block), remaining - len(block), 0
                        yield block
                except NETWORK_ERRORS:
                    connection.close()
            if remaining == 0:
                return
            if failures == _RESUMES:
                raise StorageUnavailable("Swift interrupted a download repeatedly.")
            failures += 1
            time.sleep(0.1 * 2**failures)

    def _request(
        self, connection: Connection, name: str, byte_range: str, etag: str | None
    ) -> tuple[str, int, Iterable[bytes]]:
        """Request a range of an object, which must have *etag*; return its ETag, the range's length and the blocks."""
        try:
            headers, body = connection.get_object(self.name, name, _BLOCK_BYTES, headers={"Range": byte_range})
        except ClientException as error:
            if error.http_status != 416:
                raise
            # The range starts beyond the object's end.
            headers, body = {**connection.head_object(self.name, name), "content-length": "0"}, ()
        if headers.get("content-type", "").partition(";")[0] == FOLDER_TYPE:
            raise PathNotFound
        if etag not in (None, headers["etag"]):
            raise StorageError("The file was replaced while it was read.")
        return headers["etag"], int(headers["content-length"]), body

    @contextmanager
    def _container_checked(self) -> Iterator[None]:
        """Raise StorageError instead of PathNotFound if the container is missing: Swift answers 404 for both."""
        try:
            yield
        except PathNotFound:
            if time.monotonic() > self._listed_at + _TRUST_SECONDS:
                next(self.entries("", page_entries=1), None)
            raise

    # ----------------------------------------------------------------------------------------- many objects

    def entries(self, prefix: str, delimiter: str | None = None, page_entries: int | None = None) -> Iterator[Entry]:
        """
        Yield the objects whose names begin with a prefix, folder markers included, in Swift's order.

        Args:
            delimiter: names that contain it after the prefix are grouped: each group is yielded once, as a folder.
            page_entries: number of entries to request at a time; None for as many as Swift sends, usually 10,000.
        """
        marker = ""
        while True:
            with self._connections.acquire() as connection:
                try:
                    _, page = connection.get_container(
                        self.name, marker, page_entries, prefix=prefix, delimiter=delimiter
                    )
                except ClientException as error:
                    if error.http_status != 404:
                        raise
                    raise StorageUnavailable(_GONE) from None
            self._listed_at = time.monotonic()
            if not page:
                return
            yield from map(_entry, page)
            marker = page[-1].get("subdir") or page[-1]["name"]

    def children(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects and folders directly below a prefix that ends with a slash; each folder is yielded once."""
        # A file and a folder may have the same name in Swift; folder markers are skipped.
        return (entry for entry in self.entries(prefix, "/") if entry.name.endswith("/") or not entry.is_folder)

    def has_any(self, prefix: str) -> bool:
        """Return whether any object's name begins with a prefix; folder markers do not count."""
        return any(not entry.is_folder for entry in self.entries(prefix, page_entries=_PROBE_ENTRIES))

    def delete_all(self, names: Iterable[str]) -> int:
        """
        Delete objects; of large objects, only the manifests. Missing ones are ignored.

        Returns:
            The number of objects that existed.
        """
        names, deleted = iter(names), 0
        max_deletes = self.capabilities.get("bulk_delete", {}).get("max_deletes_per_request", 0)
        while batch := list(islice(names, min(max_deletes, _DELETE_BATCH) or 1)):
            deleted += self._delete_in_bulk(batch) if len(batch) > 1 else self._delete_if_exists(batch[0])
        return deleted

    def _delete_if_exists(self, name: str) -> int:
        try:
            self.delete(name)
        except PathNotFound:
            return 0
        return 1

    def _delete_in_bulk(self, names: list[str]) -> int:
        lines = "\n".join(quote(f"/{self.name}/{name}") for name in names)
        headers = {"Content-Type": "text/plain", "Accept": "application/json"}
        with self._connections.acquire() as connection:
            _, body = connection.post_account(headers, query_string="bulk-delete", data=lines.encode())
        result = json.loads(body)
        if not str(result["Response Status"]).startswith("200"):
            # Delete one by one, so that the object that failed raises its own error.
            return sum(self._delete_if_exists(name) for name in names)
        return int(result["Number Deleted"])

    # -------------------------------------------------------------------------------------------- signed URLs

    def temp_url(self, name: str, seconds: int) -> str | None:
        """Return a signed URL of an object, valid for *seconds*; None without a key."""
        if not self._temp_url_key:
            return None
        url = urlsplit(self._url)
        digests = self.capabilities.get("tempurl", {}).get("allowed_digests", ["sha256"])
        digest = "sha256" if "sha256" in digests else "sha1"
        path = f"{unquote(url.path)}/{self.name}/{name}"  # Swift verifies the signature of the unquoted path
        signed_path = generate_temp_url(path, seconds, self._temp_url_key, "GET", digest=digest)
        return f"{url.scheme}://{url.netloc}{quote(path)}{signed_path.removeprefix(path)}"


def _entry(item: Mapping[str, Any]) -> Entry:
    if "subdir" in item:
        return Entry(item["subdir"])
    modified = datetime.fromisoformat(item["last_modified"]).replace(tzinfo=timezone.utc).timestamp()
    return Entry(item["name"], item["bytes"], modified, item.get("content_type", ""), "slo_etag" in item)
