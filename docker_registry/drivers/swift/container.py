"""One container of Swift: objects by their names, over connections that are lent for each request."""

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

#: An object of this type marks a folder (registry:2 and some clients make them); it is no file.
FOLDER_TYPE: Final = "application/directory"

_BLOCK_BYTES: Final = 256 * 1024
_DELETED_AT_ONCE: Final = 1000
#: A broken read is taken up again so often without a single byte in between.
_RESUMES: Final = 3
_KEY_HEADER: Final = "x-container-meta-temp-url-key"
_GONE: Final = "The container of swift_container is gone."
#: So long nobody looks again whether the container is still there.
_TRUST_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Entry:
    """
    What a list or an answer says of an object.

    Attributes:
        name: the object's; a folder's ends with a slash.
        size: bytes; a list says 0 of a dynamic large object.
        modified: seconds since the Unix epoch.
    """

    name: str
    size: int = 0
    modified: float = 0
    content_type: str = ""
    is_static_large: bool = False
    dynamic_manifest: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether this is no file."""
        return self.name.endswith("/") or self.content_type.partition(";")[0] == FOLDER_TYPE


class SwiftContainer:
    """A container that is there: it is created when it is not."""

    def __init__(self, connections: Connections, name: str, temp_url_key: str | None = None) -> None:
        """
        Args:
            temp_url_key: is given to the container, so that Swift knows what :meth:`temp_url` signs with.

        Raises:
            StorageError: Swift cannot be used with these settings.
        """
        self._connections = connections
        self.name = name
        self._temp_url_key = temp_url_key
        with connections.one() as connection:
            try:
                headers = connection.head_container(name)
            except ClientException as error:
                if error.http_status != 404:
                    raise
                connection.put_container(name)
                headers = {}
            if temp_url_key and headers.get(_KEY_HEADER) != temp_url_key:
                connection.post_container(name, {_KEY_HEADER: temp_url_key})
            self._seen = time.monotonic()
            self._url = connection.url
            try:
                self.capabilities: Mapping[str, Any] = connection.get_capabilities()
            except ClientException:  # an operator may hide them
                self.capabilities = {}

    # ------------------------------------------------------------------------------------------- one object

    def head(self, name: str) -> Entry:
        """
        Raises:
            PathNotFound: there is no such object.
        """
        with self._looked_for(), self._connections.one() as connection:
            headers = connection.head_object(self.name, name)
        found = Entry(
            name,
            int(headers["content-length"]),
            float(headers["x-timestamp"]),
            headers.get("content-type", ""),
            headers.get("x-static-large-object", "").lower() == "true",
            headers.get("x-object-manifest"),
        )
        if found.is_folder:
            raise PathNotFound
        return found

    def put(self, name: str, content: BytesIO, size: int, *, etag: str | None = None, **options: Any) -> str:
        """
        Write an object whole.

        Args:
            content: read from its beginning, again when the request has to be repeated.
            etag: its MD5, which Swift then compares with what it received.
            options: as for ``Connection.put_object``.

        Returns:
            Its ETag.
        """
        content.seek(0)
        options.setdefault("content_type", "application/octet-stream")
        try:
            with self._connections.one() as connection:
                written: str = connection.put_object(
                    self.name, name, content if size else None, content_length=size, etag=etag, **options
                )
        except PathNotFound:
            raise StorageUnavailable(_GONE) from None
        return written

    def copy(self, source: str, target: str) -> None:
        """Let Swift copy an object; of a large one only the manifest, which goes on naming the same segments."""
        headers = {"X-Copy-From": quote(f"/{self.name}/{source}")}
        with self._connections.one() as connection:
            connection.put_object(
                self.name, target, None, content_length=0, headers=headers, query_string="multipart-manifest=get"
            )

    def touch(self, entry: Entry) -> None:
        """Renew the time of an object."""
        # A POST replaces all that it can, and without its manifest a dynamic large object would be an empty one.
        headers = {"X-Object-Manifest": entry.dynamic_manifest} if entry.dynamic_manifest else {}
        with self._connections.one() as connection:
            connection.post_object(self.name, entry.name, headers)

    def delete(self, name: str) -> None:
        """
        Delete one object, of a large one the manifest.

        Raises:
            PathNotFound: it is not there.
        """
        with self._connections.one() as connection:
            try:
                connection.delete_object(self.name, name)
            except ClientException as error:
                if error.http_status != 404 or connection.attempts == 1:
                    raise  # else an attempt before this one, of whose end we did not hear, has deleted it

    def manifest(self, name: str) -> list[dict[str, Any]]:
        """
        Return what a static large object consists of: ``[{"name": "/container/segment", "bytes": 16777216, …}]``.

        Raises:
            PathNotFound: there is no such object.
        """
        with self._connections.one() as connection:
            _, body = connection.get_object(self.name, name, query_string="multipart-manifest=get")
        parts: list[dict[str, Any]] = json.loads(body)
        return parts

    # ---------------------------------------------------------------------------------------- reading

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Open an object and read it in blocks; where the connection breaks, another one goes on.

        Raises:
            PathNotFound: there is no such object; at the call.
            StorageError: also in the middle, when the rest cannot be had or has been replaced.
        """
        stream = self._stream(name, offset, length)
        with self._looked_for():
            next(stream)
        return stream

    def _stream(self, name: str, position: int, length: int | None) -> Iterator[bytes]:
        """Yield nothing once it is open, then the blocks."""
        etag, end, failures = None, "" if length is None else str(position + length - 1), 0
        while True:
            with self._connections.one() as connection:
                found, left, body = self._ask(connection, name, f"bytes={position}-{end}", etag)
                if etag is None:
                    etag = found
                    yield b""
                try:
                    for block in body:
                        position, left, failures = position + len(block), left - len(block), 0
                        yield block
                except NETWORK_ERRORS:
                    connection.close()
            if left == 0:
                return
            if failures == _RESUMES:
                raise StorageUnavailable("Swift broke off the reading of a file again and again.")
            failures += 1
            time.sleep(0.1 * 2**failures)

    def _ask(self, connection: Connection, name: str, span: str, etag: str | None) -> tuple[str, int, Iterable[bytes]]:
        """Ask for a part of an object, of the very one with *etag*; return its ETag, how much comes, and the blocks."""
        try:
            headers, body = connection.get_object(self.name, name, _BLOCK_BYTES, headers={"Range": span})
        except ClientException as error:
            if error.http_status != 416:
                raise
            headers, body = {**connection.head_object(self.name, name), "content-length": "0"}, ()  # it ends before
        if headers.get("content-type", "").partition(";")[0] == FOLDER_TYPE:
            raise PathNotFound
        if etag not in (None, headers["etag"]):
            raise StorageError("The file was replaced while it was read.")
        return headers["etag"], int(headers["content-length"]), body

    @contextmanager
    def _looked_for(self) -> Iterator[None]:
        """Tell an object that is not there from one whose container is gone, for which Swift answers the same."""
        try:
            yield
        except PathNotFound:
            if time.monotonic() > self._seen + _TRUST_SECONDS:
                for _ in self.entries(""):
                    break
            raise

    # ----------------------------------------------------------------------------------------- many objects

    def entries(self, prefix: str, delimiter: str | None = None) -> Iterator[Entry]:
        """
        Yield what begins with a prefix, in the order of Swift, page after page.

        Args:
            delimiter: up to which a name is shown; what has it is yielded once, as a folder.
        """
        marker = ""
        while True:
            with self._connections.one() as connection:
                try:
                    _, page = connection.get_container(self.name, marker, prefix=prefix, delimiter=delimiter)
                except ClientException as error:
                    if error.http_status != 404:
                        raise
                    raise StorageUnavailable(_GONE) from None
            self._seen = time.monotonic()
            if not page:
                return
            yield from map(_entry, page)
            marker = page[-1].get("subdir") or page[-1]["name"]

    def children(self, prefix: str) -> Iterator[Entry]:
        """Yield what begins with a prefix, which ends with a slash, up to the next slash: objects, and folders once."""
        # A file and a folder may have the same name here; a folder's marker is neither.
        return (entry for entry in self.entries(prefix, "/") if entry.name.endswith("/") or not entry.is_folder)

    def has_any(self, prefix: str) -> bool:
        """Tell whether any file begins with a prefix."""
        return any(not entry.is_folder for entry in self.entries(prefix))

    def delete_all(self, names: Iterable[str]) -> int:
        """
        Delete objects, of large ones the manifests; those that are gone meanwhile do not matter.

        Returns:
            How many were there.
        """
        names, deleted = iter(names), 0
        most = self.capabilities.get("bulk_delete", {}).get("max_deletes_per_request", 0)
        while some := list(islice(names, min(most, _DELETED_AT_ONCE) or 1)):
            deleted += self._delete_in_bulk(some) if len(some) > 1 else self._delete_if_there(some[0])
        return deleted

    def _delete_if_there(self, name: str) -> int:
        try:
            self.delete(name)
        except PathNotFound:
            return 0
        return 1

    def _delete_in_bulk(self, names: list[str]) -> int:
        lines = "\n".join(quote(f"/{self.name}/{name}") for name in names)
        headers = {"Content-Type": "text/plain", "Accept": "application/json"}
        with self._connections.one() as connection:
            _, body = connection.post_account(headers, query_string="bulk-delete", data=lines.encode())
        outcome = json.loads(body)
        if not str(outcome["Response Status"]).startswith("200"):
            # Whatever it stopped at: one after the other tells what it is.
            return sum(self._delete_if_there(name) for name in names)
        return int(outcome["Number Deleted"])

    # -------------------------------------------------------------------------------------------- signed URLs

    def temp_url(self, name: str, seconds: int) -> str | None:
        """Return a URL under which anybody may read an object for some time; None without a key."""
        if not self._temp_url_key:
            return None
        url = urlsplit(self._url)
        digests = self.capabilities.get("tempurl", {}).get("allowed_digests", ["sha256"])
        digest = "sha256" if "sha256" in digests else "sha1"
        path = f"{unquote(url.path)}/{self.name}/{name}"  # signed as Swift sees it, which is not as it is sent
        signed = generate_temp_url(path, seconds, self._temp_url_key, "GET", digest=digest)
        return f"{url.scheme}://{url.netloc}{quote(path)}{signed.removeprefix(path)}"


def _entry(row: Mapping[str, Any]) -> Entry:
    if "subdir" in row:
        return Entry(row["subdir"])
    modified = datetime.fromisoformat(row["last_modified"]).replace(tzinfo=timezone.utc).timestamp()
    return Entry(row["name"], row["bytes"], modified, row.get("content_type", ""), "slo_etag" in row)
