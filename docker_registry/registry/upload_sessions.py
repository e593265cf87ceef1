"""
Upload sessions: the stored state of a blob upload.

Starting a session creates its state file. Each request with bytes writes them to a new object in a folder beside the
state, and then adds that object to the state by compare-and-swap; only objects listed in the state count. So any
worker on any host can serve the next request, and a request that stalls and resumes after its own retry finds a
different state and changes nothing::

    {"algorithm": "sha256", "chunks": [{"object": "0-5f0c…", "size": 1048576, "digest": "sha256:9b1d…"}]}

The whole state is rewritten with each chunk, so it must stay small: when it lists :data:`MAX_LISTED` chunks, their
entries are moved to a separate object, which the state lists with their number and size::

    {"algorithm": …, "lists": [{"object": "list-1f0a…", "count": 256, "size": 268435456}], "chunks": []}

Most blobs are short and arrive in one request. Their bytes are stored in the state file itself, after its first line.
This needs a single write, reading the state returns the bytes too, and no folder is created.

A session belongs to a repository, or to none yet: API V1 uploads an image before its repository is known.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from docker_registry.drivers.base import ABSENT, Bytes, StorageDriver, Versioned
from docker_registry.errors import PathNotFound, PreconditionFailed, RangeInvalid, TooLarge, UploadUnknown
from docker_registry.registry import layout
from docker_registry.registry.deferred_failures import DeferredFailures
from docker_registry.registry.names import CANONICAL, Digest, RepositoryName
from docker_registry.resources.time_slices import TimeSlices

#: Maximum number of chunks that a state lists directly.
MAX_LISTED: Final = 256

#: Maximum number of chunks of an upload: 64 GiB in chunks of 1 MiB.
MAX_CHUNKS: Final = 65_536

_encode: Final = json.JSONEncoder().encode
_decode: Final = json.JSONDecoder().decode


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    The bytes received by one request.

    Attributes:
        object: name of the file in the session's folder, ``<offset>-<random>``; None for bytes in the state file.
        size: bytes.
        content: the bytes themselves, when they have no file.
    """

    object: str | None
    size: int
    digest: Digest
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ChunkList:
    """
    A group of chunks whose entries are stored in a separate object.

    Attributes:
        object: name of that object in the session's folder.
        count: number of chunks.
        size: bytes of all chunks together.
    """

    object: str
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Upload:
    """
    An immutable snapshot of a session.

    Attributes:
        name: the repository; None when it is not known yet.
        algorithm: digest algorithm of the chunks.
        chunks: the chunks listed in the state itself; they follow those of *lists*.
        lists: the earlier chunks.
        version: version of the state file that was read; :data:`ABSENT` if the snapshot was not read with a version.
    """

    name: RepositoryName | None
    id: str
    algorithm: str = CANONICAL
    chunks: tuple[Chunk, ...] = ()
    lists: tuple[ChunkList, ...] = ()
    version: str = field(default=ABSENT, compare=False)

    @property
    def size(self) -> int:
        """Bytes received: the only offset at which the upload can continue."""
        return sum([item.size for item in self.chunks]) + sum([item.size for item in self.lists])

    @property
    def is_empty(self) -> bool:
        """True if no chunk was received."""
        return not (self.chunks or self.lists)

    @property
    def chunk_count(self) -> int:
        """The number of chunks."""
        return len(self.chunks) + sum([item.count for item in self.lists])

    @property
    def only_chunk(self) -> Chunk | None:
        """The chunk that holds all bytes; None when there are no chunks or several."""
        return self.chunks[0] if not self.lists and len(self.chunks) == 1 else None

    @property
    def state(self) -> str:
        """Path of the state file."""
        return layout.upload_state(self.name, self.id)

    @property
    def folder(self) -> str:
        """Path of the folder of received chunks."""
        return layout.upload(self.name, self.id)

    def path(self, chunk: Chunk) -> str:
        """Return the path of a chunk's file."""
        return f"{self.folder}/{chunk.object}"

    def plus(self, chunk: Chunk) -> Upload:
        """Return a copy with one more chunk."""
        return Upload(self.name, self.id, self.algorithm, (*self.chunks, chunk), self.lists, self.version)


@dataclass(slots=True)
class UploadCounts:
    """
    Numbers of sessions.

    Attributes:
        started, ended, purged: by this process, since it began.
        remaining: found by a purge, and not deleted.
    """

    started: int = 0
    ended: int = 0
    purged: int = 0
    remaining: int = 0


