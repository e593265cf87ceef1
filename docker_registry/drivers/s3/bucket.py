"""Operations on the objects of one S3 bucket, addressed by their keys."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from botocore.exceptions import ClientError

from docker_registry.concurrency import run_in_thread
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.s3.client import code_of, content_md5, registry_error_of, status_of, translated
from docker_registry.drivers.s3.object_requests import ObjectRequests
from docker_registry.drivers.s3.reading import NO_KEY, Reading
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable

_DELETE_BATCH: Final = 1000
#: The MD5 of a body up to this size is computed at once: handing it to a thread would take longer.
_INLINE_BYTES: Final = 256 * 1024
#: Pauses between retries of a conditional request that S3 rejected with 409 because of a concurrent one.
_CONFLICT_PAUSES_SECONDS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
#: Pauses between retries of the keys of a multi-object delete that S3 was too busy to delete.
_BUSY_PAUSES_SECONDS: Final = (0.05, 0.2, 0.8)
#: After a successful listing, the bucket is assumed to exist for this long.
_TRUST_SECONDS: Final = 30
_PAGE_KEYS: Final = 1000
#: Sorts after every valid path component.
_LAST: Final = "\U0010ffff"
#: Metadata key that a touch sets.
_TOUCHED: Final = "docker-registry-touched"


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One object in a listing or a response.

    Attributes:
        name: the object's key; that of a folder ends with a slash.
        size: in bytes.
        modified: seconds since the Unix epoch.
        etag: the ETag of this version, including its quotes.
    """

    name: str
    size: int = 0
    modified: float = 0
    etag: str = ""


