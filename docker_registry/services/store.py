"""Opens the configured store with its cache, and the Redis that hosts share; chooses the search database."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from docker_registry import drivers
from docker_registry.concurrency import RunBlocking
from docker_registry.config.schema import Config
from docker_registry.config.sections import Redis as RedisSection
from docker_registry.drivers.base import StorageDriver
from docker_registry.drivers.cache import connection
from docker_registry.drivers.cache.circuit_breaker import (
    MAX_WAIT_SECONDS,
    SOCKET_SECONDS,
    CircuitBreaker,
    OutOfMemory,
    Unavailable,
)
from docker_registry.drivers.cache.driver import CachedDriver
from docker_registry.drivers.cache.leased import LeasedCache
from docker_registry.drivers.measured import MeasuredDriver, StorageTimes
from docker_registry.drivers.store_identity import StoreIdentity
from docker_registry.registry.search.backends import SQLALCHEMY

if TYPE_CHECKING:
    from redis import Redis

    from docker_registry.registry.v1.diff_queue import RedisDiffQueue

#: URL of the search database if the store is not on a local disk.
_TEMPORARY_DATABASE: Final = "sqlite:////tmp/docker-registry.db"

#: The path in the URL of an SQLite file.
_SQLITE_FILE: Final = re.compile(r"sqlite(?:\+\w+)?:///(?!:memory:|file:)([^?]+)")


def storage_folder(config: Config) -> Path | None:
    """Return the folder of a store of local files; None for other stores."""
    path = config.driver_options.get("storage_path") if config.storage == "file" else None
    return None if path is None else Path(os.path.expanduser(path)).absolute()


def search_database(config: Config) -> str:
    """
    Return the URL of the search database.

    By default it is beside the data if these are on a local disk. Hosts that share a folder over the network must not
    share an SQLite database there, so each of them has its own in ``/tmp``, as with other stores.
    """
    if config.sqlalchemy_index_database:
        return config.sqlalchemy_index_database
    folder = storage_folder(config)
    if folder is not None:
        from docker_registry.drivers.file.root import RESERVED
        from docker_registry.drivers.file.sync import Disk

        if Disk(str(folder)).syncs_whole:
            return f"sqlite:///{folder / RESERVED}/search.db"
    return _TEMPORARY_DATABASE


def search_identity(config: Config) -> str:
    """
    Return a text that differs for the search indexes of hosts that have one each.

    It contains no user and password, which may change while the index cannot be reached.
    """
    database = search_database(config)
    host = socket.gethostname() if database == _TEMPORARY_DATABASE else ""
    is_named = config.search_backend == SQLALCHEMY and config.sqlalchemy_index_database
    if is_named and (path := _SQLITE_FILE.match(database)) is not None:
        host = _file_identity(Path(path[1]))
    return f"{config.search_backend} {re.sub('//.*@', '//', database)} {host}"


def _file_identity(database: Path) -> str:
    """
    Return a random text, kept in a file beside an SQLite file; the name of the host where that cannot be written.

    The name of a host alone would not do: that of a container changes although the file remains.
    """
    path = database.with_name(f"{database.name}-identity")
    new = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
    try:
        if not path.exists():
            try:
                new.write_text(secrets.token_hex(16), "ascii")
                new.chmod(0o644)  # commands may run as another user than workers
                os.link(new, path)
            except FileExistsError:  # another process created it first
                pass
            finally:
                new.unlink(missing_ok=True)
        return path.read_text("ascii", "replace")
    except OSError:
        return socket.gethostname()


def open_driver(
    config: Config, times: StorageTimes | None = None, run_brief: RunBlocking | None = None
) -> StorageDriver:
    """
    Open the configured store with its configured cache.

    Args:
        times: receives the durations of the calls of the store.
        run_brief: how the driver runs brief disk waits; by default in native threads.

    Raises:
        ConfigError: the driver or the library for Redis does not exist, or the driver rejects its settings.
        StorageError: the store cannot be used.
    """
    driver = open_store(config)
    if run_brief is not None:
        driver.run_brief = run_brief
    if times is not None:
        driver = MeasuredDriver(driver, times)
    address = _redis_address(config.cache_lru)
    if not address.is_set:
        return driver
    redis = connection.connect(address, "cache_lru", timeout_seconds=SOCKET_SECONDS)
    cache = LeasedCache(redis, CircuitBreaker(redis, str(address)), StoreIdentity(driver))
    return CachedDriver(driver, cache, max_bytes=config.cache_lru.max_bytes)


def open_store(config: Config) -> StorageDriver:
    """
    Open the configured store without a cache.

    Raises:
        ConfigError, StorageError: as for :func:`open_driver`.
    """
    return drivers.load(config.storage)(**config.driver_options)


def open_diff_queue(config: Config) -> RedisDiffQueue | None:
    """
    Open the queue of diffs to compute; None without Redis.

    Raises:
        ConfigError: the library for Redis is not installed.
    """
    from docker_registry.registry.v1.diff_queue import TIMEOUT_SECONDS, RedisDiffQueue

    address = _redis_address(config.cache)
    if not address.is_set:
        return None
    return RedisDiffQueue(connection.connect(address, "cache", timeout_seconds=TIMEOUT_SECONDS))


def open_shared_redis(
    config: Config, *, max_wait_seconds: float = MAX_WAIT_SECONDS
) -> Callable[[Callable[[Redis], Any]], Any] | None:
    """
    Return a function that runs work with the Redis for state that hosts share (``cache``); None without Redis.

    The function returns the result of the work, or None while Redis is unavailable.

    Args:
        max_wait_seconds: how long one call of the function may wait for Redis.

    Raises:
        ConfigError: the library for Redis is not installed.
    """
    address = _redis_address(config.cache)
    if not address.is_set:
        return None
    redis = connection.connect(address, "cache", timeout_seconds=max(max_wait_seconds, SOCKET_SECONDS))
    circuit = CircuitBreaker(redis, str(address), max_wait_seconds=max_wait_seconds)

    def call(work: Callable[[Redis], Any]) -> Any:
        circuit.begin_request()
        try:
            return circuit.call(work)
        except (Unavailable, OutOfMemory):
            return None

    return call


def _redis_address(section: RedisSection) -> connection.RedisAddress:
    return connection.RedisAddress(
        **{entry.name: getattr(section, entry.name) for entry in fields(connection.RedisAddress)}
    )
