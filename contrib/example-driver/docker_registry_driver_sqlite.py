"""
A storage driver that keeps everything in one SQLite file: a small, complete example to start a driver from.

It suits a registry of small images on one host. It is not fast: a layer is stored in rows of one block each, and SQLite
allows one writer at a time.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar

from docker_registry.concurrency import run_in_thread
from docker_registry.drivers.base import ABSENT, Bytes, Capabilities, Stat, StorageDriver, Versioned, check_path
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError, StorageFull
from docker_registry.settings import Setting

_BLOCK_BYTES = 1024 * 1024

# A file is a path and its current content. Blocks belong to contents, so a content that is still being written, or
# still being read after it was replaced, cannot be found by a path.
_SCHEMA = """
    create table if not exists file (
        path text primary key, content text not null, size integer not null, modified real not null
    ) without rowid;
    create table if not exists block (
        content text not null, number integer not null, bytes blob not null, written real not null,
        primary key (content, number)
    ) without rowid;
"""


class SqliteDriver(StorageDriver):
    """A store in a SQLite file."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("sqlite_path", str, "registry.db", help="The SQLite file that keeps everything; `~` is expanded."),
        Setting("sqlite_timeout", int, 30, help="How long a writer waits for another one.", unit="seconds"),
    )
    capabilities = Capabilities(if_match=True, remove_if_match=True)

    def __init__(self, sqlite_path: str, sqlite_timeout: int = 30) -> None:
        """
        Raises:
            StorageError: the file cannot be used.
        """
        self._path = Path(sqlite_path).expanduser()
        self._timeout_seconds = sqlite_timeout
        with _as_storage_error():
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection() as connection:
            connection.execute("pragma journal_mode = wal")
            connection.executescript(_SCHEMA)

    # Every method checks its path and does all its work in one call in a native thread: a worker is one event loop, and
    # a wait for the disk must not block its other requests.

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        return run_in_thread(self._get, check_path(path)).content

    def get_versioned(self, path: str) -> Versioned:
        """See :class:`StorageDriver`; the version is the name of the content."""
        return run_in_thread(self._get, check_path(path))

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        whole = bytes(content)
        blocks = [whole[start : start + _BLOCK_BYTES] for start in range(0, len(whole), _BLOCK_BYTES)]
        run_in_thread(self._put, check_path(path), blocks, if_match)

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        content, size = run_in_thread(self._find, check_path(path))
        return self._blocks(content, offset, size if length is None else min(offset + length, size))

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        check_path(path)
        content, number, size, rest = uuid.uuid4().hex, 0, 0, bytearray()
        try:
            for block in blocks:
                rest += block
                while len(rest) >= _BLOCK_BYTES:
                    run_in_thread(self._add_block, content, number, bytes(rest[:_BLOCK_BYTES]))
                    size += _BLOCK_BYTES
                    number += 1
                    del rest[:_BLOCK_BYTES]
            run_in_thread(self._add_block, content, number, bytes(rest))
            run_in_thread(self._publish, path, content, size + len(rest))
        except BaseException:
            run_in_thread(self._forget_content, content)
            raise
        return size + len(rest)

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        prefix = f"{check_path(path)}/" if path else ""
        names = {stat.path[len(prefix) :].partition("/")[0] for stat in run_in_thread(self._below, prefix)}
        if path and not names:
            raise PathNotFound(path=path)
        return (prefix + name for name in names)

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        return iter(run_in_thread(self._below, f"{check_path(path)}/" if path else ""))

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        try:
            self.stat(path)
        except PathNotFound:
            return bool(run_in_thread(self._below, f"{path}/"))
        return True

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        row = run_in_thread(self._one, "select path, size, modified from file where path = ?", check_path(path))
        return Stat(*row)

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`."""
        run_in_thread(self._move, check_path(source), check_path(target))

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        run_in_thread(self._touch, check_path(path))

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        run_in_thread(self._remove, check_path(path))

    def remove_if_match(self, path: str, version: str) -> None:
        """See :class:`StorageDriver`."""
        run_in_thread(self._remove_version, check_path(path), version)

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`."""
        return run_in_thread(self._remove_leftovers, time.time() - older_than_seconds)

    # ------------------------------------------------------------------------------------------- in a thread

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Open the database; commit the changes of the block at its end, or roll all of them back."""
        with (
            _as_storage_error(),
            closing(sqlite3.connect(self._path, timeout=self._timeout_seconds)) as connection,
            connection,
        ):
            yield connection

    def _one(self, query: str, path: str) -> tuple[str, int, float]:
        with self._connection() as connection:
            row: tuple[str, int, float] | None = connection.execute(query, (path,)).fetchone()
        if row is None:
            raise PathNotFound(path=path)
        return row

    def _find(self, path: str) -> tuple[str, int]:
        return self._one("select content, size, modified from file where path = ?", path)[:2]

    def _get(self, path: str) -> Versioned:
        with self._connection() as connection:
            connection.execute("begin")
            found = connection.execute("select content from file where path = ?", (path,)).fetchone()
            if found is None:
                raise PathNotFound(path=path)
            blocks = connection.execute("select bytes from block where content = ? order by number", found)
            return Versioned(b"".join(block for (block,) in blocks), found[0])

    def _blocks(self, content: str, offset: int, end: int) -> Iterator[bytes]:
        for number in range(offset // _BLOCK_BYTES, -(-end // _BLOCK_BYTES)):
            block = run_in_thread(self._block, content, number)
            first = number * _BLOCK_BYTES
            part = block[max(offset - first, 0) : end - first]
            if part:
                yield part

    def _block(self, content: str, number: int) -> bytes:
        with self._connection() as connection:
            query = "select bytes from block where content = ? and number = ?"
            found: tuple[bytes] | None = connection.execute(query, (content, number)).fetchone()
        if found is None:
            raise StorageError("The file was removed while it was read.")
        return found[0]

    def _below(self, prefix: str) -> list[Stat]:
        with self._connection() as connection:
            query = "select path, size, modified from file where substr(path, 1, ?) = ?"
            return [Stat(*row) for row in connection.execute(query, (len(prefix), prefix))]

    def _add_block(self, content: str, number: int, block: bytes) -> None:
        with self._connection() as connection:
            connection.execute("insert into block values (?, ?, ?, ?)", (content, number, block, time.time()))

    def _put(self, path: str, blocks: list[bytes], if_match: str | None) -> None:
        content = uuid.uuid4().hex
        with self._connection() as connection:
            connection.execute("begin immediate")
            found = connection.execute("select content from file where path = ?", (path,)).fetchone()
            if if_match is not None and if_match != (found[0] if found else ABSENT):
                raise PreconditionFailed(path=path)
            rows = [(content, number, block, time.time()) for number, block in enumerate(blocks)]
            connection.executemany("insert into block values (?, ?, ?, ?)", rows)
            self._replace(connection, path, content, sum(map(len, blocks)))

    def _publish(self, path: str, content: str, size: int) -> None:
        with self._connection() as connection:
            connection.execute("begin immediate")
            self._replace(connection, path, content, size)

    def _replace(self, connection: sqlite3.Connection, path: str, content: str, size: int) -> None:
        connection.execute("delete from block where content = (select content from file where path = ?)", (path,))
        connection.execute("insert or replace into file values (?, ?, ?, ?)", (path, content, size, time.time()))

    def _forget_content(self, content: str) -> None:
        with self._connection() as connection:
            connection.execute("delete from block where content = ?", (content,))

    def _move(self, source: str, target: str) -> None:
        with self._connection() as connection:
            connection.execute("begin immediate")
            found = connection.execute("select content, size from file where path = ?", (source,)).fetchone()
            if found is None:
                raise PathNotFound(path=source)
            if source != target:
                self._replace(connection, target, *found)
                connection.execute("delete from file where path = ?", (source,))

    def _touch(self, path: str) -> None:
        with self._connection() as connection:
            if not connection.execute("update file set modified = ? where path = ?", (time.time(), path)).rowcount:
                raise PathNotFound(path=path)

    def _remove(self, path: str) -> None:
        which, names = "path = ? or substr(path, 1, ?) = ?", (path, len(path) + 1, f"{path}/")
        with self._connection() as connection:
            connection.execute("begin immediate")
            connection.execute(f"delete from block where content in (select content from file where {which})", names)
            if not connection.execute(f"delete from file where {which}", names).rowcount:
                raise PathNotFound(path=path)

    def _remove_version(self, path: str, version: str) -> None:
        with self._connection() as connection:
            connection.execute("begin immediate")
            if not connection.execute("delete from file where path = ? and content = ?", (path, version)).rowcount:
                raise PreconditionFailed(path=path)
            connection.execute("delete from block where content = ?", (version,))

    def _remove_leftovers(self, before: float) -> int:
        with self._connection() as connection:
            query = "delete from block where written < ? and content not in (select content from file)"
            return connection.execute(query, (before,)).rowcount


@contextmanager
def _as_storage_error() -> Iterator[None]:
    """Translate errors of SQLite, so that callers need not know them."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or "disk is full" in str(error):
            raise StorageFull from None
        raise StorageError(f"The store failed: {error}.") from None
    except OSError as error:
        raise StorageError(f"The store failed: {error.strerror}.") from None
