"""
Upload sessions: what is kept of a blob while its bytes arrive.

A session begins with its state, a file. Each request that brings bytes writes them into an object of its own, in a
folder beside it, and then enters it into the state by compare-and-swap; only what that names counts. So any worker on
any host can take the next request, and a request that stalls and wakes up after its own repetition finds another state
and changes nothing::

    {"algorithm": "sha256", "chunks": [{"object": "0-5f0c…", "size": 1048576, "digest": "sha256:9b1d…"}]}

A state is written again with each chunk, so that of a long upload stays small: when it has :data:`MAX_LISTED` chunks,
their entries move into an object of their own, which the state names with their number and size::

    {"algorithm": …, "lists": [{"object": "list-1f0a…", "count": 256, "size": 268435456}], "chunks": []}

Most blobs are short and come in one request. Those bytes lie in the state itself, after its first line: they are stored
once with it, and are in hand when the session is read and ends, and there is no folder.

A session belongs to a repository, or to none yet: an image of API V1 is uploaded before anybody says where it belongs.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from docker_registry.drivers.base import ABSENT, Bytes, StorageDriver, Versioned
from docker_registry.errors import PathNotFound, PreconditionFailed, RangeInvalid, TooLarge, UploadUnknown
from docker_registry.registry import layout
from docker_registry.registry.names import CANONICAL, Digest, RepositoryName
from docker_registry.time_slices import TimeSlices

#: Chunks that a state names itself, at most.
MAX_LISTED: Final = 256

#: Chunks of an upload, at most: 64 GiB in chunks of 1 MiB.
MAX_CHUNKS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    What one request brought.

    Attributes:
        object: the file's name in the session's folder, ``<offset>-<random>``; None when it has none.
        size: bytes.
        content: the bytes themselves, when there is no file of them.
    """

    object: str | None
    size: int
    digest: Digest
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ChunkList:
    """
    Chunks whose entries are in an object of their own.

    Attributes:
        object: its name in the session's folder.
        count: of the chunks.
        size: bytes of all chunks.
    """

    object: str
    count: int
    size: int


@dataclass(frozen=True, slots=True)
class Upload:
    """
    A session as it is at one moment.

    Attributes:
        name: of the repository to which it belongs; None for none yet.
        algorithm: how its chunks are hashed.
        chunks: those that the state itself names; they come after those of the lists.
        lists: of the chunks that came first.
        version: of the stored state that it was read from; :data:`ABSENT` when it was not.
    """

    name: RepositoryName | None
    id: str
    algorithm: str = CANONICAL
    chunks: tuple[Chunk, ...] = ()
    lists: tuple[ChunkList, ...] = ()
    version: str = field(default=ABSENT, compare=False)

    @property
    def size(self) -> int:
        """Bytes that are kept: the only offset at which the upload goes on."""
        return sum(item.size for item in self.lists) + sum(item.size for item in self.chunks)

    @property
    def chunk_count(self) -> int:
        """How many requests have brought bytes."""
        return sum(item.count for item in self.lists) + len(self.chunks)

    @property
    def only_chunk(self) -> Chunk | None:
        """The chunk that holds all bytes; None when there are none, or several chunks."""
        return self.chunks[0] if self.chunk_count == 1 else None

    @property
    def state(self) -> str:
        """Where its state lies."""
        return layout.upload_state(self.name, self.id)

    @property
    def folder(self) -> str:
        """Where what it has received lies."""
        return layout.upload(self.name, self.id)

    def path(self, chunk: Chunk) -> str:
        """Where the bytes of a chunk lie."""
        return f"{self.folder}/{chunk.object}"

    def plus(self, chunk: Chunk) -> Upload:
        """Return the session as it is with one more chunk."""
        return replace(self, chunks=(*self.chunks, chunk))


def parse_upload_id(text: str) -> str:
    """
    Raises:
        UploadUnknown: not an id that :meth:`UploadSessions.start` could have given.
    """
    try:
        known = str(uuid.UUID(text)) == text
    except ValueError:
        known = False
    if not known:
        raise UploadUnknown(id=text[:64])
    return text


