"""Operations on the objects of one Google Cloud Storage bucket, addressed by their keys."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final
from urllib.parse import quote

import google_crc32c

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.gcs.client import Api, ApiResponse, object_path
from docker_registry.drivers.gcs.reading import Reading
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

_PAGE_KEYS: Final = "1000"
_DELETE_BATCH: Final = 16
#: After a successful listing, the bucket is assumed to exist for this long.
_TRUST_SECONDS: Final = 30
_FIELDS: Final = "name,size,updated,generation,crc32c"
#: Metadata key that a touch sets.
_TOUCHED: Final = "docker-registry-touched"


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One object in a listing or a response.

    Attributes:
        name: the object's name; that of a folder ends with a slash.
        size: in bytes.
        modified: seconds since the Unix epoch.
        generation: identifies this version of the content.
        crc32c: CRC32C of the content, in Base64; empty if the response lacks it.
    """

    name: str
    size: int = 0
    modified: float = 0
    generation: str = ""
    crc32c: str = ""


def entry(resource: Mapping[str, Any]) -> Entry:
    """Parse an object resource of the JSON API."""
    updated = datetime.fromisoformat(resource["updated"].replace("Z", "+00:00"))
    return Entry(
        resource["name"],
        int(resource["size"]),
        updated.timestamp(),
        str(resource["generation"]),
        resource.get("crc32c", ""),
    )


