"""
Upload sessions: how bytes become a blob.

A session is a folder. Each request that brings bytes writes them into an object of its own, hashed on the way, and
then enters it into the session's ``state`` by compare-and-swap; only what the state names counts. So any worker on
any host can take the next request, and a request that stalls and wakes up after its own repetition finds another
state and changes nothing::

    {"algorithm": "sha256", "chunks": [{"object": "0-5f0c…", "size": 1048576, "digest": "sha256:9b1d…"}]}

Nothing lies under ``blobs/`` before its digest is verified. One chunk, which is what docker, podman and skopeo send,
is compared and moved; several are joined in one more pass over their bytes. Where a move would be a copy, a blob that
comes in one request, with its digest, is written to its place at once, and published only when it is what was said.

A session belongs to a repository, or to none yet: an image of API V1 is uploaded before anybody says where it belongs.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import (
    BlobUnknown,
    DigestInvalid,
    PathNotFound,
    PreconditionFailed,
    RangeInvalid,
    SizeInvalid,
    UploadUnknown,
)
from docker_registry.registry import layout
from docker_registry.registry.blobs import Blob, Blobs
from docker_registry.registry.intake import Body, Intake, Tap
from docker_registry.registry.names import CANONICAL, Digest, RepositoryName


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    What one request brought.

    Attributes:
        object: the file's name in the session's folder, ``<offset>-<random>``.
        size: bytes.
    """

    object: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Upload:
    """
    A session as it is at one moment.

    Attributes:
        algorithm: how its chunks are hashed.
        version: of the stored state that it was read from; :data:`ABSENT` before the first bytes.
    """

    id: str
    algorithm: str = CANONICAL
    chunks: tuple[Chunk, ...] = ()
    version: str = ABSENT

    @property
    def size(self) -> int:
        """Bytes that are kept: the only offset at which the upload goes on."""
        return sum(chunk.size for chunk in self.chunks)


def parse_upload_id(text: str) -> str:
    """
    Raises:
        UploadUnknown: not an id that :meth:`Uploads.start` could have given.
    """
    try:
        known = str(uuid.UUID(text)) == text
    except ValueError:
        known = False
    if not known:
        raise UploadUnknown(id=text[:64])
    return text


