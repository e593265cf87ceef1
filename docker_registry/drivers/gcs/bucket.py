"""One bucket of Google Cloud Storage: objects by their keys."""

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
from docker_registry.drivers.gcs.client import Answer, Api, object_path
from docker_registry.drivers.gcs.reading import Reading
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

_PAGE_KEYS: Final = "1000"
_DELETED_AT_ONCE: Final = 16
#: So long nobody looks again whether the bucket is still there.
_TRUST_SECONDS: Final = 30
_FIELDS: Final = "name,size,updated,generation,crc32c"
#: The metadata that a touch leaves.
_TOUCHED: Final = "docker-registry-touched"


@dataclass(frozen=True, slots=True)
class Entry:
    """
    What a list or an answer says of an object.

    Attributes:
        name: the object's; a folder's ends with a slash.
        size: bytes.
        modified: seconds since the Unix epoch.
        generation: the name of exactly this content.
        crc32c: of the content, in Base64; empty where it is not told.
    """

    name: str
    size: int = 0
    modified: float = 0
    generation: str = ""
    crc32c: str = ""


def entry(row: Mapping[str, Any]) -> Entry:
    """Read an object's resource."""
    updated = datetime.fromisoformat(row["updated"].replace("Z", "+00:00"))
    return Entry(row["name"], int(row["size"]), updated.timestamp(), str(row["generation"]), row.get("crc32c", ""))