class UploadSessions:
    """
    Stores the upload sessions of the registry.

    Attributes:
        counts: what this object has done.
    """

    def __init__(
        self,
        driver: StorageDriver,
        now: Callable[[], float],
        slices: TimeSlices | None = None,
        *,
        max_chunks: int = MAX_CHUNKS,
    ) -> None:
        """
        Args:
            now: the clock, seconds since the Unix epoch.
            slices: divides the scan of all sessions into time slices.
            max_chunks: maximum number of chunks of one session.
        """
        self._max_chunks = max_chunks
        self._pace = (slices or TimeSlices()).pace
        self._driver = driver
        self._scratch = driver.scratch
        self._now = now
        self.counts = UploadCounts()

    def start(self, name: RepositoryName | None, algorithm: str = CANONICAL) -> Upload:
        """
        Start a session.

        Args:
            algorithm: of the digest that the client will commit with, if it announced one.
        """
        upload = Upload(name, str(uuid.uuid4()), algorithm)
        self._scratch.put_content(upload.state, _state(upload))
        self.counts.started += 1
        return upload

    def get(self, name: RepositoryName | None, upload_id: str, *, ends: bool = False) -> Upload:
        """
        Return the current state of a session.

        Args:
            ends: the caller ends the session and adds no chunk, so the state is read without its version.

        Raises:
            UploadUnknown: no such session, it has ended, its state is damaged, or was written by distribution.
        """
        path = layout.upload_state(name, upload_id)
        stored = Versioned(self._driver.find(path) or b"", ABSENT) if ends else self._driver.find_versioned(path)
        if not stored or not stored.content:
            # Also for sessions of distribution, which stores a hash state that only it can read.
            raise UploadUnknown(id=upload_id)
        head, _, content = stored.content.partition(b"\n")
        try:
            state = _decode(head.decode())
            chunks = tuple([_chunk(entry, content) for entry in state["chunks"]])
            lists = tuple([ChunkList(**entry) for entry in state.get("lists", ())])
        except ValueError:  # torn by a crash of the host: session states are not synced to disk
            raise UploadUnknown(id=upload_id) from None
        return Upload(name, upload_id, state["algorithm"], chunks, lists, stored.version)

    def write(self, upload: Upload, blocks: Iterable[Bytes]) -> str:
        """
        Write bytes to a new object in the session's folder.

        They do not count until :meth:`enter` adds them or they are published as a blob.

        Returns:
            The object's name.
        """
        name = f"{upload.size}-{secrets.token_hex(8)}"
        self._scratch.stream_write(f"{upload.folder}/{name}", blocks)
        return name

    def discard_object(self, upload: Upload, name: str) -> None:
        """Remove an object of :meth:`write` that the state does not list."""
        self._scratch.discard(f"{upload.folder}/{name}")

    def enter(self, upload: Upload, chunk: Chunk) -> Upload:
        """
        Add a written chunk to the session's state.

        Raises:
            RangeInvalid: another request has changed the session meanwhile; the chunk was deleted.
            UploadUnknown: the session has ended.
        """
        with_chunk = self._spread(upload).plus(chunk)
        entered = self._listed(with_chunk)
        try:
            self._replace(entered)
        except PreconditionFailed:
            written: set[Chunk | ChunkList] = {*with_chunk.chunks, *entered.lists}
            for item in written.difference(upload.chunks, upload.lists):
                if item.object is not None:
                    self.discard_object(upload, item.object)
            raise RangeInvalid(size=self._size(upload)) from None
        return entered

    def check_chunk_count(self, upload: Upload) -> None:
        """
        Check that the session accepts another chunk.

        Raises:
            TooLarge: the session has the maximum number of chunks.
        """
        if upload.chunk_count >= self._max_chunks:
            raise TooLarge("The upload has too many chunks; send larger chunks.", max_chunks=self._max_chunks)

    def chunks(self, upload: Upload) -> Iterator[Chunk]:
        """
        Yield all chunks of a session in order.

        Raises:
            PathNotFound: the session has ended.
            UploadUnknown: a list of chunks is damaged.
        """
        for item in upload.lists:
            try:
                entries = json.loads(self._driver.get_content(f"{upload.folder}/{item.object}"))
            except ValueError:  # torn by a crash of the host, as the state may be
                raise UploadUnknown(id=upload.id) from None
            yield from (_chunk(entry, b"") for entry in entries)
        yield from upload.chunks

    def end(self, upload: Upload) -> None:
        """Delete a session and its bytes."""
        self._scratch.discard_file(upload.state)
        self.counts.ended += 1
        if upload.lists or any(chunk.object is not None for chunk in upload.chunks):
            self._scratch.discard(upload.folder)

    def purge(
        self, name: RepositoryName | None, ttl_seconds: float, is_stopped: Callable[[], bool] = lambda: False
    ) -> int:
        """
        Delete the abandoned sessions of a repository, including those of other servers.

        Args:
            name: None for the sessions that belong to no repository.
            ttl_seconds: minimum time since the last change of a session.
            is_stopped: asked before each deletion; ends the work when it returns true.

        Returns:
            The number of deleted sessions.

        Raises:
            StorageError: a session could not be deleted; the others were, if the store can be reached.
        """
        oldest = self._now() - ttl_seconds
        purged_before, failures = self.counts.purged, DeferredFailures()
        for upload_id in self._pace(self._ids(name)):
            if is_stopped():
                break
            with failures.deferred():
                upload = Upload(name, upload_id)
                touched = [stat.modified for stat in self._driver.walk(upload.folder)]
                with suppress(PathNotFound):
                    touched.append(self._driver.stat(upload.state).modified)
                if touched and max(touched) < oldest:
                    self.counts.purged += any(
                        [self._scratch.discard(upload.state), self._scratch.discard(upload.folder)]
                    )
                elif touched:  # otherwise it is just being created, or has ended meanwhile
                    self.counts.remaining += 1
        failures.raise_last()
        return self.counts.purged - purged_before

    # ------------------------------------------------------------------------------------------------- steps

    def _ids(self, name: RepositoryName | None) -> set[str]:
        with suppress(PathNotFound):
            paths = self._driver.list_directory(layout.uploads(name))
            return {layout.read_upload(path.rpartition("/")[2]) for path in self._pace(paths)}
        return set()

    def _spread(self, upload: Upload) -> Upload:
        """Move bytes in the state file to an object of their own, as the state is rewritten with each chunk."""
        if not upload.chunks or upload.chunks[0].content is None:
            return upload
        first, *others = upload.chunks
        name = self.write(replace(upload, chunks=()), [first.content or b""])
        return replace(upload, chunks=(replace(first, object=name, content=None), *others))

    def _listed(self, upload: Upload) -> Upload:
        """Move the entries of all chunks to a separate object when the state has become long."""
        if len(upload.chunks) < MAX_LISTED:
            return upload
        name = f"list-{secrets.token_hex(8)}"
        entries = json.dumps([_entry(chunk) for chunk in upload.chunks]).encode()
        self._scratch.put_content(f"{upload.folder}/{name}", entries)
        chunk_list = ChunkList(name, len(upload.chunks), sum(chunk.size for chunk in upload.chunks))
        return replace(upload, chunks=(), lists=(*upload.lists, chunk_list))

    def _size(self, upload: Upload) -> int:
        try:
            return self.get(upload.name, upload.id).size
        except UploadUnknown:  # ended while these bytes were being received, which created the folder again
            self._scratch.discard(upload.folder)
            raise

    def _replace(self, upload: Upload) -> None:
        if self._driver.capabilities.if_match:
            self._scratch.put_content(upload.state, _state(upload), if_match=upload.version)
            return
        # Without conditional writes, two requests that pass this check at the same time may lose a chunk; the commit
        # then fails with DigestInvalid. A PATCH that stalled and resumes later is detected.
        stored = self._driver.find_versioned(upload.state)
        if (ABSENT if stored is None else stored.version) != upload.version:
            raise PreconditionFailed(path=upload.state)
        self._scratch.put_content(upload.state, _state(upload))


def _state(upload: Upload) -> bytes:
    state: dict[str, Any] = {"algorithm": upload.algorithm, "chunks": [_entry(chunk) for chunk in upload.chunks]}
    if upload.lists:
        state["lists"] = [asdict(item) for item in upload.lists]
    head = _encode(state).encode()
    return b"\n".join((head, *(item.content for item in upload.chunks if item.content is not None)))


def _entry(chunk: Chunk) -> dict[str, Any]:
    return {"object": chunk.object, "size": chunk.size, "digest": str(chunk.digest)}


def _chunk(entry: dict[str, Any], content: bytes) -> Chunk:
    """Parse the entry of a chunk; raise ValueError if *content*, the rest of the state file, has another digest."""
    name, size, digest = entry["object"], entry["size"], Digest.parse(entry["digest"])
    if name is not None:
        return Chunk(name, size, digest)
    if Digest.of(content, digest.algorithm) != digest:
        raise ValueError
    return Chunk(None, size, digest, content)
