"""
Uploads: how bytes become a blob.

Bytes are hashed on their way into a session (:mod:`~docker_registry.registry.upload_sessions`), and nothing lies under
``blobs/`` before its digest is verified. One chunk, which is what docker, podman and skopeo send, is compared and
moved, or put in its place when it is in hand; several are joined in one more pass over their bytes. Where a move would
be a copy, a blob that comes in one request, with its digest, is written to its place at once, and published only when
it is what was said.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import BlobUnknown, DigestInvalid, PathNotFound, RangeInvalid, SizeInvalid, UploadUnknown
from docker_registry.registry import layout
from docker_registry.registry.blobs import Blob, Blobs
from docker_registry.registry.intake import Body, Intake, Tap
from docker_registry.registry.names import CANONICAL, Digest, RepositoryName
from docker_registry.registry.upload_sessions import Chunk, Upload, UploadSessions
from docker_registry.time_slices import TimeSlices


class Uploads:
    """What clients do with upload sessions."""

    def __init__(
        self,
        driver: StorageDriver,
        blobs: Blobs,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        slices: TimeSlices | None = None,
    ) -> None:
        """
        Args:
            now: the clock.
            slices: the schedule for looking through all sessions.
        """
        self._driver = driver
        self._blobs = blobs
        self._sessions = UploadSessions(driver, now, slices)

    def start(self, name: RepositoryName | None, algorithm: str = CANONICAL) -> Upload:
        """
        Begin a session (end-4a, end-4c).

        Args:
            algorithm: of the digest that the client will commit with, where it said so.
        """
        return self._sessions.start(name, algorithm)

    def get(self, name: RepositoryName | None, upload_id: str) -> Upload:
        """
        Return a session as it is (end-13).

        Raises:
            UploadUnknown: it never began, is over, or belongs to a server of another kind.
        """
        return self._sessions.get(name, upload_id)

    def read(self, name: RepositoryName | None, upload_id: str) -> Iterator[bytes]:
        """
        Read all that a session keeps, before it is committed.

        Raises:
            UploadUnknown: no such session, or it is over.
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
    ) -> Upload:
        """
        Add the next bytes of a blob to a session (end-5).

        Args:
            start: where *body* begins in the blob, bytes from 0; None when the client sent no Content-Range.
            length: bytes that Content-Range announced; None without it.
            taps: who else looks at the bytes as they pass.

        Returns:
            The session as it now is; its ``size`` is the only offset accepted next.

        Raises:
            UploadUnknown: no such session, or it was committed, cancelled or purged meanwhile.
            RangeInvalid: *start* is not the session's size, or another request has added bytes meanwhile.
            SizeInvalid: the body ended early, and what came is kept, so that the client may resume; or it was
                longer than *length*, and nothing of it is kept.
            TooLarge: the session has too many chunks already.
        """
        upload = self.get(name, upload_id)
        _check_start(upload, start)
        self._sessions.check_room(upload)
        chunk, complete = self._receive(upload, body, length, taps)
        if chunk.size:
            upload = self._sessions.enter(upload, chunk)
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
    ) -> Blob:
        """
        Turn a session into a blob (end-6).

        Args:
            digest: what all the bytes must amount to.
            body: the last bytes, or none.
            start, length: as for :meth:`append`; without a body they may also repeat where the last bytes belong.

        Raises:
            DigestInvalid: the bytes amount to something else; the session is gone.
            UploadUnknown, RangeInvalid, SizeInvalid: as for :meth:`append`.
        """
        try:
            upload = self._sessions.get(name, upload_id, ends=body.length == 0)
        except UploadUnknown:
            return self._committed_before(name, digest, upload_id)
        if body.length == 0 and start is not None and length is not None and start + length == upload.size:
            start = length = None  # the range of the bytes that came before, which some clients repeat
        _check_start(upload, start)
        if self._driver.move_copies and not upload.chunk_count:
            try:
                blob = self._put_straight(name, digest, body, length)
            except DigestInvalid:
                self._sessions.end(upload)
                raise
            self._sessions.end(upload)
            return blob
        if body.length != 0 or not upload.chunk_count:  # the last bytes came with a PATCH before, mostly
            last, complete = self._receive(upload, body, length)
            if not complete:
                upload = self._sessions.enter(upload, last) if last.size else upload
                raise SizeInvalid("The body ended early.", size=upload.size)
            if last.size or not upload.chunk_count:
                upload = upload.plus(last)
        return self._publish(upload, digest)

    def put(self, name: RepositoryName | None, digest: Digest, body: Body) -> Blob:
        """
        Store a blob in one request (end-4b).

        Raises:
            DigestInvalid: the body is something else; nothing of it is kept.
            SizeInvalid: the body ended early; nothing of it is kept.
        """
        if self._driver.move_copies:
            return self._put_straight(name, digest, body)
        upload = Upload(name, str(uuid.uuid4()), digest.algorithm)
        chunk, complete = self._receive(upload, body, None)
        upload = upload.plus(chunk)
        if not complete:
            self._sessions.end(upload)
            raise SizeInvalid("The body ended early.")
        return self._publish(upload, digest)

    def cancel(self, name: RepositoryName | None, upload_id: str) -> None:
        """
        Forget a session and its bytes (end-14).

        Raises:
            UploadUnknown: no such session.
        """
        self._sessions.end(self.get(name, upload_id))

    def purge(self, name: RepositoryName | None, ttl_seconds: float) -> int:
        """
        Forget the sessions of a repository that nobody has touched for a while, those of other servers included.

        Returns:
            How many there were.
        """
        return self._sessions.purge(name, ttl_seconds)

    # ------------------------------------------------------------------------------------------------- steps

    def _receive(self, upload: Upload, body: Body, length: int | None, taps: Sequence[Tap] = ()) -> tuple[Chunk, bool]:
        """Write a body into an object of its own; tell also whether it came whole."""
        if length is not None and body.length is not None and length != body.length:
            raise SizeInvalid("Content-Range and Content-Length disagree.", range=length, length=body.length)
        intake = Intake(body, upload.algorithm, max_bytes=length, taps=taps)
        content = None if upload.chunk_count else intake.short()
        name = self._sessions.write(upload, intake) if content is None else None
        complete = intake.complete and length in (None, intake.size)
        return Chunk(name, intake.size, intake.digest, content), complete

    def _put_straight(self, name: RepositoryName | None, digest: Digest, body: Body, length: int | None = None) -> Blob:
        """Write a whole blob to its place; there is nothing to be seen before its last byte was verified."""
        intake = Intake(body, digest.algorithm, max_bytes=length)
        self._driver.stream_write(layout.blob_data(digest), _verified(intake, digest, length))
        if name is not None:
            self._blobs.link(name, digest)
        return self._blobs.stat_anywhere(digest)

    def _publish(self, upload: Upload, digest: Digest) -> Blob:
        """Verify what the session holds, make it a blob of the repository, and end the session."""
        name = upload.name
        try:
            chunk = self._verified(upload, digest)
            with self._driver.together():
                if chunk.content is not None:
                    blob = self._blobs.put(chunk.content, digest)
                else:
                    blob = self._blobs.publish(upload.path(chunk), digest)
                if name is not None:
                    self._blobs.link(name, digest)
        except DigestInvalid:
            self._sessions.end(upload)
            raise
        except PathNotFound:
            # Another request of this session has moved the bytes on, or one before a crash. They were received
            # here, and hashed: only then does a blob that this repository cannot read yet count as committed.
            if upload.only_chunk is None or upload.only_chunk.digest != digest:
                return self._committed_before(name, digest, upload.id)
            blob = self._find_anywhere(digest, upload.id)
            if name is not None:
                self._blobs.link(name, digest)
        self._sessions.end(upload)
        return blob

    def _verified(self, upload: Upload, digest: Digest) -> Chunk:
        """Return one chunk that holds exactly the bytes of *digest*."""
        chunk = upload.only_chunk
        if chunk is not None and upload.algorithm == digest.algorithm:
            if chunk.digest != digest:
                raise DigestInvalid(digest=str(digest), received=str(chunk.digest))
            if chunk.content is None and self._driver.get_size(upload.path(chunk)) != chunk.size:
                raise DigestInvalid("The store does not hold what was received.", digest=str(digest))
            return chunk
        return Chunk(self._sessions.write(upload, self._joined(upload, digest)), upload.size, digest)

    def _read(self, upload: Upload, chunk: Chunk) -> Iterator[bytes]:
        return self._driver.stream_read(upload.path(chunk)) if chunk.content is None else iter([chunk.content])

    def _joined(self, upload: Upload, digest: Digest) -> Iterator[bytes]:
        """Yield all bytes in their order, and refuse to end when they are not those of *digest*."""
        joined = hashlib.new(digest.algorithm)
        for chunk in self._sessions.chunks(upload):
            for block in self._read(upload, chunk):
                joined.update(block)
                yield block
        if Digest.from_hash(joined) != digest:
            raise DigestInvalid(digest=str(digest), received=str(Digest.from_hash(joined)))

    def _committed_before(self, name: RepositoryName | None, digest: Digest, upload_id: str) -> Blob:
        """Answer a commit that is repeated by a client that did not hear the answer."""
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


def _verified(intake: Intake, digest: Digest, length: int | None) -> Iterator[memoryview]:
    """Yield what comes, and refuse to end when it is not what was announced."""
    yield from intake
    if not intake.complete or length not in (None, intake.size):
        raise SizeInvalid("The body ended early.")
    if intake.digest != digest:
        raise DigestInvalid(digest=str(digest), received=str(intake.digest))