class GcsBucket:
    """An existing bucket."""

    def __init__(self, api: Api, name: str, *, probe_prefix: str = "") -> None:
        """
        Args:
            probe_prefix: a prefix that is listed to check that the bucket is usable.

        Raises:
            StorageError: the bucket does not exist or is not accessible.
        """
        self.api = api
        self.name = name
        self._objects = f"/storage/v1/b/{quote(name, safe='')}/o"
        self._listed_at = 0.0
        self._page(probe_prefix, maxResults="1")

    # -------------------------------------------------------------------------------------------- one object

    def head(self, key: str) -> Entry:
        """
        Return an object's metadata.

        Raises:
            PathNotFound: there is no such object.
        """
        response = self._send("GET", key, params={"fields": _FIELDS})
        return entry(response.json())

    def put(self, key: str, content: Bytes, *, if_match: str | None = None) -> None:
        """
        Write an object in one request.

        Args:
            if_match: the generation to replace, or an empty string to create only; None writes unconditionally.

        Raises:
            PreconditionFailed: the object is another generation, or exists although it was to be created.
            StorageUnavailable: the content was damaged in transit; the damaged object was deleted.
        """
        if if_match and not if_match.isdecimal():
            raise PreconditionFailed
        body = bytes(content)
        response = self.api.send(
            "POST",
            f"/upload{self._objects}",
            params={"uploadType": "media", "name": key, "fields": _FIELDS, **_condition(if_match)},
            body=body,
            headers={"Content-Type": "application/octet-stream"},
        )
        if response.status == 412 and response.attempts > 1 and self._has_content(key, body):
            return  # an earlier attempt succeeded and its response was lost
        self.check_upload(response, len(body), google_crc32c.Checksum(body).digest())

    def check_upload(self, response: ApiResponse, size: int, crc32c: bytes) -> None:
        """
        Verify size and checksum of a new object, and delete it if it is damaged.

        Args:
            response: the response to the upload.
            size: the number of bytes sent.
            crc32c: their CRC32C, 4 bytes in big-endian order.

        Raises:
            StorageUnavailable: the object is damaged.
            StorageError: the response is an error.
        """
        try:
            created = entry(response.check().json())
        except PathNotFound:
            raise self._no_bucket() from None
        if created.size != size or (created.crc32c and created.crc32c != base64.b64encode(crc32c).decode()):
            self.delete(created.name, created.generation)
            raise StorageUnavailable("A file was damaged in transit to Google Cloud Storage.")

    def _has_content(self, key: str, content: bytes) -> bool:
        try:
            return self.get(key)[0] == content
        except PathNotFound:
            return False

    def delete(self, name: str, version: str | None = None) -> None:
        """
        Delete one object.

        Args:
            version: the generation that the object must have; None deletes unconditionally.

        Raises:
            PathNotFound: there is no such object.
            PreconditionFailed: the object has another generation.
        """
        if version and not version.isdecimal():
            raise PreconditionFailed
        response = self.api.send("DELETE", object_path(self.name, name), params=_condition(version))
        if response.status == 404 and response.attempts == 1:
            self._check_bucket()
        if (
            response.status != 404 or response.attempts == 1
        ):  # after a retry, 404 means that an earlier attempt deleted it
            response.check()

    def copy(self, source: Entry, target: str) -> None:
        """
        Copy an object on the server. Google may need several requests; the target becomes visible with the last one.

        Raises:
            PathNotFound: the source does not exist.
            PreconditionFailed: the source has another generation.
        """
        params = {"ifSourceGenerationMatch": source.generation, "fields": "done,rewriteToken"}
        action = f"/rewriteTo{object_path(self.name, target).removeprefix('/storage/v1')}"
        while True:
            progress = self._send("POST", source.name, action, params=params).json()
            if progress["done"]:
                return
            params["rewriteToken"] = progress["rewriteToken"]

    def touch(self, key: str) -> None:
        """Update an object's modification time; its generation does not change."""
        metadata = {"metadata": {_TOUCHED: f"{time.time():.3f}"}}
        self._send("PATCH", key, params={"fields": "generation"}, json=metadata)

    # ----------------------------------------------------------------------------------------------- reading

    def get(self, key: str) -> tuple[bytes, str]:
        """Return an object's content and its generation."""
        reading = Reading(self.api, object_path(self.name, key))
        blocks = self._open(reading, 0, None)
        return b"".join(blocks), reading.version

    def read(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Open an object and return an iterator over its blocks, which resumes after a lost connection.

        Args:
            offset: first byte to read, from 0.
            length: maximum number of bytes; None reads to the end.

        Raises:
            PathNotFound: there is no such object; raised by the call itself.
            StorageError: the object cannot be read, or was replaced or removed; also raised during iteration.
        """
        return self._open(Reading(self.api, object_path(self.name, key)), offset, length)

    def _open(self, reading: Reading, offset: int, length: int | None) -> Iterator[bytes]:
        blocks = reading.blocks(offset, length)
        try:
            next(blocks)
        except PathNotFound:
            self._check_bucket()
            raise
        return blocks

    # ------------------------------------------------------------------------------------------ many objects

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield all objects whose names begin with a prefix."""
        for page in self._pages(prefix):
            yield from map(entry, page.get("items", ()))

    def children(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects and folders directly below a prefix that ends with a slash; each folder is yielded once."""
        for page in self._pages(prefix, delimiter="/"):
            yield from map(entry, page.get("items", ()))
            yield from map(Entry, page.get("prefixes", ()))

    def has_any(self, prefix: str) -> bool:
        """Return whether any object's name begins with a prefix."""
        # A page may be empty without being the last one.
        return any(page.get("items") for page in self._pages(prefix, maxResults="1"))

    def delete_all(self, keys: Iterable[str]) -> int:
        """
        Delete objects, up to 16 concurrently; missing ones are ignored.

        Returns:
            The number of keys, including those of missing objects.
        """
        keys, deleted = iter(keys), 0
        with ThreadPoolExecutor(_DELETE_BATCH) as executor:
            while batch := list(islice(keys, int(_PAGE_KEYS))):
                deleted += len(list(executor.map(self._delete_if_exists, batch)))
        return deleted

    def _delete_if_exists(self, key: str) -> None:
        try:
            self.delete(key)
        except PathNotFound:
            return

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        page = self._page(prefix, **options)
        yield page
        while token := page.get("nextPageToken"):
            page = self._page(prefix, **options, pageToken=token)
            yield page

    def _page(self, prefix: str, **options: str) -> dict[str, Any]:
        fields = f"nextPageToken,prefixes,items({_FIELDS})"
        params = {"prefix": prefix, "fields": fields, "maxResults": _PAGE_KEYS, **options}
        try:
            page: dict[str, Any] = self.api.send("GET", self._objects, params=params).check().json()
        except PathNotFound:
            raise self._no_bucket() from None
        self._listed_at = time.monotonic()
        return page

    # ---------------------------------------------------------------------------------------------- requests

    def _send(self, method: str, key: str, action: str = "", **options: Any) -> ApiResponse:
        try:
            return self.api.send(method, object_path(self.name, key) + action, **options).check()
        except PathNotFound:
            self._check_bucket()
            raise

    def _check_bucket(self) -> None:
        """Raise StorageError if the bucket is missing: Google answers 404 for a missing object and bucket alike."""
        if time.monotonic() > self._listed_at + _TRUST_SECONDS:
            self._page("", maxResults="1")

    def _no_bucket(self) -> StorageError:
        return StorageError(f"Google Cloud Storage has no bucket {self.name} (gcs_bucket), or hides it.")


def _condition(generation: str | None) -> dict[str, str]:
    return {} if generation is None else {"ifGenerationMatch": generation or "0"}
