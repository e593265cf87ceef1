"""
Multipart uploads and copies of large files; a few parts are transferred at a time.

An upload that fails is aborted. :meth:`Multipart.sweep` aborts those that a crashed process left behind, by their age.
Until then their parts are invisible in listings, but billed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from docker_registry.concurrency import run_in_thread
from docker_registry.drivers.base import Bytes
from docker_registry.drivers.s3.bucket import Entry, S3Bucket
from docker_registry.drivers.s3.client import content_md5, translated
from docker_registry.errors import PathNotFound, StorageError

#: Maximum number of parts per upload (S3 User Guide, "Amazon S3 multipart upload limits").
_MAX_PARTS: Final = 10_000
#: Parts after this many are larger, so that the file stays below the limit. Some stores require equal parts, so the
#: first ones all have the same size.
_EQUAL_PARTS: Final = 9000
_GROWTH_FACTOR: Final = 8
#: Memory budget of one upload: the parts being sent, and one that is being received.
_UPLOAD_MEMORY_BYTES: Final = 32 * 1024 * 1024
_CONCURRENT_COPIES: Final = 8
#: Larger objects are copied in parts: this is faster, required above 5 GiB, and keeps requests below the timeout.
COPY_PART_BYTES: Final = 64 * 1024 * 1024

Part = dict[str, Any]


class Multipart:
    """Writes and copies objects of one bucket, in parts if they are large."""

    def __init__(self, bucket: S3Bucket, part_bytes: int) -> None:
        """
        Args:
            part_bytes: size of the parts; a smaller file is written in one request.
        """
        self._bucket = bucket
        self._part_bytes = part_bytes
        self._concurrent_uploads = max(1, _UPLOAD_MEMORY_BYTES // part_bytes - 1)

    def write(self, key: str, blocks: Iterable[Bytes]) -> int:
        """
        Write an object of any size. It becomes visible when *blocks* ends; a failed upload leaves nothing behind.

        Returns:
            The object's size in bytes.
        """
        free_buffers: list[bytearray] = []
        contents = _joined(blocks, self._part_bytes, free_buffers)
        content = next(contents, bytearray())
        size = len(content)
        if size < self._part_bytes:
            self._bucket.put(key, content)
            return size
        with _Upload(self._bucket, key, self._concurrent_uploads) as upload:
            upload.send(content, free_buffers)
            for content in contents:
                size += len(content)
                upload.send(content, free_buffers)
            upload.complete(size)
        return size

    def copy(self, source: Entry, target: str) -> None:
        """
        Copy an object on the server, in parts if it is large.

        Raises:
            PathNotFound: the source does not exist.
            PreconditionFailed: a large source has been replaced.
        """
        if source.size <= COPY_PART_BYTES:
            self._bucket.copy(source, target)
            return
        part_bytes = max(COPY_PART_BYTES, -(-source.size // _MAX_PARTS))
        with _Upload(self._bucket, target, _CONCURRENT_COPIES) as upload:
            for start in range(0, source.size, part_bytes):
                upload.copy(source, start, min(start + part_bytes, source.size))
            upload.complete(source.size)

    def touch(self, entry: Entry) -> None:
        """Update an object's modification time."""
        if entry.size <= COPY_PART_BYTES:
            self._bucket.touch(entry)
        else:
            self.copy(entry, entry.name)

    def sweep(self, prefix: str, older_than_seconds: float) -> int:
        """
        Abort unfinished uploads below a prefix that were started at least *older_than_seconds* ago.

        Returns:
            The number of aborted uploads.
        """
        cutoff, aborted = time.time() - older_than_seconds, 0
        for unfinished in list(self._unfinished(prefix)):
            if unfinished["Initiated"].timestamp() <= cutoff:
                _abort(self._bucket, unfinished["Key"], unfinished["UploadId"])
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
    """One multipart upload, aborted at the end of the ``with`` block unless it was completed."""

    def __init__(self, bucket: S3Bucket, key: str, concurrency: int) -> None:
        self._bucket = bucket
        self._key = key
        self._concurrency = concurrency
        self._parts: list[Part] = []
        self._in_flight: deque[Future[Part]] = deque()
        self._is_complete = False

    def __enter__(self) -> _Upload:  # noqa: PYI034 - Self is newer than Python 3.10
        # In a server worker these threads are greenlets. The additional one computes the MD5 of the next part.
        self._threads = ThreadPoolExecutor(self._concurrency + 1, "s3-part")
        with translated():
            response = self._bucket.client.create_multipart_upload(
                Bucket=self._bucket.name, Key=self._key, **self._bucket.object_options
            )
        self._upload_parameters = {"Bucket": self._bucket.name, "Key": self._key, "UploadId": response["UploadId"]}
        return self

    def __exit__(self, *_: object) -> None:
        # No part may arrive after the abort: S3 would keep it.
        self._threads.shutdown(wait=True, cancel_futures=True)
        if not self._is_complete:
            try:
                _abort(self._bucket, self._key, self._upload_parameters["UploadId"])
            except StorageError:  # the original exception is propagating; sweep() aborts the upload later
                return

    def send(self, content: bytearray, free_buffers: list[bytearray]) -> None:
        """Upload the next part in the background; the buffer is appended to *free_buffers* when it may be reused."""
        # Compute the MD5 while the previous part is still being sent.
        md5 = self._threads.submit(run_in_thread, content_md5, content)
        self._start(self._send, content, md5, free_buffers)

    def copy(self, source: Entry, start: int, end: int) -> None:
        """Copy the bytes from *start* to before *end* of an object on the server as the next part."""
        self._start(self._copy, source, start, end)

    def complete(self, size: int) -> None:
        """
        Wait for all parts and publish the object.

        Args:
            size: the expected size of the object in bytes.
        """
        while self._in_flight:
            self._parts.append(self._in_flight.popleft().result())
        try:
            with translated():
                self._bucket.client.complete_multipart_upload(
                    **self._upload_parameters, MultipartUpload={"Parts": self._parts}
                )
        except PathNotFound:
            # No such upload: either an earlier attempt completed it and its response was lost, or it was aborted.
            if self._bucket.head(self._key).size != size:
                raise StorageError("S3 lost an upload.") from None
        self._is_complete = True

    def _start(self, work: Callable[..., Part], *args: Any) -> None:
        number = len(self._parts) + len(self._in_flight) + 1
        if number > _MAX_PARTS:
            raise StorageError("The file has more parts than S3 allows; increase s3_part_bytes.")
        if len(self._in_flight) == self._concurrency:
            self._parts.append(self._in_flight.popleft().result())
        self._in_flight.append(self._threads.submit(work, number, *args))

    def _send(self, number: int, content: bytearray, md5: Future[str], free_buffers: list[bytearray]) -> Part:
        with translated():
            sent = self._bucket.client.upload_part(
                **self._upload_parameters, PartNumber=number, Body=content, ContentMD5=md5.result()
            )
        free_buffers.append(content)
        return {"PartNumber": number, "ETag": sent["ETag"]}

    def _copy(self, number: int, source: Entry, start: int, end: int) -> Part:
        with translated():
            copied = self._bucket.client.upload_part_copy(
                **self._upload_parameters,
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
    except PathNotFound:  # already completed or aborted
        return


def _joined(blocks: Iterable[Bytes], size: int, free_buffers: list[bytearray]) -> Iterator[bytearray]:
    """
    Regroup blocks into parts of equal size; each is yielded as soon as it is full, and the last may be shorter.

    Parts after the first :data:`_EQUAL_PARTS` are larger. With the default part size, only files of more than 140 GiB
    have that many.

    Args:
        free_buffers: buffers that may be overwritten; reusing them keeps the memory of the process from growing.
    """
    content, filled, yielded = bytearray(), 0, 0
    for block in blocks:
        rest = memoryview(block)
        while rest:
            piece = rest[: size - filled]
            if filled < len(content):
                memoryview(content)[filled : filled + len(piece)] = piece
            else:
                content += piece
            filled += len(piece)
            rest = rest[len(piece) :]
            if filled == size:
                yield content
                yielded += 1
                if yielded == _EQUAL_PARTS:
                    size *= _GROWTH_FACTOR
                content, filled = free_buffers.pop() if free_buffers and yielded < _EQUAL_PARTS else bytearray(), 0
    if filled:
        del content[filled:]
        yield content
