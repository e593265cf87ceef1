"""
Large files in S3: uploads and copies by parts, a few at once, which S3 joins in the end.

What is not completed is aborted; of a process that died, :meth:`Multipart.sweep` aborts it by its age. Until then no
list of objects shows the parts, but they are paid for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.s3.bucket import Entry, S3Bucket
from docker_registry.drivers.s3.client import content_md5, translated
from docker_registry.errors import PathNotFound, StorageError
from docker_registry.threads import in_thread

#: How many parts S3 takes (S3 User Guide, "Amazon S3 multipart upload limits").
_MOST_PARTS: Final = 10_000
#: A file that nears this limit goes on in larger parts. The first ones are equal: some stores take no others.
_EQUAL_PARTS: Final = 9000
_LARGER: Final = 8
#: What the parts of one upload may take of the memory: those under way, and one that is being received.
_UPLOAD_MEMORY_BYTES: Final = 32 * 1024 * 1024
_COPIES_AT_ONCE: Final = 8
#: What is larger is copied by parts: faster, from 5 GiB on the only way, and no request takes long enough to time out.
COPY_PART_BYTES: Final = 64 * 1024 * 1024

Part = dict[str, Any]


class Multipart:
    """The large files of one bucket."""

    def __init__(self, bucket: S3Bucket, part_bytes: int) -> None:
        """
        Args:
            part_bytes: a file of more is uploaded in parts of this size.
        """
        self._bucket = bucket
        self._part_bytes = part_bytes
        self._uploads_at_once = max(1, _UPLOAD_MEMORY_BYTES // part_bytes - 1)

    def write(self, key: str, blocks: Iterable[Bytes]) -> int:
        """
        Publish an object of any size once its source has ended; of one that fails nothing stays.

        Returns:
            Its size in bytes.
        """
        used: list[bytearray] = []
        contents = _joined(blocks, self._part_bytes, used)
        content = next(contents, bytearray())
        size = len(content)
        if size < self._part_bytes:
            self._bucket.put(key, content)
            return size
        with _Upload(self._bucket, key, self._uploads_at_once) as upload:
            upload.send(content, used)
            for content in contents:
                size += len(content)
                upload.send(content, used)
            upload.complete(size)
        return size

    def copy(self, source: Entry, target: str) -> None:
        """
        Let S3 copy an object, by parts when it is large.

        Raises:
            PathNotFound: the source is gone.
        """
        if source.size <= COPY_PART_BYTES:
            self._bucket.copy(source, target)
            return
        part_bytes = max(COPY_PART_BYTES, -(-source.size // _MOST_PARTS))
        with _Upload(self._bucket, target, _COPIES_AT_ONCE) as upload:
            for start in range(0, source.size, part_bytes):
                upload.copy(source, start, min(start + part_bytes, source.size))
            upload.complete(source.size)

    def touch(self, entry: Entry) -> None:
        """Renew the time of an object."""
        if entry.size <= COPY_PART_BYTES:
            self._bucket.touch(entry)
        else:
            self.copy(entry, entry.name)

    def sweep(self, prefix: str, older_than_seconds: float) -> int:
        """
        Abort the uploads that nobody has completed.

        Returns:
            How many there were.
        """
        moment, aborted = time.time() - older_than_seconds, 0
        for row in list(self._unfinished(prefix)):
            if row["Initiated"].timestamp() <= moment:
                _abort(self._bucket, row["Key"], row["UploadId"])
                aborted += 1
        return aborted

    def _unfinished(self, prefix: str) -> Iterator[dict[str, Any]]:
        more: dict[str, str] = {}
        while True:
            with translated():
                page = self._bucket.client.list_multipart_uploads(Bucket=self._bucket.name, Prefix=prefix, **more)
            yield from page.get("Uploads", ())
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


class _Upload:
    """One multipart upload; whoever leaves the ``with`` without completing it aborts it."""

    def __init__(self, bucket: S3Bucket, key: str, at_once: int) -> None:
        self._bucket = bucket
        self._key = key
        self._at_once = at_once
        self._parts: list[Part] = []
        self._under_way: deque[Future[Part]] = deque()
        self._is_complete = False

    def __enter__(self) -> _Upload:  # noqa: PYI034 - Self is newer than Python 3.10
        # In a worker of the server these threads are greenlets. One more works out what the next part amounts to.
        self._threads = ThreadPoolExecutor(self._at_once + 1, "s3-part")
        with translated():
            begun = self._bucket.client.create_multipart_upload(
                Bucket=self._bucket.name, Key=self._key, **self._bucket.written
            )
        self._place = {"Bucket": self._bucket.name, "Key": self._key, "UploadId": begun["UploadId"]}
        return self

    def __exit__(self, *_: object) -> None:
        # Nothing may arrive after the abort: S3 would keep it.
        self._threads.shutdown(wait=True, cancel_futures=True)
        if not self._is_complete:
            try:
                _abort(self._bucket, self._key, self._place["UploadId"])
            except StorageError:  # what failed is on its way to the caller; the sweep comes later
                return

    def send(self, content: bytearray, used: list[bytearray]) -> None:
        """Upload the next part, while the caller goes on; *used* gets it when nobody needs it any more."""
        # Worked out while the part before is still on its way.
        md5 = self._threads.submit(in_thread, content_md5, content)
        self._start(self._send, content, md5, used)

    def copy(self, source: Entry, start: int, end: int) -> None:
        """Let S3 copy bytes of an object as the next part."""
        self._start(self._copy, source, start, end)

    def complete(self, size: int) -> None:
        """Publish the object, which has *size* bytes."""
        while self._under_way:
            self._parts.append(self._under_way.popleft().result())
        try:
            with translated():
                self._bucket.client.complete_multipart_upload(**self._place, MultipartUpload={"Parts": self._parts})
        except PathNotFound:
            # Gone: an attempt before, of whose end we did not hear, has completed it; or somebody has aborted it.
            if self._bucket.head(self._key).size != size:
                raise StorageError("S3 has lost the upload of a file.") from None
        self._is_complete = True

    def _start(self, work: Callable[..., Part], *args: Any) -> None:
        number = len(self._parts) + len(self._under_way) + 1
        if number > _MOST_PARTS:
            raise StorageError("The file has more parts than S3 takes; s3_part_bytes must be larger.")
        if len(self._under_way) == self._at_once:
            self._parts.append(self._under_way.popleft().result())
        self._under_way.append(self._threads.submit(work, number, *args))

    def _send(self, number: int, content: bytearray, md5: Future[str], used: list[bytearray]) -> Part:
        with translated():
            sent = self._bucket.client.upload_part(
                **self._place, PartNumber=number, Body=content, ContentMD5=md5.result()
            )
        used.append(content)
        return {"PartNumber": number, "ETag": sent["ETag"]}

    def _copy(self, number: int, source: Entry, start: int, end: int) -> Part:
        with translated():
            copied = self._bucket.client.upload_part_copy(
                **self._place,
                PartNumber=number,
                CopySource={"Bucket": self._bucket.name, "Key": source.name},
                CopySourceIfMatch=source.etag,
                CopySourceRange=f"bytes={start}-{end - 1}",
            )
        return {"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]}


def _abort(bucket: S3Bucket, key: str, upload_id: str) -> None:
    try:
        with translated():
            bucket.client.abort_multipart_upload(Bucket=bucket.name, Key=key, UploadId=upload_id)
    except PathNotFound:  # completed or aborted by somebody else
        return


def _joined(blocks: Iterable[Bytes], size: int, used: list[bytearray]) -> Iterator[bytearray]:
    """
    Join blocks to contents of one size, the last one shorter; each is yielded as soon as it is full.

    After :data:`_EQUAL_PARTS` of them they are larger: only files of more than 140 GiB have so many.

    Args:
        used: contents that nobody needs any more, to be written over: the memory of a process never shrinks as fast as
            it grows.
    """
    content, filled, yielded = bytearray(), 0, 0
    for block in blocks:
        rest = memoryview(block)
        while rest:
            some = rest[: size - filled]
            if filled < len(content):
                memoryview(content)[filled : filled + len(some)] = some
            else:
                content += some
            filled += len(some)
            rest = rest[len(some) :]
            if filled == size:
                yield content
                yielded += 1
                if yielded == _EQUAL_PARTS:
                    size *= _LARGER
                content, filled = used.pop() if used and yielded < _EQUAL_PARTS else bytearray(), 0
    if filled:
        del content[filled:]
        yield content
