"""
The database of the search index: how it is reached, how its transactions begin, and what its failures mean.

Whatever driver the URL names, PostgreSQL is reached by psycopg 3 and MySQL or MariaDB by PyMySQL: they wait
cooperatively under gevent, which others do not. SQLite's own waiting would stop every transfer of a worker, so it is
never let to: a database that somebody else writes to is asked again a little later.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from docker_registry.errors import ConfigError, StorageError, StorageUnavailable

Answer = TypeVar("Answer")

#: What the URL begins with: our driver, and the extra that installs it.
_DRIVERS: Final = {
    "sqlite": ("sqlite+pysqlite", ""),
    "postgresql": ("postgresql+psycopg", "postgresql"),
    "postgres": ("postgresql+psycopg", "postgresql"),
    "mysql": ("mysql+pymysql", "mysql"),
    "mariadb": ("mysql+pymysql", "mysql"),
}

#: A server that vanished is noticed by these: seconds, or milliseconds for tcp_user_timeout. PostgreSQL plans a search
#: badly without its text, so no statement is prepared (which PgBouncer would not like either).
_CONNECT_ARGUMENTS: Final[dict[str, dict[str, Any]]] = {
    "sqlite": {"timeout": 0},
    "postgresql": {
        "connect_timeout": 5,
        "keepalives_idle": 30,
        "tcp_user_timeout": 60_000,
        "prepare_threshold": None,
    },
    "mysql": {"connect_timeout": 5, "read_timeout": 90, "write_timeout": 90},
}

#: How long one waits for others, seconds: for SQLite's lock, and for whoever makes the tables.
_PATIENCE_SECONDS: Final = 60

#: The longest pause before SQLite's lock is tried again, seconds.
_PAUSE_SECONDS: Final = 0.05

#: Names the lock under which tables are made, in PostgreSQL (any number that nobody else uses) and MySQL.
_LOCK_NUMBER: Final = 0x646F636B65727265
_LOCK_NAME: Final = "docker-registry search"

#: Execution option: the statement that begins a transaction of SQLite; None for none.
_BEGIN: Final = "sqlite_begin"


class Database:
    """
    Runs transactions.

    A transaction may be run more than once, when the database was busy.
    """

    def __init__(self, database_url: str) -> None:
        """
        Connect to nothing yet.

        Raises:
            ConfigError: the URL is of no use, or the library for it is not installed.
        """
        self._url = _parse(database_url)
        self._engine = _engine(self._url)

    def read(self, work: Callable[[Connection], Answer]) -> Answer:
        """
        Run a transaction that only reads.

        Raises:
            StorageUnavailable: the database cannot be reached, or was busy for too long.
            StorageError: it refused.
        """
        return self._run(work, "BEGIN")

    def write(self, work: Callable[[Connection], Answer]) -> Answer:
        """Run a transaction that writes, with the errors of :meth:`read`."""
        return self._run(work, "BEGIN IMMEDIATE")

    def write_alone(self, work: Callable[[Connection], Answer]) -> Answer:
        """Run a transaction that only one process at a time is in, on whatever host; errors as for :meth:`read`."""
        if self._engine.dialect.name == "postgresql":
            return self.write(lambda connection: _with_advisory_lock(connection, work))
        if self._engine.dialect.name == "mysql":
            return self._run(lambda keeper: self._with_named_lock(keeper, work), None)
        # Readers of a database in this mode do not wait for writers, nor writers for them; it is kept in the file.
        self._run(lambda connection: connection.execute(text("PRAGMA journal_mode = WAL")).all(), None)
        return self.write(work)

    def close(self) -> None:
        """Drop the connections that nobody uses; the next transaction begins with a new one."""
        self._engine.dispose()

    def __str__(self) -> str:
        """Say which database it is, without user and password."""
        where = f" on {self._url.host}" if self._url.host else ""
        return f"the {self._url.get_backend_name()} database {self._url.database or ''}{where}"

    def _run(self, work: Callable[[Connection], Answer], begin: str | None) -> Answer:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                with self._engine.connect() as connection:
                    connection = connection.execution_options(**{_BEGIN: begin})
                    with connection.begin():
                        return work(connection)
            except SQLAlchemyError as error:
                if not self._is_busy(error):
                    raise self._failure(error) from None
                if time.monotonic() > deadline:
                    raise StorageUnavailable(f"{self} is busy") from None
            time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - so that those who wait do not meet again

    def _with_named_lock(self, keeper: Connection, work: Callable[[Connection], Answer]) -> Answer:
        # Beside the transaction, which MySQL ends with every table that is made.
        if keeper.execute(select(func.get_lock(_LOCK_NAME, _PATIENCE_SECONDS))).scalar() != 1:
            raise StorageUnavailable(f"{self} is locked by somebody who makes its tables")
        try:
            return self.write(work)
        finally:
            keeper.execute(select(func.release_lock(_LOCK_NAME)))

    def _is_busy(self, error: SQLAlchemyError) -> bool:
        sqlite = self._engine.dialect.name == "sqlite"
        return sqlite and isinstance(error, OperationalError) and "locked" in str(error.orig)

    def _failure(self, error: SQLAlchemyError) -> StorageError:
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        reason = reason.partition("\n")[0]
        if self._url.password:
            reason = reason.replace(self._url.password, "***")
        lost = isinstance(error, PoolTimeoutError) or (isinstance(error, DBAPIError) and error.connection_invalidated)
        away = isinstance(error, (OperationalError, InterfaceError)) and self._engine.dialect.name != "sqlite"
        return (StorageUnavailable if lost or away else StorageError)(f"{self} failed: {reason}")


def _with_advisory_lock(connection: Connection, work: Callable[[Connection], Answer]) -> Answer:
    connection.execute(text(f"SET LOCAL lock_timeout = '{_PATIENCE_SECONDS}s'"))
    connection.execute(select(func.pg_advisory_xact_lock(_LOCK_NUMBER)))
    return work(connection)


def _parse(database_url: str) -> URL:
    # No sentence shows any part of what could not be read: it may hold a password in a wrong place.
    try:
        url = make_url(database_url)
        driver, _ = _DRIVERS[url.get_backend_name()]
    except (ArgumentError, KeyError, ValueError):
        raise ConfigError(
            "sqlalchemy_index_database must be a URL that begins with sqlite://, postgresql:// or mysql://"
        ) from None
    return url.set(drivername=driver)


def _engine(url: URL) -> Engine:
    backend = url.get_backend_name()
    arguments = {key: value for key, value in _CONNECT_ARGUMENTS[backend].items() if key not in url.query}
    options: dict[str, Any] = {"pool_size": 2, "max_overflow": 8, "pool_timeout": 10}
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        # It lives in its only connection, for which all wait in line.
        options.update(pool_size=1, max_overflow=0)
        arguments["check_same_thread"] = False
    try:
        engine = create_engine(
            url, connect_args=arguments, poolclass=QueuePool, pool_pre_ping=True, hide_parameters=True, **options
        )
    except (ImportError, NoSuchModuleError):
        extra = _DRIVERS[backend][1]
        raise ConfigError(
            f"sqlalchemy_index_database: a library for {backend} is missing: pip install 'docker-registry[{extra}]'"
        ) from None
    if backend == "sqlite":
        if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
            _make_private(engine, url.database)
        event.listen(engine, "connect", _leave_transactions_to_us)
        event.listen(engine, "begin", _begin)
        if url.database and Path(url.database).is_absolute():
            _follow_file(engine, Path(url.database))
    return engine


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    # Python's module begins a transaction with the first write, which is too late to hold what was read before it.
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    # Survives a crash of ours without waiting for the disk; after one of the host the last changes may be missing.
    connection.exec_driver_sql("PRAGMA synchronous = NORMAL")
    statement = connection.get_execution_options().get(_BEGIN)
    if statement:
        connection.exec_driver_sql(statement)


def _make_private(engine: Engine, path: str) -> None:
    """Make the file before SQLite does, so that its owner alone may read it; SQLite's files beside it follow it."""

    def make(*_: object) -> None:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError:  # it is there, or SQLite will say what is wrong
            pass

    event.listen(engine, "do_connect", make)


def _follow_file(engine: Engine, path: Path) -> None:
    """Give up connections to a file that was removed, as in /tmp: SQLite would go on in it, unseen by others."""

    def remember(_connection: object, record: Any) -> None:
        record.info["file"] = _file(path)

    def compare(_connection: object, record: Any, _proxy: object) -> None:
        if record.info["file"] != _file(path):
            raise DisconnectionError

    event.listen(engine, "connect", remember)
    event.listen(engine, "checkout", compare)


def _file(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
