"""
The database tables of the search index, their creation, and the takeover of the tables of older versions.

::

    search_repository    name, description, private, searchable, generation     one row for each repository
    search_index         id 1, schema, generation, complete                     one row, and the lock of all writers

Searches match against ``searchable``: the name and the description, case folded. ``generation`` counts
reindexings and deletions; a row with a generation of at least that of a reindexing was written after it began.

The tables of docker-registry 0.7 to 0.9 (``version``, and ``repository`` with quoted names in narrow columns) are read
once, when the new tables are created in the same database, and are left unchanged: the old server may run beside this
one until it is switched off, or be brought back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import unquote

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    column,
    insert,
    inspect,
    select,
    table,
)
from sqlalchemy.dialects import mysql

from docker_registry.errors import ConfigError, NameInvalid
from docker_registry.registry.names import RepositoryName
from docker_registry.registry.search.index import Entry, LookUp

logger = logging.getLogger(__name__)

#: Version of the tables; incremented with every change to them.
SCHEMA: Final = 1

#: Characters. The limit keeps the key below MySQL's maximum of 3072 bytes; a name has at most 255 characters.
MAX_NAME: Final = 512

#: Characters stored of a description; clients can send megabytes.
MAX_DESCRIPTION: Final = 1000

_OLD_COLUMNS: Final = {"id", "name", "description"}

#: How many times an old server may have URL-quoted a name; unquoting more often could change the name.
_MAX_QUOTINGS: Final = 2

METADATA: Final = MetaData()

#: Names are compared by code points, so that every database sorts them as Python does.
_NAME_TYPE: Final = String(MAX_NAME).with_variant(String(MAX_NAME, collation="C"), "postgresql")

#: A binary column on MySQL: MariaDB searches bytes three times as fast as characters.
_SEARCHABLE_TYPE: Final = (
    Text()
    .with_variant(Text(collation="C"), "postgresql")
    .with_variant(mysql.VARCHAR(4 * (MAX_NAME + MAX_DESCRIPTION), charset="binary"), "mysql")
)

_MYSQL_CODE_POINTS: Final[dict[str, Any]] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

REPOSITORY: Final = Table(
    "search_repository",
    METADATA,
    Column("name", _NAME_TYPE, primary_key=True),
    Column("description", Text, nullable=False),
    Column("private", Boolean, nullable=False),
    Column("searchable", _SEARCHABLE_TYPE, nullable=False),
    Column("generation", Integer, nullable=False),
    sqlite_with_rowid=False,  # stores rows in the order of their names
    **_MYSQL_CODE_POINTS,
)

INDEX: Final = Table(
    "search_index",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("schema", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("complete", Boolean, nullable=False),
    **_MYSQL_CODE_POINTS,
)

_OLD_REPOSITORY: Final = table("repository", column("name"), column("description"))


def prepare(connection: Connection, look_up: LookUp | None) -> None:
    """
    Create missing tables and take over the entries of an older version.

    The caller must hold a lock that excludes other processes. The function is idempotent, and completes the work of a
    process that was killed.

    Raises:
        ConfigError: a newer version created these tables.
    """
    METADATA.create_all(connection)
    schema = connection.execute(select(INDEX.c.schema)).scalar()
    if schema is None:
        import_entries(connection, look_up)
        connection.execute(insert(INDEX).values(id=1, schema=SCHEMA, generation=1, complete=False))
    elif schema > SCHEMA:
        raise ConfigError("the search database was created by a newer version of docker-registry; use another database")


def import_entries(connection: Connection, look_up: LookUp | None) -> None:
    """Copy the repositories from the tables of an older version, except those that *look_up* does not find."""
    entries = {entry.name: entry for entry in _old_entries(connection, look_up)}
    present = set(connection.execute(select(REPOSITORY.c.name)).scalars())
    rows = [row(entry, generation=0) for entry in entries.values() if entry.name not in present]
    if rows:
        connection.execute(insert(REPOSITORY), rows)
        logger.info("search: imported %d repositories from the database of an older version", len(rows))


def row(entry: Entry, generation: int) -> dict[str, Any]:
    """Return the table row of a repository."""
    description = storable(entry.description)[:MAX_DESCRIPTION]
    return {
        "name": entry.name,
        "description": description,
        "private": entry.private,
        # Case folding can lengthen a text (ß becomes ss); what exceeds the column is cut off and cannot be searched.
        "searchable": f"{fold(entry.name)}\n{fold(description)}"[: MAX_NAME + MAX_DESCRIPTION],
        "generation": generation,
    }


def fold(text: str) -> str:
    """Return a text case folded, for case-insensitive comparison."""
    return storable(text).casefold()


def storable(text: str) -> str:
    """Remove what databases reject: NUL (PostgreSQL) and lone surrogates (UTF-8, replaced by ``?``)."""
    return text.replace("\0", "").encode(errors="replace").decode()


def plain_name(quoted: str) -> str:
    """Return the client's name of a repository from the quoted form of an old server: ``a/b%252Fc`` is ``a/b/c``."""
    for _ in range(_MAX_QUOTINGS):
        quoted = unquote(quoted)
    return quoted


def _old_entries(connection: Connection, look_up: LookUp | None) -> Iterator[Entry]:
    for name, description in _old_rows(connection):
        try:
            plain = str(RepositoryName.parse(plain_name(name)))
        except NameInvalid:  # no client can address it
            continue
        entry = look_up(plain) if look_up else Entry(plain)
        if entry is not None:
            yield Entry(plain, entry.description or description or "", entry.private)


def _old_rows(connection: Connection) -> Iterable[tuple[str, str | None]]:
    inspector = inspect(connection)
    if not (inspector.has_table("repository") and inspector.has_table("version")):
        return ()
    if not {entry["name"] for entry in inspector.get_columns("repository")} >= _OLD_COLUMNS:
        return ()  # another program's table
    return [(name, description) for name, description in connection.execute(select(_OLD_REPOSITORY))]
