"""One bucket of S3: objects by their keys."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from botocore.exceptions import ClientError

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.s3.client import code_of, content_md5, in_our_words, status_of, translated
from docker_registry.drivers.s3.reading import Reading
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageUnavailable
from docker_registry.threads import in_thread

_DELETED_AT_ONCE: Final = 1000
#: After these S3 is asked again that refused a conditional put because of another one at the very same moment.
_CONFLICT_PAUSES_SECONDS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
#: After these the keys are deleted again that S3 was too busy for, while it deleted others.
_BUSY_PAUSES_SECONDS: Final = (0.05, 0.2, 0.8)
#: So long nobody looks again whether the bucket is still there.
_TRUST_SECONDS: Final = 30
_PAGE_KEYS: Final = 1000
#: Comes behind every component of a path.
_LAST: Final = "\U0010ffff"
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
        etag: the name of exactly this version, with its quotes.
    """

    name: str
    size: int = 0
    modified: float = 0
    etag: str = ""


class S3Bucket:
    """A bucket that is there."""

    def __init__(self, client: Any, name: str, *, written: Mapping[str, str], listed: str = "") -> None:
        """
        Args:
            client: from :meth:`~.client.Account.connect`.
            written: what every request that makes an object says of it: encryption, storage class.
            listed: a prefix that is listed, to see that the bucket can be used.

        Raises:
            ConfigError: there are no credentials.
            StorageError: the bucket cannot be used.
        """
        self.client = client
        self.name = name
        self.written = dict(written)
        self._seen = 0.0
        answer = self._page(listed, MaxKeys=1)["ResponseMetadata"]["HTTPHeaders"]
        # SeaweedFS lists a folder for minutes after the last object in it is gone (its issue 9810).
        self._shows_empty_folders = answer.get("server", "").startswith("SeaweedFS")

    # -------------------------------------------------------------------------------------------- one object

    def head(self, key: str) -> Entry:
        """
        Raises:
            PathNotFound: there is no such object.
        """
        with translated():
            try:
                found = self.client.head_object(Bucket=self.name, Key=key)
            except ClientError as error:
                if code_of(error) == "404":
                    self._look_for_the_bucket()
                raise
        return Entry(key, found["ContentLength"], found["LastModified"].timestamp(), found["ETag"])

    def put(self, key: str, content: Bytes, *, if_match: str | None = None) -> None:
        """
        Write an object whole.

        Args:
            if_match: the ETag of the version to replace, or the empty text to create only.

        Raises:
            PreconditionFailed: something else lies there.
        """
        body = content if isinstance(content, bytes | bytearray) else bytes(content)
        condition = {} if if_match is None else {"IfMatch": if_match} if if_match else {"IfNoneMatch": "*"}
        options = {**self.written, "ContentMD5": in_thread(content_md5, body)}
        try:
            with translated():
                self._put(key, body, options, condition)
        except PathNotFound:  # nothing lies there that could be replaced
            raise PreconditionFailed from None

    def _put(self, key: str, body: Bytes, options: Mapping[str, str], condition: Mapping[str, str]) -> None:
        for pause in (*_CONFLICT_PAUSES_SECONDS, None):
            try:
                self.client.put_object(Bucket=self.name, Key=key, Body=body, **options, **condition)
            except ClientError as error:
                if condition and self._was_mine(error, key, body):
                    return
                if not condition or pause is None or status_of(error) != 409:
                    raise
                time.sleep(pause)
            else:
                return

    def _was_mine(self, error: ClientError, key: str, body: Bytes) -> bool:
        """Tell whether a condition failed because an attempt before, of whose end we did not hear, succeeded."""
        if status_of(error) != 412 or not error.response["ResponseMetadata"].get("RetryAttempts"):
            return False
        return bool(self.client.get_object(Bucket=self.name, Key=key)["Body"].read() == body)

    def delete(self, name: str, version: str | None = None) -> None:
        """
        Delete one object, if it is there.

        Args:
            version: the ETag that it must have; None deletes whatever it is.

        Raises:
            PreconditionFailed: it has another ETag.
        """
        condition = {"IfMatch": version} if version else {}
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
        Let S3 copy an object in one request; what it is, its ETag says.

        Raises:
            PathNotFound: the source is gone.
        """
        self._copy(source, target, MetadataDirective="COPY")

    def touch(self, entry: Entry) -> None:
        """Renew the time of an object: S3 copies onto itself only what becomes different by it."""
        self._copy(entry, entry.name, MetadataDirective="REPLACE", Metadata={_TOUCHED: f"{time.time():.3f}"})

    def _copy(self, source: Entry, target: str, **options: Any) -> None:
        with translated():
            self.client.copy_object(
                Bucket=self.name,
                Key=target,
                CopySource={"Bucket": self.name, "Key": source.name},
                **self.written,
                **options,
            )

    # ----------------------------------------------------------------------------------------------- reading

    def get(self, key: str) -> tuple[bytes, str]:
        """Return an object whole, and its ETag."""
        reading = Reading(self.client, self.name, key)
        blocks = reading.blocks(0, None)
        next(blocks)
        return b"".join(blocks), reading.etag

    def read(self, key: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """
        Open an object and read it in blocks; where the connection breaks, another one goes on.

        Raises:
            PathNotFound: there is no such object; at the call.
            StorageError: also in the middle, when the rest cannot be had or has been replaced.
        """
        blocks = Reading(self.client, self.name, key).blocks(offset, length)
        next(blocks)
        return blocks

    # ------------------------------------------------------------------------------------------ many objects

    def entries(self, prefix: str) -> Iterator[Entry]:
        """Yield what begins with a prefix."""
        page = self._page(prefix)
        while True:
            yield from map(_entry, page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            page = self._page(prefix, ContinuationToken=page["NextContinuationToken"])

    def children(self, prefix: str) -> Iterator[Entry]:
        """Yield what begins with a prefix, which ends with a slash, up to the next slash: objects, and folders once."""
        if self._shows_empty_folders:
            yield from self._children_by_entries(prefix)
            return
        page = self._page(prefix, Delimiter="/")
        while True:
            yield from map(_entry, page.get("Contents", ()))
            for row in page.get("CommonPrefixes", ()):
                yield Entry(row["Prefix"])
            if not page.get("IsTruncated"):
                return
            page = self._page(prefix, Delimiter="/", ContinuationToken=page["NextContinuationToken"])

    def _children_by_entries(self, prefix: str) -> Iterator[Entry]:
        """Tell the folders by the objects in them, and leap over those that are longer than a page."""
        folder, start = None, prefix
        while True:
            page = self._page(prefix, StartAfter=start)
            for row in page.get("Contents", ()):
                start = row["Key"]
                name, slash, _ = start[len(prefix) :].partition("/")
                if not slash:
                    yield _entry(row)
                elif name != folder:
                    folder = name
                    yield Entry(f"{prefix}{name}/")
            if not page.get("IsTruncated"):
                return
            name, slash, _ = start[len(prefix) :].partition("/")
            if slash:
                start = f"{prefix}{name}/{_LAST}"

    def has_any(self, prefix: str) -> bool:
        """Tell whether anything begins with a prefix."""
        return bool(self._page(prefix, MaxKeys=1).get("Contents"))

    def _page(self, prefix: str, **options: Any) -> dict[str, Any]:
        with translated():
            page: dict[str, Any] = self.client.list_objects_v2(
                Bucket=self.name, Prefix=prefix, **{"MaxKeys": _PAGE_KEYS, **options}
            )
        self._seen = time.monotonic()
        return page

    def delete_all(self, keys: Iterable[str]) -> int:
        """
        Delete objects; those that are gone meanwhile do not matter.

        Returns:
            How many keys there were.
        """
        keys, deleted = iter(keys), 0
        while some := list(islice(keys, _DELETED_AT_ONCE)):
            deleted += len(some)
            self._delete(some)
        return deleted

    def _delete(self, keys: list[str]) -> None:
        """Delete some objects; boto3 does not see that S3 was too busy for single ones, inside a good answer."""
        refused: dict[str, StorageError] = {}
        for pause in (0, *_BUSY_PAUSES_SECONDS):
            time.sleep(pause)
            with translated():
                answer = self.client.delete_objects(
                    Bucket=self.name, Delete={"Objects": [{"Key": key} for key in refused or keys], "Quiet": True}
                )
            told = {
                row["Key"]: in_our_words(ClientError({"Error": row}, "DeleteObjects"))
                for row in answer.get("Errors", ())
            }
            refused = {key: error for key, error in told.items() if not isinstance(error, PathNotFound)}
            if not all(isinstance(error, StorageUnavailable) for error in refused.values()):
                break
            if not refused:
                return
        raise next(iter(refused.values()))

    def _look_for_the_bucket(self) -> None:
        """Tell an object that is not there from one whose bucket is gone, for which a HEAD is answered the same."""
        if time.monotonic() > self._seen + _TRUST_SECONDS:
            self._page("", MaxKeys=1)


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(row["Key"], row["Size"], row["LastModified"].timestamp(), row["ETag"])