class UploadSessions:
    """All unfinished uploads of the registry."""

    def __init__(
        self,
        driver: StorageDriver,
        now: Callable[[], datetime],
        slices: TimeSlices | None = None,
        *,
        max_chunks: int = MAX_CHUNKS,
    ) -> None:
        """
        Args:
            now: the clock.
            slices: the schedule for looking through all sessions.
            max_chunks: of one session.
        """
        self._max_chunks = max_chunks
        self._pace = (slices or TimeSlices()).pace
        self._driver = driver
        self._short_lived = driver.short_lived
        self._now = now

    def start(self, name: RepositoryName | None, algorithm: str = CANONICAL) -> Upload:
        """
        Begin a session.

        Args:
            algorithm: of the digest that the client will commit with, where it said so.
        """
        upload = Upload(name, str(uuid.uuid4()), algorithm)
        self._short_lived.put_content(upload.state, _state(upload))
        return upload

    def get(self, name: RepositoryName | None, upload_id: str, *, ends: bool = False) -> Upload:
        """
        Return a session as it is.

        Args:
            ends: nothing will be entered any more, and so nobody has to know which version this is.

        Raises:
            UploadUnknown: it never began, is over, or belongs to a server of another kind.
        """
        upload = Upload(name, upload_id)
        try:
            stored = self._stored(upload.state, ends=ends)
        except PathNotFound:  # distribution keeps another state, with a hash in a form that only it can read
            raise UploadUnknown(id=upload_id) from None
        head, _, content = stored.content.partition(b"\n")
        try:
            state = json.loads(head)
            chunks = tuple(_chunk(entry, content) for entry in state["chunks"])
            lists = tuple(ChunkList(**entry) for entry in state.get("lists", ()))
        except ValueError:  # the host has crashed before all of it was on the disk
            raise UploadUnknown(id=upload_id) from None
        return replace(upload, algorithm=state["algorithm"], chunks=chunks, lists=lists, version=stored.version)

    def write(self, upload: Upload, blocks: Iterable[Bytes]) -> str:
        """Write bytes of a session into an object, which count only when it is entered or becomes a blob."""
        name = f"{upload.size}-{secrets.token_hex(8)}"
        self._short_lived.stream_write(f"{upload.folder}/{name}", blocks)
        return name

    def enter(self, upload: Upload, chunk: Chunk) -> Upload:
        """
        Make a chunk count that was written.

        Raises:
            RangeInvalid: another request has changed the session meanwhile; the chunk is gone.
            UploadUnknown: the session is over.
        """
        with_chunk = self._spread(upload).plus(chunk)
        entered = self._listed(with_chunk)
        try:
            self._replace(entered)
        except PreconditionFailed:
            written: set[Chunk | ChunkList] = {*with_chunk.chunks, *entered.lists}
            for item in written.difference(upload.chunks, upload.lists):
                if item.object is not None:
                    self._remove(f"{upload.folder}/{item.object}")
            raise RangeInvalid(size=self._size(upload)) from None
        return entered

    def check_room(self, upload: Upload) -> None:
        """
        Raises:
            TooLarge: the session takes no more chunks.
        """
        if upload.chunk_count >= self._max_chunks:
            raise TooLarge("The upload has too many chunks; send larger ones.", max_chunks=self._max_chunks)

    def chunks(self, upload: Upload) -> Iterator[Chunk]:
        """
        Yield all chunks of a session in their order.

        Raises:
            PathNotFound: the session is over.
        """
        for item in upload.lists:
            entries = json.loads(self._driver.get_content(f"{upload.folder}/{item.object}"))
            yield from (_chunk(entry, b"") for entry in entries)
        yield from upload.chunks

    def end(self, upload: Upload) -> None:
        """Forget a session with all that it has received."""
        self._remove(upload.state)
        if upload.lists or any(chunk.object is not None for chunk in upload.chunks):
            self._remove(upload.folder)

    def purge(self, name: RepositoryName | None, ttl_seconds: float) -> int:
        """
        Forget the sessions of a repository that nobody has touched for a while, those of other servers included.

        Returns:
            How many there were.
        """
        oldest = self._now().timestamp() - ttl_seconds
        purged = 0
        for upload_id in self._pace(self._ids(name)):
            upload = Upload(name, upload_id)
            touched = [stat.modified for stat in self._driver.walk(upload.folder)]
            with suppress(PathNotFound):
                touched.append(self._driver.stat(upload.state).modified)
            if touched and max(touched) < oldest:  # where nothing is a session begins just now
                purged += any([self._remove(upload.state), self._remove(upload.folder)])
        return purged

    # ------------------------------------------------------------------------------------------------- steps

    def _ids(self, name: RepositoryName | None) -> set[str]:
        try:
            paths = self._driver.list_directory(layout.uploads(name))
            return {layout.read_upload(path.rpartition("/")[2]) for path in self._pace(paths)}
        except PathNotFound:
            return set()

    def _stored(self, path: str, *, ends: bool) -> Versioned:
        return Versioned(self._driver.get_content(path), ABSENT) if ends else self._driver.get_versioned(path)

    def _spread(self, upload: Upload) -> Upload:
        """Give what lies in the state a file of its own: a state is written again with each chunk."""
        if not upload.chunks or upload.chunks[0].content is None:
            return upload
        first, *others = upload.chunks
        name = self.write(replace(upload, chunks=()), [first.content or b""])
        return replace(upload, chunks=(replace(first, object=name, content=None), *others))

    def _listed(self, upload: Upload) -> Upload:
        """Move the entries of chunks into an object of their own, when the state has become long."""
        if len(upload.chunks) < MAX_LISTED:
            return upload
        name = f"list-{secrets.token_hex(8)}"
        entries = json.dumps([_entry(chunk) for chunk in upload.chunks]).encode()
        self._short_lived.put_content(f"{upload.folder}/{name}", entries)
        chunk_list = ChunkList(name, len(upload.chunks), sum(chunk.size for chunk in upload.chunks))
        return replace(upload, chunks=(), lists=(*upload.lists, chunk_list))

    def _size(self, upload: Upload) -> int:
        try:
            return self.get(upload.name, upload.id).size
        except UploadUnknown:  # committed or cancelled while these bytes were on their way, which made a folder again
            self._remove(upload.folder)
            raise

    def _replace(self, upload: Upload) -> None:
        if self._driver.supports_if_match:
            self._short_lived.put_content(upload.state, _state(upload), if_match=upload.version)
            return
        # Two requests that come between these lines at once may lose a chunk, and then the upload fails at its
        # digest; a PATCH that stalled and wakes up later finds out.
        if self._version(upload.state) != upload.version:
            raise PreconditionFailed(path=upload.state)
        self._short_lived.put_content(upload.state, _state(upload))

    def _version(self, path: str) -> str:
        try:
            return self._driver.get_versioned(path).version
        except PathNotFound:
            return ABSENT

    def _remove(self, path: str) -> bool:
        """Remove a file or a folder; tell whether it was there."""
        try:
            self._short_lived.remove(path)
        except PathNotFound:  # committed, cancelled or purged just now
            return False
        return True


def _state(upload: Upload) -> bytes:
    state: dict[str, Any] = {"algorithm": upload.algorithm, "chunks": [_entry(chunk) for chunk in upload.chunks]}
    if upload.lists:
        state["lists"] = [asdict(item) for item in upload.lists]
    head = json.dumps(state).encode()
    return b"\n".join((head, *(item.content for item in upload.chunks if item.content is not None)))


def _entry(chunk: Chunk) -> dict[str, Any]:
    return {"object": chunk.object, "size": chunk.size, "digest": str(chunk.digest)}


def _chunk(entry: dict[str, Any], content: bytes) -> Chunk:
    """
    Read an entry of a state.

    Args:
        content: what follows the state's first line.

    Raises:
        ValueError: this is not what was entered.
    """
    chunk = Chunk(entry["object"], entry["size"], Digest.parse(entry["digest"]))
    if chunk.object is not None:
        return chunk
    if Digest.of(content, chunk.digest.algorithm) != chunk.digest:
        raise ValueError
    return replace(chunk, content=content)