class S3Bucket:
    """An existing bucket."""

    def __init__(self, client: Any, name: str, *, object_options: Mapping[str, str], probe_prefix: str = "") -> None:
        """
        Args:
            client: from :meth:`~.client.Account.connect`.
            object_options: request parameters for every object that is created, such as encryption and storage class.
            probe_prefix: a prefix that is listed to check that the bucket is usable.

        Raises:
            ConfigError: there are no credentials.
            StorageError: the bucket does not exist or is not accessible.
        """
        self.client = client
        self.name = name
        self.object_options = dict(object_options)
        self._listed_at = 0.0
        headers = self._page(probe_prefix, MaxKeys=1)["ResponseMetadata"]["HTTPHeaders"]
        self._requests = ObjectRequests(client, name)
        # SeaweedFS lists a folder for minutes after its last object was deleted (SeaweedFS issue 9810).
        self._shows_empty_folders = headers.get("server", "").startswith("SeaweedFS")

    def close(self) -> None:
        """Close all connections."""
        self._requests.close()
        self.client.close()

    # -------------------------------------------------------------------------------------------- one object

    def head(self, key: str) -> Entry:
        """
        Return an object's metadata.

        Raises:
            PathNotFound: there is no such object.
        """
        answer = self._requests.send("HEAD", key)
        if answer is not None and answer.status == 200:
            return Entry(key, int(answer.headers["content-length"]), answer.modified, answer.headers["etag"])
        if answer is not None and answer.status == 404:
            self._check_bucket()
            raise PathNotFound
        with translated():
            try:
                metadata = self.client.head_object(Bucket=self.name, Key=key)
            except ClientError as error:
                if code_of(error) == "404":
                    self._check_bucket()
                raise
        return Entry(key, metadata["ContentLength"], metadata["LastModified"].timestamp(), metadata["ETag"])

    def put(self, key: str, content: Bytes, *, if_match: str | None = None) -> None:
        """
        Write an object in one request.

        Args:
            if_match: the ETag of the version to replace, or an empty string to create only; None writes
                unconditionally.

        Raises:
            PreconditionFailed: the object is another version, or exists although it was to be created.
        """
        body = content if isinstance(content, bytes | bytearray) else bytes(content)
        condition = {} if if_match is None else {"IfMatch": if_match} if if_match else {"IfNoneMatch": "*"}
        md5 = content_md5(body) if len(body) <= _INLINE_BYTES else run_in_thread(content_md5, body)
        options = {**self.object_options, "ContentMD5": md5}
        was_sent = bool(condition) and self._requests.are_possible
        answer = self._requests.send("PUT", key, {**options, **condition}, body)
        if answer is not None and answer.status == 200:
            return
        if answer is not None and answer.status == 412:
            raise PreconditionFailed
        try:
            with translated():
                self._put(key, body, options, condition, was_sent=was_sent)
        except PathNotFound:  # If-Match on a missing object
            raise PreconditionFailed from None

    def _put(
        self, key: str, body: Bytes, options: Mapping[str, str], condition: Mapping[str, str], *, was_sent: bool
    ) -> None:
        for pause in (*_CONFLICT_PAUSES_SECONDS, None):
            try:
                self.client.put_object(Bucket=self.name, Key=key, Body=body, **options, **condition)
            except ClientError as error:
                if condition and self._succeeded_earlier(error, key, body, was_sent=was_sent):
                    return
                if not condition or pause is None or status_of(error) != 409:
                    raise
                time.sleep(pause)
            else:
                return

    def _succeeded_earlier(self, error: ClientError, key: str, body: Bytes, *, was_sent: bool) -> bool:
        """Return whether a precondition failed only because an earlier attempt succeeded and its response was lost."""
        is_repetition = was_sent or bool(error.response["ResponseMetadata"].get("RetryAttempts"))
        if status_of(error) != 412 or not is_repetition:
            return False
        return bool(self.client.get_object(Bucket=self.name, Key=key)["Body"].read() == body)

    def delete(self, name: str, version: str | None = None) -> None:
        """
        Delete one object; a missing object is not an error.

        Args:
            version: the ETag that the object must have; None deletes unconditionally.

        Raises:
            PreconditionFailed: the object has another ETag.
        """
        condition = {"IfMatch": version} if version else {}
        answer = self._requests.send("DELETE", name, condition)
        if answer is not None and answer.status == 204:
            return
        if answer is not None and answer.status == 412:
            raise PreconditionFailed
        with translated():
            for pause in (*_CONFLICT_PAUSES_SECONDS, None):
                try:
                    self.client.delete_object(Bucket=self.name, Key=name, **condition)
                except ClientError as error:
                    if not condition or pause is None or status_of(error) != 409:
                        raise
                    time.sleep(pause)
                else:
                    return

    def copy(self, source: Entry, target: str) -> None:
        """
        Copy an object on the server in one request, unconditionally.

        Raises:
            PathNotFound: the source does not exist.
        """
        self._copy(source, target, MetadataDirective="COPY")

    def touch(self, entry: Entry) -> None:
        """Update an object's modification time. S3 rejects a copy onto itself that changes nothing, so set metadata."""
        self._copy(entry, entry.name, MetadataDirective="REPLACE", Metadata={_TOUCHED: f"{time.time():.3f}"})

    def _copy(self, source: Entry, target: str, **options: Any) -> None:
        with translated():
            self.client.copy_object(
                Bucket=self.name,
                Key=target,
                CopySource={"Bucket": self.name, "Key": source.name},
                **self.object_options,
                **options,
            )

    # ----------------------------------------------------------------------------------------------- reading

    def get(self, key: str) -> tuple[bytes, str]:
        """Return the content of a small object and its ETag."""
        answer = self._requests.send("GET", key)
        if answer is not None and answer.status == 200:
            return answer.content, answer.headers["etag"]
        if answer is not None and answer.status == 404 and NO_KEY in answer.content:
            raise PathNotFound
        reading = Reading(self.client, self._requests, self.name, key)
        blocks = reading.blocks(0, None)
        next(blocks)
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
        blocks = Reading(self.client, self._requests, self.name, key).blocks(offset, length)
        next(blocks)
        return blocks

    # ------------------------------------------------------------------------------------------ many objects

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield all objects whose keys begin with a prefix."""
        page = self._page(prefix)
        while True:
            yield from map(_entry, page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            page = self._page(prefix, ContinuationToken=page["NextContinuationToken"])

    def children(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects and folders directly below a prefix that ends with a slash; each folder is yielded once."""
        if self._shows_empty_folders:
            yield from self._children_by_entries(prefix)
            return
        page = self._page(prefix, Delimiter="/")
        while True:
            yield from map(_entry, page.get("Contents", ()))
            for item in page.get("CommonPrefixes", ()):
                yield Entry(item["Prefix"])
            if not page.get("IsTruncated"):
                return
            page = self._page(prefix, Delimiter="/", ContinuationToken=page["NextContinuationToken"])

    def _children_by_entries(self, prefix: str) -> Iterator[Entry]:
        """Derive the folders from the object keys, skipping the rest of a folder that fills a page."""
        folder, start = None, prefix
        while True:
            page = self._page(prefix, StartAfter=start)
            for item in page.get("Contents", ()):
                start = item["Key"]
                name, slash, _ = start[len(prefix) :].partition("/")
                if not slash:
                    yield _entry(item)
                elif name != folder:
                    folder = name
                    yield Entry(f"{prefix}{name}/")
            if not page.get("IsTruncated"):
                return
            name, slash, _ = start[len(prefix) :].partition("/")
            if slash:
                start = f"{prefix}{name}/{_LAST}"

    def has_any(self, prefix: str) -> bool:
        """Return whether any object's key begins with a prefix."""
        return bool(self._page(prefix, MaxKeys=1).get("Contents"))

    def _page(self, prefix: str, **options: Any) -> dict[str, Any]:
        with translated():
            page: dict[str, Any] = self.client.list_objects_v2(
                Bucket=self.name, Prefix=prefix, **{"MaxKeys": _PAGE_KEYS, **options}
            )
        self._listed_at = time.monotonic()
        return page

    def delete_all(self, keys: Iterable[str]) -> int:
        """
        Delete objects; missing ones are ignored.

        Returns:
            The number of keys, including those of missing objects.
        """
        keys, deleted = iter(keys), 0
        while batch := list(islice(keys, _DELETE_BATCH)):
            deleted += len(batch)
            self._delete(batch)
        return deleted

    def _delete(self, keys: list[str]) -> None:
        """Delete up to 1000 objects. Retries per-key errors: botocore does not see those inside a 200 response."""
        failed: dict[str, StorageError] = {}
        for pause in (0, *_BUSY_PAUSES_SECONDS):
            time.sleep(pause)
            with translated():
                response = self.client.delete_objects(
                    Bucket=self.name, Delete={"Objects": [{"Key": key} for key in failed or keys], "Quiet": True}
                )
            errors = {
                item["Key"]: registry_error_of(ClientError({"Error": item}, "DeleteObjects"))
                for item in response.get("Errors", ())
            }
            failed = {key: error for key, error in errors.items() if not isinstance(error, PathNotFound)}
            if not all(isinstance(error, StorageUnavailable) for error in failed.values()):
                break
            if not failed:
                return
        raise next(iter(failed.values()))

    def _check_bucket(self) -> None:
        """Raise StorageError if the bucket is missing: a HEAD answers 404 for a missing object and bucket alike."""
        if time.monotonic() > self._listed_at + _TRUST_SECONDS:
            self._page("", MaxKeys=1)


def _entry(item: Mapping[str, Any]) -> Entry:
    return Entry(item["Key"], item["Size"], item["LastModified"].timestamp(), item["ETag"])