class GcsBucket:
    """A bucket that is there."""

    def __init__(self, api: Api, name: str, *, listed: str = "") -> None:
        """
        Args:
            listed: a prefix that is listed, to see that the bucket can be used.

        Raises:
            StorageError: the bucket cannot be used.
        """
        self.api = api
        self.name = name
        self._objects = f"/storage/v1/b/{quote(name, safe='')}/o"
        self._seen = 0.0
        self._page(listed, maxResults="1")

    # -------------------------------------------------------------------------------------------- one object

    def head(self, key: str) -> Entry:
        """
        Raises:
            PathNotFound: there is no such object.
        """
        found = self._send("GET", key, params={"fields": _FIELDS})
        return entry(found.json())

    def put(self, key: str, content: Bytes, *, if_match: str | None = None) -> None:
        """
        Write an object whole.

        Args:
            if_match: the generation to replace, or the empty text to create only.

        Raises:
            PreconditionFailed: something else lies there.
        """
        if if_match and not if_match.isdecimal():
            raise PreconditionFailed
        body = bytes(content)
        answer = self.api.send(
            "POST",
            f"/upload{self._objects}",
            params={"uploadType": "media", "name": key, "fields": _FIELDS, **_condition(if_match)},
            body=body,
            headers={"Content-Type": "application/octet-stream"},
        )
        if answer.status == 412 and answer.attempts > 1 and self._is(key, body):
            return  # an attempt before, of whose end we did not hear, succeeded
        self.check_upload(answer, len(body), google_crc32c.Checksum(body).digest())

    def check_upload(self, answer: Answer, size: int, crc32c: bytes) -> None:
        """Compare what an answer says of a new object with what was sent, and remove an object that is damaged."""
        try:
            made = entry(answer.check().json())
        except PathNotFound:
            raise self._no_bucket() from None
        if made.size != size or (made.crc32c and made.crc32c != base64.b64encode(crc32c).decode()):
            self.delete(made.name, made.generation)
            raise StorageUnavailable("A file was damaged on its way to Google Cloud Storage.")

    def _is(self, key: str, content: bytes) -> bool:
        try:
            return self.get(key)[0] == content
        except PathNotFound:
            return False

    def delete(self, name: str, version: str | None = None) -> None:
        """
        Delete one object.

        Args:
            version: the generation that it must be; None deletes whatever it is.

        Raises:
            PathNotFound: it is not there.
            PreconditionFailed: it is another generation.
        """
        if version and not version.isdecimal():
            raise PreconditionFailed
        answer = self.api.send("DELETE", object_path(self.name, name), params=_condition(version))
        if answer.status == 404 and answer.attempts == 1:
            self._look_for_the_bucket()
        if answer.status != 404 or answer.attempts == 1:  # else an attempt before has done it
            answer.check()

    def copy(self, source: Entry, target: str) -> None:
        """
        Let Google copy an object, in as many steps as it likes; the target appears with the last one.

        Raises:
            PathNotFound: the source is gone.
            PreconditionFailed: it is another generation.
        """
        params = {"ifSourceGenerationMatch": source.generation, "fields": "done,rewriteToken"}
        to = f"/rewriteTo{object_path(self.name, target).removeprefix('/storage/v1')}"
        while True:
            done = self._send("POST", source.name, to, params=params).json()
            if done["done"]:
                return
            params["rewriteToken"] = done["rewriteToken"]

    def touch(self, key: str) -> None:
        """Renew the time of an object; its generation stays."""
        metadata = {"metadata": {_TOUCHED: f"{time.time():.3f}"}}
        self._send("PATCH", key, params={"fields": "generation"}, json=metadata)

    # ----------------------------------------------------------------------------------------------- reading

    def get(self, key: str) -> tuple[bytes, str]:
        """Return an object whole, and its generation."""
        reading = Reading(self.api, object_path(self.name, key))
        blocks = self._begun(reading, 0, None)
        return b"".join(blocks), reading.generation

    def read(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Open an object and read it in blocks; where the connection breaks, another one goes on.

        Raises:
            PathNotFound: there is no such object; at the call.
            StorageError: also in the middle, when the rest cannot be had or has been replaced.
        """
        return self._begun(Reading(self.api, object_path(self.name, key)), offset, length)

    def _begun(self, reading: Reading, offset: int, length: int | None) -> Iterator[bytes]:
        blocks = reading.blocks(offset, length)
        try:
            next(blocks)
        except PathNotFound:
            self._look_for_the_bucket()
            raise
        return blocks

    # ------------------------------------------------------------------------------------------ many objects

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield what begins with a prefix."""
        for page in self._pages(prefix):
            yield from map(entry, page.get("items", ()))

    def children(self, prefix: str) -> Iterator[Entry]:
        """Yield what begins with a prefix, which ends with a slash, up to the next slash: objects, and folders once."""
        for page in self._pages(prefix, delimiter="/"):
            yield from map(entry, page.get("items", ()))
            yield from map(Entry, page.get("prefixes", ()))

    def has_any(self, prefix: str) -> bool:
        """Tell whether anything begins with a prefix."""
        # A page may be empty and still not be the last one.
        return any(page.get("items") for page in self._pages(prefix, maxResults="1"))

    def delete_all(self, keys: Iterable[str]) -> int:
        """
        Delete objects, some at once; those that are gone meanwhile do not matter.

        Returns:
            How many keys there were.
        """
        keys, deleted = iter(keys), 0
        with ThreadPoolExecutor(_DELETED_AT_ONCE) as executor:
            while some := list(islice(keys, int(_PAGE_KEYS))):
                deleted += len(list(executor.map(self._delete_if_there, some)))
        return deleted

    def _delete_if_there(self, key: str) -> None:
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
        self._seen = time.monotonic()
        return page

    # ---------------------------------------------------------------------------------------------- requests

    def _send(self, method: str, key: str, action: str = "", **options: Any) -> Answer:
        try:
            return self.api.send(method, object_path(self.name, key) + action, **options).check()
        except PathNotFound:
            self._look_for_the_bucket()
            raise

    def _look_for_the_bucket(self) -> None:
        """Tell an object that is not there from one whose bucket is gone, for which the answer is the same."""
        if time.monotonic() > self._seen + _TRUST_SECONDS:
            self._page("", maxResults="1")

    def _no_bucket(self) -> StorageError:
        return StorageError(f"Google Cloud Storage has no bucket {self.name} (gcs_bucket), or hides it.")


def _condition(generation: str | None) -> dict[str, str]:
    return {} if generation is None else {"ifGenerationMatch": generation or "0"}
