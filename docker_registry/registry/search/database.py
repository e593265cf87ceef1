"""
The database of the search index: connections, transactions, retries and the mapping of database errors.

Whatever driver the URL names, PostgreSQL is accessed through psycopg 3 and MySQL or MariaDB through PyMySQL: both
wait cooperatively under gevent, which other drivers do not. SQLite's own busy wait would block every transfer of a
worker, so it is switched off: a transaction that finds the database locked is retried after a short sleep.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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

from docker_registry.concurrency import run_in_thread
from docker_registry.errors import ConfigError, StorageError, StorageUnavailable

Value = TypeVar("Value")

#: Maps the backend in the URL to the SQLAlchemy driver that is used and the extra that installs it.
_DRIVERS: Final = {
    "sqlite": ("sqlite+pysqlite", ""),
    "postgresql": ("postgresql+psycopg", "postgresql"),
    "postgres": ("postgresql+psycopg", "postgresql"),
    "mysql": ("mysql+pymysql", "mysql"),
    "mariadb": ("mysql+pymysql", "mysql"),
}

#: Timeouts that detect a vanished server, in seconds (tcp_user_timeout in milliseconds). Prepared statements are off:
#: PostgreSQL plans a search badly when it does not know the search text, and PgBouncer does not support them well.
_CONNECT_ARGUMENTS: Final[dict[str, dict[str, Any]]] = {
    "sqlite": {"timeout": 0, "check_same_thread": False},
    "postgresql": {
        "connect_timeout": 5,
        "keepalives_idle": 30,
        "tcp_user_timeout": 60_000,
        "prepare_threshold": None,
    },
    "mysql": {"connect_timeout": 5, "read_timeout": 90, "write_timeout": 90},
}

#: Longest wait, seconds, for SQLite's lock and for another process that creates the tables.
_MAX_WAIT_SECONDS: Final = 60

#: Longest pause before a transaction that found SQLite locked is retried, seconds.
_PAUSE_SECONDS: Final = 0.05

#: The lock held while tables are created: in PostgreSQL an arbitrary number, in MySQL a name.
_LOCK_NUMBER: Final = 0x646F636B65727265
_LOCK_NAME: Final = "docker-registry search"

#: Execution option: the statement that begins a SQLite transaction; None for no transaction.
_BEGIN: Final = "sqlite_begin"


class Database:
    """
    Runs transactions, with retries while the database is busy.

    A transaction may therefore run more than once. SQLite computes in this process, so its transactions run in a native
    thread, one at a time: a search takes longer with each repository.
    """

    def __init__(self, database_url: str) -> None:
        """
        Prepare the engine without opening a connection.

        Raises:
            ConfigError: the URL is invalid or of an unsupported backend, or the library for it is not installed.
        """
        self._url = _parse(database_url)
        self._engine = _engine(self._url)
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        # A worker has few native threads, and the store needs them too.
        self._turn: AbstractContextManager[object] = threading.Lock() if self._is_sqlite else nullcontext()

    def read(self, work: Callable[[Connection], Value]) -> Value:
        """
        Run a transaction that only reads.

        Raises:
            StorageUnavailable: the database cannot be reached, or stayed busy for a minute.
            StorageError: the database rejected the transaction.
        """
        return self._run(work, "BEGIN")

    def write(self, work: Callable[[Connection], Value]) -> Value:
        """Run a transaction that writes. Raises the same errors as :meth:`read`."""
        return self._run(work, "BEGIN IMMEDIATE")

    def write_exclusively(self, work: Callable[[Connection], Value]) -> Value:
        """
        Run a transaction that excludes all other calls of this method, across processes and hosts.

        It runs in the calling greenlet, so it may read the store. Raises the same errors as :meth:`read`.
        """
        if self._engine.dialect.name == "postgresql":
            return self.write(lambda connection: _with_advisory_lock(connection, work))
        if self._engine.dialect.name == "mysql":
            return self._run(lambda lock_connection: self._with_named_lock(lock_connection, work), None)
        # In WAL mode readers and writers do not wait for each other. The mode is stored in the database file.
        self._run(lambda connection: connection.execute(text("PRAGMA journal_mode = WAL")).all(), None)
        return self._run(work, "BEGIN IMMEDIATE", in_thread=False)

    def close(self) -> None:
        """Close idle connections; the next transaction opens a new one."""
        self._engine.dispose()

    def __str__(self) -> str:
        """Describe the database for error messages, without user and password."""
        host = f" on {self._url.host}" if self._url.host else ""
        return f"the {self._url.get_backend_name()} database {self._url.database or ''}{host}"

    def _run(self, work: Callable[[Connection], Value], begin: str | None, *, in_thread: bool = True) -> Value:
        deadline = time.monotonic() + _MAX_WAIT_SECONDS
        while True:
            try:
                with self._turn, self._connect() as connection:
                    connection = connection.execution_options(**{_BEGIN: begin})
                    if in_thread and self._is_sqlite:
                        found: Value = run_in_thread(_transact, connection, work)
                        return found
                    return _transact(connection, work)
            except SQLAlchemyError as error:
                if not self._is_busy(error):
                    raise self._failure(error) from None
                if time.monotonic() > deadline:
                    raise StorageUnavailable(f"{self} is busy") from None
            time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - spreads out the waiting transactions

    def _connect(self) -> Connection:
        """
        Return a connection of the pool.

        Raises:
            StorageError: a parameter of the URL is unknown or invalid.
        """
        try:
            return self._engine.connect()
        except (AttributeError, OSError, TypeError, ValueError) as error:  # of PyMySQL, for a parameter of the URL
            raise StorageError(f"{self} cannot be opened with the parameters of its URL: {error}") from None

    def _with_named_lock(self, lock_connection: Connection, work: Callable[[Connection], Value]) -> Value:
        # Held on a connection of its own: MySQL commits the transaction implicitly with every CREATE TABLE.
        if lock_connection.execute(select(func.get_lock(_LOCK_NAME, _MAX_WAIT_SECONDS))).scalar() != 1:
            raise StorageUnavailable(f"{self} is locked while another process creates its tables")
        try:
            return self.write(work)
        finally:
            lock_connection.execute(select(func.release_lock(_LOCK_NAME)))

    def _is_busy(self, error: SQLAlchemyError) -> bool:
        return self._is_sqlite and isinstance(error, OperationalError) and "locked" in str(error.orig)

    def _failure(self, error: SQLAlchemyError) -> StorageError:
        reason = str(error.orig if isinstance(error, DBAPIError) else error).strip()
        reason = reason.partition("\n")[0]
        if self._url.password:
            reason = reason.replace(self._url.password, "***")
        disconnected = isinstance(error, PoolTimeoutError) or (
            isinstance(error, DBAPIError) and error.connection_invalidated
        )
        unreachable = isinstance(error, (OperationalError, InterfaceError)) and not self._is_sqlite
        return (StorageUnavailable if disconnected or unreachable else StorageError)(f"{self} failed: {reason}")


def _transact(connection: Connection, work: Callable[[Connection], Value]) -> Value:
    with connection.begin():
        return work(connection)


def _with_advisory_lock(connection: Connection, work: Callable[[Connection], Value]) -> Value:
    connection.execute(text(f"SET LOCAL lock_timeout = '{_MAX_WAIT_SECONDS}s'"))
    connection.execute(select(func.pg_advisory_xact_lock(_LOCK_NUMBER)))
    return work(connection)


def _parse(database_url: str) -> URL:
    # The error message shows no part of an invalid URL: a password may stand in the wrong place.
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
        # An in-memory database exists only inside its single connection, which all threads share in turn.
        options.update(pool_size=1, max_overflow=0)
    try:
        engine = create_engine(
            url, connect_args=arguments, poolclass=QueuePool, pool_pre_ping=True, hide_parameters=True, **options
        )
    except (ImportError, NoSuchModuleError):
        extra = _DRIVERS[backend][1]
        raise ConfigError(
            f"sqlalchemy_index_database: a library for {backend} is missing: pip install 'docker-registry[{extra}]'"
        ) from None
    except ArgumentError:
        raise ConfigError(
            "sqlalchemy_index_database: the URL is invalid; for SQLite, write sqlite:/// before the path of the file"
        ) from None
    except ValueError:
        raise ConfigError("sqlalchemy_index_database: a parameter after the question mark is invalid") from None
    if backend == "sqlite":
        if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
            _make_private(engine, url.database)
        event.listen(engine, "connect", _disable_implicit_transactions)
        event.listen(engine, "begin", _begin)
        if url.database and Path(url.database).is_absolute():
            _reconnect_on_replacement(engine, Path(url.database))
    return engine


def _disable_implicit_transactions(connection: Any, _record: object) -> None:
    # Python's sqlite3 begins a transaction at the first write, which leaves earlier reads outside of the transaction.
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    # Safe against a crash of the process without an fsync per commit; a crash of the host may lose the last commits.
    connection.exec_driver_sql("PRAGMA synchronous = NORMAL")
    statement = connection.get_execution_options().get(_BEGIN)
    if statement:
        connection.exec_driver_sql(statement)


def _make_private(engine: Engine, path: str) -> None:
    """Create the file with mode 0600 before SQLite does; SQLite gives its -wal and -shm files the same mode."""

    def make(*_: object) -> None:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError:  # the file exists, or SQLite will report the error
            pass

    event.listen(engine, "do_connect", make)


def _reconnect_on_replacement(engine: Engine, path: Path) -> None:
    """Drop connections to a file that was removed or replaced: SQLite would keep using the unlinked file."""

    def remember(_connection: object, record: Any) -> None:
        record.info["file"] = _file(path)

    def compare(_connection: object, record: Any, _proxy: object) -> None:
        if record.info["file"] != _file(path):
            raise DisconnectionError

    event.listen(engine, "connect", remember)
    event.listen(engine, "checkout", compare)


def _file(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