class Uploads:
    """All unfinished uploads of the registry."""

    def __init__(
        self,
        driver: StorageDriver,
        blobs: Blobs,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        """
        Args:
            now: the clock.
        """
        self._driver = driver
        self._sessions = driver.short_lived
        self._blobs = blobs
        self._now = now

    def start(self, name: RepositoryName | None, algorithm: str = CANONICAL) -> Upload:
        """
        Begin a session (end-4a, end-4c).

        Args:
            algorithm: of the digest that the client will commit with, where it said so.
        """
        upload = Upload(str(uuid.uuid4()), algorithm)
        started = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        self._sessions.put_content(f"{layout.upload(name, upload.id)}/startedat", started.encode())
        return upload if algorithm == CANONICAL else self._store(name, upload)

    def get(self, name: RepositoryName | None, upload_id: str) -> Upload:
        """
        Return a session as it is (end-13).

        Raises:
            UploadUnknown: it never began, is over, or belongs to a server of another kind.
        """
        folder = layout.upload(name, upload_id)
        try:
            stored = self._driver.get_versioned(f"{folder}/state")
        except PathNotFound:
            # A session of distribution keeps its bytes in `data` and its hash in a form that only it can read.
            if self._driver.exists(f"{folder}/startedat") and not self._driver.exists(f"{folder}/data"):
                return Upload(upload_id)
            raise UploadUnknown(id=upload_id) from None
        try:
            state = json.loads(stored.content)
        except ValueError:  # the host has crashed before all of it was on the disk
            raise UploadUnknown(id=upload_id) from None
        chunks = tuple(Chunk(item["object"], item["size"], Digest.parse(item["digest"])) for item in state["chunks"])
        return Upload(upload_id, state["algorithm"], chunks, stored.version)

    def read(self, name: RepositoryName | None, upload_id: str) -> Iterator[bytes]:
        """
        Read all that a session keeps, before it is committed.

        Raises:
            UploadUnknown: no such session, or it is over.
        """
        for chunk in self.get(name, upload_id).chunks:
            try:
                yield from self._driver.stream_read(f"{layout.upload(name, upload_id)}/{chunk.object}")
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
        """
        upload = self.get(name, upload_id)
        self._check_start(upload, start)
        chunk, complete = self._receive(name, upload, body, length, taps)
        if chunk.size:
            upload = self._enter(name, upload, chunk)
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
            start, length: as for :meth:`append`.

        Raises:
            DigestInvalid: the bytes amount to something else; the session is gone.
            UploadUnknown, RangeInvalid, SizeInvalid: as for :meth:`append`.
        """
        try:
            upload = self.get(name, upload_id)
        except UploadUnknown:
            return self._committed_before(name, digest, upload_id)
        self._check_start(upload, start)
        if self._driver.move_copies and not upload.chunks:
            try:
                blob = self._put_straight(name, digest, body, length)
            except DigestInvalid:
                self._clean(name, upload_id)
                raise
            self._clean(name, upload_id)
            return blob
        if body.length != 0 or not upload.chunks:  # the last bytes came with a PATCH before, mostly
            last, complete = self._receive(name, upload, body, length)
            if not complete:
                upload = self._enter(name, upload, last) if last.size else upload
                raise SizeInvalid("The body ended early.", size=upload.size)
            if last.size or not upload.chunks:
                upload = replace(upload, chunks=(*upload.chunks, last))
        return self._publish(name, upload, digest)

    def put(self, name: RepositoryName | None, digest: Digest, body: Body) -> Blob:
        """
        Store a blob in one request (end-4b).

        Raises:
            DigestInvalid: the body is something else; nothing of it is kept.
            SizeInvalid: the body ended early; nothing of it is kept.
        """
        if self._driver.move_copies:
            return self._put_straight(name, digest, body)
        upload = Upload(str(uuid.uuid4()), digest.algorithm)
        chunk, complete = self._receive(name, upload, body, None)
        if not complete:
            self._clean(name, upload.id)
            raise SizeInvalid("The body ended early.")
        return self._publish(name, replace(upload, chunks=(chunk,)), digest)

    def cancel(self, name: RepositoryName | None, upload_id: str) -> None:
        """
        Forget a session and its bytes (end-14).

        Raises:
            UploadUnknown: no such session.
        """
        upload = self.get(name, upload_id)
        self._clean(name, upload.id)

    def purge(self, name: RepositoryName | None, ttl_seconds: float) -> int:
        """
        Forget the sessions of a repository that nobody has touched for a while, those of other servers included.

        Returns:
            How many there were.
        """
        oldest = self._now().timestamp() - ttl_seconds
        purged = 0
        for folder in self._list(name):
            touched = max((stat.modified for stat in self._driver.walk(folder)), default=None)
            if touched is not None and touched < oldest:  # in a folder without any file a session begins just now
                purged += 1
                try:
                    self._sessions.remove(folder)
                except PathNotFound:  # committed or cancelled just now
                    purged -= 1
        return purged

    # ------------------------------------------------------------------------------------------------- steps

    def _list(self, name: RepositoryName | None) -> list[str]:
        try:
            return list(self._driver.list_directory(layout.uploads(name)))
        except PathNotFound:
            return []

    def _check_start(self, upload: Upload, start: int | None) -> None:
        if start is not None and start != upload.size:
            raise RangeInvalid(size=upload.size)

    def _receive(
        self, name: RepositoryName | None, upload: Upload, body: Body, length: int | None, taps: Sequence[Tap] = ()
    ) -> tuple[Chunk, bool]:
        """Write a body into an object of its own; tell also whether it came whole."""
        if length is not None and body.length is not None and length != body.length:
            raise SizeInvalid("Content-Range and Content-Length disagree.", range=length, length=body.length)
        intake = Intake(body, upload.algorithm, max_bytes=length, taps=taps)
        chunk_object = f"{upload.size}-{secrets.token_hex(8)}"
        self._sessions.stream_write(f"{layout.upload(name, upload.id)}/{chunk_object}", intake)
        complete = intake.complete and length in (None, intake.size)
        return Chunk(chunk_object, intake.size, intake.digest), complete

    def _enter(self, name: RepositoryName | None, upload: Upload, chunk: Chunk) -> Upload:
        """Make a received chunk count, if nobody else has changed the session meanwhile."""
        try:
            entered = self._store(name, replace(upload, chunks=(*upload.chunks, chunk)))
        except PreconditionFailed:
            self._remove(f"{layout.upload(name, upload.id)}/{chunk.object}")
            raise RangeInvalid(size=self.get(name, upload.id).size) from None
        if upload.version == ABSENT and not self._driver.exists(f"{layout.upload(name, upload.id)}/startedat"):
            # Committed or cancelled while these bytes were on their way: what was just stored is a ghost.
            self._clean(name, upload.id)
            raise UploadUnknown(id=upload.id)
        return entered

    def _store(self, name: RepositoryName | None, upload: Upload) -> Upload:
        path = f"{layout.upload(name, upload.id)}/state"
        chunks = [{"object": item.object, "size": item.size, "digest": str(item.digest)} for item in upload.chunks]
        content = json.dumps({"algorithm": upload.algorithm, "chunks": chunks}).encode()
        if self._driver.supports_if_match:
            self._sessions.put_content(path, content, if_match=upload.version)
        else:
            # Two requests that come between these lines at once may lose a chunk, and then the upload fails at its
            # digest; a PATCH that stalled and wakes up later finds out.
            if self._version(path) != upload.version:
                raise PreconditionFailed(path=path)
            self._sessions.put_content(path, content)
        return upload

    def _version(self, path: str) -> str:
        try:
            return self._driver.get_versioned(path).version
        except PathNotFound:
            return ABSENT

    def _put_straight(self, name: RepositoryName | None, digest: Digest, body: Body, length: int | None = None) -> Blob:
        """Write a whole blob to its place; there is nothing to be seen before its last byte was verified."""
        intake = Intake(body, digest.algorithm, max_bytes=length)
        self._driver.stream_write(layout.blob_data(digest), _verified(intake, digest, length))
        if name is not None:
            self._blobs.link(name, digest)
        return self._blobs.stat_anywhere(digest)

    def _publish(self, name: RepositoryName | None, upload: Upload, digest: Digest) -> Blob:
        """Verify what the session holds, make it a blob of the repository, and end the session."""
        folder = layout.upload(name, upload.id)
        try:
            path = self._verified(folder, upload, digest)
            with self._driver.together():
                blob = self._blobs.publish(path, digest)
                if name is not None:
                    self._blobs.link(name, digest)
        except DigestInvalid:
            self._clean(name, upload.id)
            raise
        except PathNotFound:
            # Another request of this session has moved the bytes on, or one before a crash. They were received
            # here, and hashed: only then does a blob that this repository cannot read yet count as committed.
            if [chunk.digest for chunk in upload.chunks] != [digest]:
                return self._committed_before(name, digest, upload.id)
            blob = self._find_anywhere(digest, upload.id)
            if name is not None:
                self._blobs.link(name, digest)
        self._clean(name, upload.id)
        return blob

    def _verified(self, folder: str, upload: Upload, digest: Digest) -> str:
        """Return the path of one object that holds exactly the bytes of *digest*."""
        if len(upload.chunks) == 1 and upload.algorithm == digest.algorithm:
            chunk = upload.chunks[0]
            path = f"{folder}/{chunk.object}"
            if chunk.digest != digest:
                raise DigestInvalid(digest=str(digest), received=str(chunk.digest))
            if self._driver.get_size(path) != chunk.size:
                raise DigestInvalid("The store does not hold what was received.", digest=str(digest))
            return path
        path = f"{folder}/joined-{secrets.token_hex(8)}"
        self._sessions.stream_write(path, self._joined(folder, upload, digest))
        return path

    def _joined(self, folder: str, upload: Upload, digest: Digest) -> Iterator[bytes]:
        """Yield all bytes in their order, and refuse to end when they are not those of *digest*."""
        joined = hashlib.new(digest.algorithm)
        for chunk in upload.chunks:
            for block in self._driver.stream_read(f"{folder}/{chunk.object}"):
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

    def _clean(self, name: RepositoryName | None, upload_id: str) -> None:
        self._remove(layout.upload(name, upload_id))

    def _remove(self, path: str) -> None:
        try:
            self._sessions.remove(path)
        except PathNotFound:
            pass


def _verified(intake: Intake, digest: Digest, length: int | None) -> Iterator[memoryview]:
    """Yield what comes, and refuse to end when it is not what was announced."""
    yield from intake
    if not intake.complete or length not in (None, intake.size):
        raise SizeInvalid("The body ended early.")
    if intake.digest != digest:
        raise DigestInvalid(digest=str(digest), received=str(intake.digest))
