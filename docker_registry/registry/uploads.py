"""
Uploads: receiving bytes, verifying their digest and publishing them as a blob.

Bytes are hashed while they are written into a session (:mod:`~docker_registry.registry.upload_sessions`), and nothing
appears under ``blobs/`` before its digest is verified. Docker, podman and skopeo send a single chunk. It is moved to
the blob's path, or written there if it is in memory. Several chunks are joined in another pass over their bytes. On
stores where a move is a copy, a blob that arrives with its digest in one request is streamed directly to its path,
and published only if the digest matches.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import BlobUnknown, DigestInvalid, PathNotFound, RangeInvalid, SizeInvalid, UploadUnknown
from docker_registry.registry import layout
from docker_registry.registry.actor import ANONYMOUS_DELETE, ANONYMOUS_PUSH, GARBAGE_COLLECTION, Actor
from docker_registry.registry.blobs import Blobs
from docker_registry.registry.ingest import Body, BufferPool, Ingest, Tap
from docker_registry.registry.names import CANONICAL, Digest, RepositoryName
from docker_registry.registry.sources import Blob
from docker_registry.registry.upload_sessions import Chunk, Upload, UploadSessions
from docker_registry.resources.time_slices import TimeSlices

logger = logging.getLogger(__name__)

_COMMITTED: Final = "blob %s was pushed to %s by %s"


class Uploads:
    """
    The operations of clients on upload sessions.

    Attributes:
        counts: numbers of sessions.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: Blobs,
        now: Callable[[], float] = time.time,
        slices: TimeSlices | None = None,
        buffers: BufferPool | None = None,
    ) -> None:
        """
        Args:
            now: the clock, seconds since the Unix epoch.
            slices: divides the scan of all sessions into time slices.
            buffers: allocates the blocks of bodies; by default a pool of its own.
        """
        self._driver = driver
        self._blobs = blobs
        self._buffers = buffers or BufferPool()
        self._sessions = UploadSessions(driver, now, slices)
        self.counts = self._sessions.counts

    def start(
        self, name: RepositoryName | None, algorithm: str = CANONICAL, *, actor: Actor = ANONYMOUS_PUSH
    ) -> Upload:
        """
        Start a session (end-4a, end-4c).

        Args:
            name: the repository; None when the target repository is not known yet.
            algorithm: of the digest that the client will commit with, if it announced one.
        """
        upload = self._sessions.start(name, algorithm)
        logger.debug("upload %s to %s was started by %s", upload.id, name, actor)
        return upload

    def get(self, name: RepositoryName | None, upload_id: str) -> Upload:
        """
        Return the current state of a session (end-13).

        Raises:
            UploadUnknown: no such session, it has ended, or its state was written by distribution.
        """
        return self._sessions.get(name, upload_id)

    def read(self, name: RepositoryName | None, upload_id: str) -> Iterator[bytes]:
        """
        Read all bytes that an uncommitted session has received.

        Raises:
            UploadUnknown: no such session, or it has ended.
        """
        upload = self.get(name, upload_id)
        try:
            for chunk in self._sessions.chunks(upload):
                yield from self._read(upload, chunk)
        except PathNotFound:
            raise UploadUnknown(id=upload_id) from None

    def append(
        self,
        name: RepositoryName | None,
        upload_id: str,
        body: Body,
        start: int | None = None,
        length: int | None = None,
        taps: Sequence[Tap] = (),
        *,
        actor: Actor = ANONYMOUS_PUSH,
    ) -> Upload:
        """
        Add the next bytes of a blob to a session (end-5).

        Args:
            start: where *body* begins in the blob, bytes from 0; None when the client sent no Content-Range.
            length: bytes announced by Content-Range; None without it.
            taps: further functions that receive every block of the body.

        Returns:
            The updated session; its ``size`` is the only offset accepted next.

        Raises:
            UploadUnknown: no such session, or it was committed, cancelled or purged meanwhile.
            RangeInvalid: *start* is not the session's size, or another request has added bytes meanwhile.
            SizeInvalid: the body ended early; the received bytes are kept, so the client may resume. Or the body was
                longer than *length* or Content-Length differs from it; then nothing is kept.
            TooLarge: the session has too many chunks already.
        """
        upload = self.get(name, upload_id)
        _check_start(upload, start)
        self._sessions.check_chunk_count(upload)
        chunk, complete = self._receive(upload, body, length, taps)
        if chunk.size:
            upload = self._sessions.enter(upload, chunk)
            logger.debug("upload %s received %d bytes from %s", upload_id, chunk.size, actor)
        if not complete:
            raise SizeInvalid("The body ended early.", size=upload.size)
        return upload

    def commit(
        self,
        name: RepositoryName | None,
        upload_id: str,
        digest: Digest,
        body: Body,
        start: int | None = None,
        length: int | None = None,
        *,
        actor: Actor = ANONYMOUS_PUSH,
    ) -> Blob:
        """
        Turn a session into a blob (end-6).

        Args:
            digest: expected digest of all bytes.
            body: the last bytes, may be empty.
            start, length: as for :meth:`append`; with an empty body they may also repeat the range of the bytes before.

        Returns:
            The blob; also when an earlier request has committed it already.

        Raises:
            DigestInvalid: the bytes have another digest; the session is deleted.
            UploadUnknown, RangeInvalid, SizeInvalid: as for :meth:`append`.
        """
        try:
            upload = self._sessions.get(name, upload_id, ends=body.length == 0)
        except UploadUnknown:
            return self._committed_before(name, digest, upload_id)
        if body.length == 0 and start is not None and length is not None and start + length == upload.size:
            start = length = None  # some clients repeat the range of the bytes that they sent before
        _check_start(upload, start)
        if self._driver.capabilities.move_copies and upload.is_empty:
            try:
                blob = self._put_straight(name, digest, body, length, actor=actor)
            except DigestInvalid:
                self._sessions.end(upload)
                raise
            self._sessions.end(upload)
            return blob
        if body.length != 0 or upload.is_empty:  # usually all bytes came by PATCH, and the body is empty
            last, complete = self._receive(upload, body, length)
            if not complete:
                upload = self._sessions.enter(upload, last) if last.size else upload
                raise SizeInvalid("The body ended early.", size=upload.size)
            if last.size or upload.is_empty:
                upload = upload.plus(last)
        return self._publish(upload, digest, actor)

    def put(self, name: RepositoryName | None, digest: Digest, body: Body, *, actor: Actor = ANONYMOUS_PUSH) -> Blob:
        """
        Store a blob in one request (end-4b).

        Raises:
            DigestInvalid: the body has another digest; nothing is kept.
            SizeInvalid: the body ended early; nothing is kept.
        """
        if self._driver.capabilities.move_copies:
            return self._put_straight(name, digest, body, actor=actor)
        upload = Upload(name, str(uuid.uuid4()), digest.algorithm)
        chunk, complete = self._receive(upload, body, None)
        upload = upload.plus(chunk)
        self.counts.started += 1  # it is counted when it ends
        if not complete:
            self._sessions.end(upload)
            raise SizeInvalid("The body ended early.")
        return self._publish(upload, digest, actor)

    def cancel(self, name: RepositoryName | None, upload_id: str, *, actor: Actor = ANONYMOUS_DELETE) -> None:
        """
        Delete a session and its bytes (end-14).

        Raises:
            UploadUnknown: no such session.
        """
        self._sessions.end(self.get(name, upload_id))
        logger.debug("upload %s was cancelled by %s", upload_id, actor)

    def purge(
        self,
        name: RepositoryName | None,
        ttl_seconds: float,
        is_stopped: Callable[[], bool] = lambda: False,
        *,
        actor: Actor = GARBAGE_COLLECTION,
    ) -> int:
        """
        Delete the abandoned sessions of a repository, including those of other servers.

        Args:
            name: None for the sessions that belong to no repository.
            ttl_seconds: minimum time since the last change of a session.
            is_stopped: asked before each deletion; ends the work when it returns true.

        Returns:
            The number of deleted sessions.
        """
        purged = self._sessions.purge(name, ttl_seconds, is_stopped)
        if purged:
            logger.debug("%d abandoned uploads to %s were deleted by %s", purged, name, actor)
        return purged

    # ------------------------------------------------------------------------------------------------- steps

    def _receive(self, upload: Upload, body: Body, length: int | None, taps: Sequence[Tap] = ()) -> tuple[Chunk, bool]:
        """Store a body as a chunk, in memory if it is short and the first; return also whether it is complete."""
        if length is not None and body.length is not None and length != body.length:
            raise SizeInvalid("Content-Range and Content-Length disagree.", range=length, length=body.length)
        ingest = Ingest(body, self._buffers, upload.algorithm, max_bytes=length, taps=taps)
        content = ingest.short() if upload.is_empty else None
        name = self._sessions.write(upload, ingest) if content is None else None
        complete = ingest.complete and length in (None, ingest.size)
        if name is not None and not ingest.size:  # it is not entered, so nothing would limit their number
            self._sessions.discard_object(upload, name)
        return Chunk(name, ingest.size, ingest.digest, content), complete

    def _put_straight(
        self, name: RepositoryName | None, digest: Digest, body: Body, length: int | None = None, *, actor: Actor
    ) -> Blob:
        """Stream a whole blob to its path; it becomes visible only after its digest was verified."""
        ingest = Ingest(body, self._buffers, digest.algorithm, max_bytes=length)
        self._driver.stream_write(layout.blob_data(digest), _verified(ingest, digest, length))
        if name is not None:
            self._blobs.link(name, digest)
        logger.debug(_COMMITTED, digest, name, actor)
        return self._blobs.stat_anywhere(digest)

    def _publish(self, upload: Upload, digest: Digest, actor: Actor) -> Blob:
        """Verify the bytes of a session, publish them as a blob of the repository, and delete the session."""
        name = upload.name
        try:
            chunk = self._verified(upload, digest)
            with self._driver.batch():
                if chunk.content is not None:
                    blob = self._blobs.put(chunk.content, digest, name)
                else:
                    blob = self._blobs.publish(upload.path(chunk), digest)
                    if name is not None:
                        self._blobs.link(name, digest)
        except DigestInvalid:
            self._sessions.end(upload)
            raise
        except PathNotFound:
            # A concurrent commit of this session, or one before a crash, has moved the bytes already. A blob that the
            # repository has no link to counts as committed only if this session received exactly its bytes.
            if upload.only_chunk is None or upload.only_chunk.digest != digest:
                return self._committed_before(name, digest, upload.id)
            blob = self._find_anywhere(digest, upload.id)
            if name is not None:
                self._blobs.link(name, digest)
        self._sessions.end(upload)
        logger.debug(_COMMITTED, digest, name, actor)
        return blob

    def _verified(self, upload: Upload, digest: Digest) -> Chunk:
        """Return one chunk that holds exactly the bytes of *digest*."""
        chunk = upload.only_chunk
        if chunk is not None and upload.algorithm == digest.algorithm:
            if chunk.digest != digest:
                raise DigestInvalid(digest=str(digest), received=str(chunk.digest))
            if chunk.content is None and self._driver.get_size(upload.path(chunk)) != chunk.size:
                raise DigestInvalid("The stored content differs from the received content.", digest=str(digest))
            return chunk
        return Chunk(self._sessions.write(upload, self._joined(upload, digest)), upload.size, digest)

    def _read(self, upload: Upload, chunk: Chunk) -> Iterator[bytes]:
        return self._driver.stream_read(upload.path(chunk)) if chunk.content is None else iter([chunk.content])

    def _joined(self, upload: Upload, digest: Digest) -> Iterator[bytes]:
        """Yield all bytes in order; raise DigestInvalid at the end if they do not match *digest*."""
        joined = hashlib.new(digest.algorithm)
        for chunk in self._sessions.chunks(upload):
            for block in self._read(upload, chunk):
                joined.update(block)
                yield block
        if Digest.from_hash(joined) != digest:
            raise DigestInvalid(digest=str(digest), received=str(Digest.from_hash(joined)))

    def _committed_before(self, name: RepositoryName | None, digest: Digest, upload_id: str) -> Blob:
        """Return the blob of a commit that a client repeats because it did not receive the response."""
        if name is None:
            return self._find_anywhere(digest, upload_id)
        try:
            return self._blobs.stat(name, digest)
        except BlobUnknown:
            raise UploadUnknown(id=upload_id) from None

    def _find_anywhere(self, digest: Digest, upload_id: str) -> Blob:
        try:
            return self._blobs.stat_anywhere(digest)
        except BlobUnknown:
            raise UploadUnknown(id=upload_id) from None


def _check_start(upload: Upload, start: int | None) -> None:
    if start is not None and start != upload.size:
        raise RangeInvalid(size=upload.size)


def _verified(ingest: Ingest, digest: Digest, length: int | None) -> Iterator[memoryview]:
    """Yield the blocks; raise at the end if the size or the digest is not as announced."""
    yield from ingest
    if not ingest.complete or length not in (None, ingest.size):
        raise SizeInvalid("The body ended early.")
    if ingest.digest != digest:
        raise DigestInvalid(digest=str(digest), received=str(ingest.digest))
