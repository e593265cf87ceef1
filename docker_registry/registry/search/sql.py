"""
The search index in a database: SQLite, PostgreSQL, MySQL or MariaDB, through SQLAlchemy.

A search scans the table at most once: 100 000 names take 10 to 30 ms (``contrib/bench/search.py``), so no substring
index has to be maintained. Writers are serialized by a lock on the row of ``search_index``, or by SQLite's own lock;
readers never wait for them.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    insert,
    not_,
    or_,
    select,
    true,
    update,
)

from docker_registry.errors import ConfigError, StorageError, StorageUnavailable
from docker_registry.registry.search.database import Database
from docker_registry.registry.search.index import DEFAULT_PAGE_SIZE, Entry, LookUp, Page, Result, SearchIndex
from docker_registry.registry.search.schema import INDEX, REPOSITORY, fold, prepare, row

Value = TypeVar("Value")

logger = logging.getLogger(__name__)

#: Rows that a reindexing writes in one transaction; other writers may run between two of them.
_BATCH: Final = 500

#: Seconds between two batches, so that other writers can acquire SQLite's lock.
_PAUSE_SECONDS: Final = 0.01

#: More rows than any registry has, and within the integer range of every database.
_MAX_OFFSET: Final = 2**31 - 1

#: The greatest code point: a prefix followed by it sorts after every string with that prefix.
_LAST: Final = "\U0010ffff"

#: The namespace that API V1 puts before names without one.
_LIBRARY: Final = "library/"

#: What is stored of a repository. Pushes look it up, and building the statement takes a third of that.
_STORED: Final = select(REPOSITORY.c.description, REPOSITORY.c.private).where(REPOSITORY.c.name == bindparam("name"))


class SqlIndex(SearchIndex):
    """
    A :class:`SearchIndex` in a database table.

    A failed operation is retried once from the beginning, with a new connection and with missing tables created again.
    So the index recovers from a restarted server, a connection dropped by a firewall, and a deleted database file.
    """

    def __init__(self, database_url: str, look_up: LookUp | None = None) -> None:
        """
        Open the database and create its tables if they are missing.

        Args:
            database_url, look_up: as for :func:`~docker_registry.registry.search.backends.open_index`.

        Raises:
            ConfigError: the URL is invalid, its library is not installed, or the tables cannot be created.
        """
        self._database = Database(database_url)
        self._look_up = look_up
        self._prepared = False
        try:
            self._run(lambda: None)
        except StorageUnavailable as error:
            logger.warning("the search index is unavailable and will be retried on demand: %s", error)
        except (StorageError, ConfigError) as error:
            self._database.close()
            raise ConfigError(f"sqlalchemy_index_database: {error}") from None

    def put(self, entry: Entry) -> None:
        """See :class:`SearchIndex`. An entry that is stored already is not written, so it waits for no lock."""
        if not self._read(lambda connection: _is_known(connection, entry)):
            self._write(lambda connection: _put(connection, entry))

    def delete(self, name: str) -> None:
        """See :class:`SearchIndex`."""
        self._write(lambda connection: _delete(connection, name))

    def search(self, query: str, *, page: int = 1, page_size: int = DEFAULT_PAGE_SIZE, private: bool = False) -> Page:
        """See :class:`SearchIndex`."""
        sql_search = _Search(fold(query.strip()), private)
        offset = min((page - 1) * page_size, _MAX_OFFSET)
        count, results = self._read(lambda connection: sql_search.page(connection, offset, page_size))
        return Page(query, page, page_size, count, results)

    def reindex(self, entries: Iterable[Entry]) -> int:
        """
        See :class:`SearchIndex`.

        Rows are replaced in small transactions, so that other writers are not blocked. Rows written by them meanwhile
        are newer than *entries* and are kept. Repositories that are new to the index are looked up again if a deletion
        ran while their batch was collected. At the end all rows of older generations are deleted.
        """
        generation = current = self._write(_begin_generation)
        count = 0
        for batch in _batches(entries):
            previous, (current, added) = current, self._write(partial(_replace, batch=batch, generation=generation))
            if current != previous:
                self._remove_deleted(added)
            count += len(batch)
            time.sleep(_PAUSE_SECONDS)
        self._write(partial(_end_generation, generation=generation))
        return count

    def _remove_deleted(self, names: Iterable[str]) -> None:
        """Remove the rows of repositories that no longer exist in the store."""
        for name in names:
            if self._look_up is None or self._look_up(name) is not None:
                continue
            self.delete(name)
            if (entry := self._look_up(name)) is not None:  # pushed again, perhaps before the row was removed
                self.put(entry)

    def is_complete(self) -> bool:
        """See :class:`SearchIndex`."""
        return self._read(lambda connection: bool(connection.scalar(select(INDEX.c.complete))))

    def close(self) -> None:
        """See :class:`SearchIndex`."""
        self._database.close()

    def _read(self, work: Callable[[Connection], Value]) -> Value:
        return self._run(lambda: self._database.read(work))

    def _write(self, work: Callable[[Connection], Value]) -> Value:
        return self._run(lambda: self._database.write(work))

    def _run(self, transaction: Callable[[], Value]) -> Value:
        try:
            return self._attempt(transaction)
        except StorageError:
            self._prepared = False
            self._database.close()
        return self._attempt(transaction)

    def _attempt(self, transaction: Callable[[], Value]) -> Value:
        if not self._prepared:
            self._database.write_exclusively(lambda connection: prepare(connection, self._look_up))
            self._prepared = True
        return transaction()


class _Search:
    """A search as SQL conditions: rows whose name begins with the text, and all other matches."""

    def __init__(self, folded: str, private: bool) -> None:
        visible = true() if private else REPOSITORY.c.private.is_(False)
        # Prefix matches use the primary key; only the other matches need a scan of the table.
        begins = or_(_begins_with(folded), _begins_with(_LIBRARY + folded)) if folded else false()
        matches = REPOSITORY.c.searchable.contains(folded, autoescape=True) if folded else true()
        self._prefix_matches = and_(visible, begins)
        self._other_matches = and_(visible, matches, not_(begins))
        self._rank = case((REPOSITORY.c.name == folded, 0), (REPOSITORY.c.name == _LIBRARY + folded, 1), else_=2)

    def page(self, connection: Connection, offset: int, page_size: int) -> tuple[int, tuple[Result, ...]]:
        """Return the number of matching repositories, and the results of one page."""
        prefix_count = _count(connection, self._prefix_matches)
        prefix_results = (
            _list(connection, self._prefix_matches, self._rank, offset, page_size) if offset < prefix_count else ()
        )
        skipped = max(0, offset - prefix_count)
        remaining = page_size - len(prefix_results)
        other_results = _list(connection, self._other_matches, None, skipped, remaining) if remaining else ()
        # The count is known if this page holds the last match.
        if len(other_results) < remaining and (other_results or not skipped):
            count = prefix_count + skipped + len(other_results)
        else:
            count = prefix_count + _count(connection, self._other_matches)
        return count, prefix_results + other_results


def _begins_with(text: str) -> ColumnElement[bool]:
    return and_(REPOSITORY.c.name >= text, REPOSITORY.c.name < text + _LAST)


def _count(connection: Connection, condition: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(REPOSITORY).where(condition)).scalar_one()


def _list(
    connection: Connection, condition: ColumnElement[bool], rank: ColumnElement[int] | None, offset: int, limit: int
) -> tuple[Result, ...]:
    order = (REPOSITORY.c.name,) if rank is None else (rank, REPOSITORY.c.name)
    query = select(REPOSITORY.c.name, REPOSITORY.c.description).where(condition).order_by(*order)
    return tuple(Result(*found) for found in connection.execute(query.limit(limit).offset(offset)))


def _lock(connection: Connection) -> int:
    """Lock out other writers with FOR UPDATE (SQLite ignores it and does not need it); return the generation."""
    generation: int = connection.execute(select(INDEX.c.generation).with_for_update()).scalar_one()
    return generation


def _is_known(connection: Connection, entry: Entry) -> bool:
    new_row = row(entry, generation=0)
    stored = connection.execute(_STORED, {"name": entry.name}).one_or_none()
    return stored is not None and tuple(stored) == (new_row["description"], new_row["private"])


def _put(connection: Connection, entry: Entry) -> None:
    generation = _lock(connection)
    _delete_row(connection, entry.name)
    connection.execute(insert(REPOSITORY).values(row(entry, generation)))


def _delete(connection: Connection, name: str) -> None:
    # The new generation tells a reindexing that an entry it has read may be that of a deleted repository.
    _begin_generation(connection)
    _delete_row(connection, name)


def _delete_row(connection: Connection, name: str) -> None:
    connection.execute(delete(REPOSITORY).where(REPOSITORY.c.name == name))


def _begin_generation(connection: Connection) -> int:
    generation = _lock(connection) + 1
    connection.execute(update(INDEX).values(generation=generation))
    return generation


def _replace(connection: Connection, batch: Mapping[str, Entry], generation: int) -> tuple[int, list[str]]:
    """
    Write a batch of a reindexing; rows written by others after the reindexing began are newer and are kept.

    Returns:
        The current generation, and the names that had no row before.
    """
    current = _lock(connection)
    in_batch = REPOSITORY.c.name.in_(batch)
    query = select(REPOSITORY.c.name, REPOSITORY.c.generation).where(in_batch)
    stored: dict[str, int] = {found.name: found.generation for found in connection.execute(query)}
    connection.execute(delete(REPOSITORY).where(in_batch, REPOSITORY.c.generation < generation))
    rows = [row(entry, generation) for name, entry in batch.items() if stored.get(name, 0) < generation]
    if rows:
        connection.execute(insert(REPOSITORY), rows)
    return current, [name for name in batch if name not in stored]


def _end_generation(connection: Connection, generation: int) -> None:
    _lock(connection)
    connection.execute(delete(REPOSITORY).where(REPOSITORY.c.generation < generation))
    connection.execute(update(INDEX).values(complete=True))


def _batches(entries: Iterable[Entry]) -> Iterator[dict[str, Entry]]:
    remaining = iter(entries)
    while batch := {entry.name: entry for entry in itertools.islice(remaining, _BATCH)}:
        yield batch
