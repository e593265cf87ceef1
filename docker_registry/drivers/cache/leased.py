"""
A cache in which a slow reader can never overwrite a newer value.

Every fact about a path has an entry, and every folder a generation. All keys begin with the store's identity::

    docker-registry:{<identity>}:<fact>:<path>     an entry: a lease until it is filled, then the value
    docker-registry:{<identity>}:g:<folder>        the generation of a folder, a random text; the root's path is empty

* **Look**: a lookup of a missing entry creates a lease, a random token. Concurrent lookups share the lease.
* **Fill**: replaces exactly that lease by the value, or does nothing.
* **Renew and settle**: a writer may replace the entry by a lease of its own before its change, and that lease by the
  new value afterwards. If the entry is another one by then, it is removed.
* **Break**: removes the entry, whether it is a value or a lease. A writer breaks before and after its change, so a
  value that was read before the change either cannot be filled or is removed again.
* **Folders**: an entry contains the hash of the generations of all folders above it and is valid only while they are
  unchanged. Removing a folder's generation invalidates everything below it. Eviction of a generation has the same
  effect: its random successor never matches.

Each operation is one atomic command or script (:mod:`~docker_registry.drivers.cache.scripts`).
Entries that could not be broken because Redis was unreachable are broken before Redis is used again
(:mod:`~docker_registry.drivers.cache.pending_invalidations`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha1
from itertools import chain, compress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from docker_registry.drivers.cache import scripts
from docker_registry.drivers.cache.circuit_breaker import CircuitBreaker, OutOfMemory, Unavailable
from docker_registry.drivers.cache.commands import RedisCommands, Script
from docker_registry.drivers.cache.pending_invalidations import PendingInvalidations
from docker_registry.drivers.paths import folders_above

if TYPE_CHECKING:
    from redis import Redis

#: Lifetime of a lease: a value that is read from the store later than this after the first lookup is not cached.
_LEASE_MILLISECONDS: Final = 10_000

#: The number of folders whose keys are kept. Those of a repository with the deepest name take 35 KB.
KEPT_FOLDERS: Final = 256


class Lookup(NamedTuple):
    """
    The result of a lookup.

    Attributes:
        value: the cached value; None if it is unknown.
        lease: the lease for :meth:`LeasedCache.fill`; None if the value is known or Redis is unavailable.
        key: key of the entry.
        above: keys of the generations of the folders above the path.
        generations: these generations by their keys, and maybe further ones.
    """

    value: bytes | None = None
    lease: bytes | None = None
    key: str = ""
    above: Sequence[str] = ()
    generations: Mapping[str, bytes] = MappingProxyType({})

    def entry(self, value: bytes) -> bytes:
        """Return the content of the entry in Redis when it is filled with a value."""
        stamp = sha1(b" ".join(map(self.generations.__getitem__, self.above)), usedforsecurity=False)
        return stamp.hexdigest().encode() + b"V" + value


class LeasedCache:
    """
    The cache of one store in Redis, shared by any number of processes.

    Attributes:
        requests, hits: number of lookups, and of those that found a value.
        errors: number of calls of Redis that failed, or that were not made because it is unavailable.
    """

    def __init__(self, redis: Redis, circuit: CircuitBreaker, identity: Callable[[], str | None]) -> None:
        """
        Args:
            identity: returns the store's identity, which separates it from other stores in the same Redis; None while
                the identity is unknown, which disables the cache.
        """
        self._circuit = circuit
        self._identity = identity
        self._commands = RedisCommands(redis)
        self._look_up = Script(self._commands, scripts.LOOK_UP)
        self._fill = Script(self._commands, scripts.FILL)
        self._confirm = Script(self._commands, scripts.CONFIRM)
        self._settle = Script(self._commands, scripts.SETTLE)
        self._pending = PendingInvalidations(self._commands)
        self.requests = self.hits = self.errors = 0

    def begin_request(self) -> None:
        """Restore this greenlet's or thread's wait time for Redis at the start of a request."""
        self._circuit.begin_request()

    def look_up(self, fact: str, path: str) -> Lookup:
        """Return the cached value of a fact about a path, or a lease to fill it; neither if Redis is unavailable."""
        return self.look_up_all(fact, (path,))[0]

    def look_up_all(self, fact: str, paths: Sequence[str]) -> list[Lookup]:
        """Return the results of :meth:`look_up` for several paths, with one request to Redis."""
        return self.renew(fact, (), (), paths)[1]

    def fill(self, fact: str, path: str, lease: bytes, value: bytes, seconds: float | None) -> bool:
        """
        Cache a value that was read from the store, unless the path has been changed since the lease was granted.

        Args:
            lease: from the lookup that preceded the read.
            seconds: lifetime of the entry; None for no limit.

        Returns:
            Whether the value was cached.
        """
        prefix = self._prefix()
        if prefix is None:
            return False
        keys = [f"{prefix}:{fact}:{path}", *_generations(prefix, path.rpartition("/")[0])]
        try:
            is_filled = self._call(self._fill.run, keys, [lease, value, int((seconds or 0) * 1000)])
        except (Unavailable, OutOfMemory):
            return False
        self._circuit.record_stored()
        return bool(is_filled)

    def renew(
        self, fact: str, paths: Sequence[str], further: Iterable[tuple[str, str]], needed: Sequence[str] = ()
    ) -> tuple[bytes | None, list[Lookup]]:
        """
        Begin changes of paths: replace the entry of a fact about each by a new lease, and break further entries.

        Args:
            further: pairs of fact and path.
            needed: other paths, about which the fact is looked up with the same request to Redis. If it is unknown
                about one of them, no change begins.

        Returns:
            The lease for :meth:`settle`, the same for all paths, and the results of :meth:`look_up` for the needed
            paths. The lease is None if no change began, or if Redis is unavailable and the invalidation is pending.
        """
        prefix = self._prefix()
        if prefix is None or not (paths or needed):
            return None, [Lookup() for _ in needed]
        count = len(needed)
        self.requests += count
        keys = _keys(prefix, fact, (*needed, *paths))
        broken = [f"{prefix}:{other}:{at}" for other, at in further]
        token = secrets.token_hex(8)
        answer = self._invalidate(
            prefix,
            [*keys.entries[count:], *broken],
            self._look_up.run,
            [*keys.generations, *keys.entries, *broken],
            [token, _LEASE_MILLISECONDS, len(keys.generations), count, len(paths), *keys.positions],
        )
        if answer is None:
            return None, [Lookup() for _ in needed]
        *found, is_renewed, told = answer
        generations = dict(zip(keys.generations, told.split(b" "), strict=True))
        lookups = []
        for entry, key, above in zip(found, keys.entries[:count], keys.above[:count], strict=True):
            if entry.startswith(b"V"):
                self.hits += 1
                lookups.append(Lookup(entry[1:], None, key, above, generations))
            else:
                lookups.append(Lookup(None, entry[1:], key, above, generations))
        return token.encode() if is_renewed == b"1" else None, lookups

    def settle(
        self, fact: str, values: Mapping[str, tuple[bytes, bytes]], further: Iterable[tuple[str, str]], seconds: float
    ) -> frozenset[str]:
        """
        End changes of paths that were begun with :meth:`renew`: cache the new values, and break the further entries.

        The value of a path is not cached if another change of it has begun or ended meanwhile.

        Args:
            values: for each path the lease and the value.
            seconds: lifetime of the values.

        Returns:
            The paths whose values are cached now.
        """
        prefix = self._prefix()
        if prefix is None:
            return frozenset()
        keys = _keys(prefix, fact, values)
        broken = [f"{prefix}:{other}:{at}" for other, at in further]
        arguments: list[str | bytes | int] = [len(keys.entries), len(keys.generations), int(seconds * 1000)]
        for positions, settled in zip(keys.positions, values.values(), strict=True):
            arguments += (positions, *settled)
        are_cached = self._invalidate(
            prefix, [*keys.entries, *broken], self._settle.run, [*keys.entries, *keys.generations, *broken], arguments
        )
        return frozenset(compress(values, are_cached or ()))

    def confirm(self, keys: Sequence[str], total: bytes, rest: Sequence[bytes]) -> bool:
        """
        Return whether keys still hold the expected values; False if Redis is unavailable.

        This restores the wait time, as at the start of a request.

        Args:
            total: the sum (:func:`sum_of`) of the expected values of the first keys.
            rest: the expected values of the remaining keys.
        """
        self._circuit.begin_request()
        try:
            return bool(self._call(self._confirm.run, keys, [total, *rest]))
        except (Unavailable, OutOfMemory):
            return False

    def break_leases(self, entries: Iterable[tuple[str, str]], folder: str | None = None) -> None:
        """
        Remove cached facts and break their leases, so that values read earlier cannot be filled.

        If Redis is unavailable, the invalidation remains pending.

        Args:
            entries: pairs of fact and path.
            folder: a folder below which everything is invalidated as well.
        """
        prefix = self._prefix()
        if prefix is None:
            return
        keys = [f"{prefix}:{fact}:{path}" for fact, path in entries]
        if folder is not None:
            keys.append(f"{prefix}:g:{folder}")
        self._invalidate(prefix, keys, self._commands.send, "DEL", *keys)

    def _invalidate(self, prefix: str, keys: Sequence[str], command: Callable[..., Any], *arguments: Any) -> Any:
        """Send a command that invalidates keys; return None if Redis is unavailable. Then they remain pending."""
        try:
            return self._call(command, *arguments)
        except BaseException as error:  # also if this greenlet is killed
            if keys:
                self._pending.add(keys, f"{prefix}:g:")
            if not isinstance(error, Unavailable | OutOfMemory):
                raise
            return None

    def _call(self, command: Callable[..., Any], *arguments: Any) -> Any:
        def flush_and_send(_: Redis) -> Any:
            self._pending.flush()
            return command(*arguments)

        try:
            return self._circuit.call(flush_and_send)
        except Unavailable:
            self.errors += 1
            self._commands.close()  # after a restart of the server, all idle connections are dead
            raise
        except OutOfMemory:
            self.errors += 1
            raise

    def _prefix(self) -> str | None:
        identity = self._identity()
        return None if identity is None else f"docker-registry:{{{identity}}}"


class _Keys(NamedTuple):
    """
    The keys of the entries of several paths, and those of their generations.

    Attributes:
        above: for each entry the generations of the folders above its path.
        generations: all of them, each once.
        positions: for each entry the positions of its generations among all, from 1, separated by spaces.
    """

    entries: list[str]
    above: list[tuple[str, ...]]
    generations: list[str]
    positions: list[str]


def sum_of(values: Iterable[bytes]) -> bytes:
    """Return a hash of a sequence of values."""
    total = sha1(b"".join(b"%d:%b" % (len(value), value) for value in values), usedforsecurity=False)
    return total.hexdigest().encode()


@lru_cache(maxsize=KEPT_FOLDERS)  # a request looks up and changes several files of a folder, each more than once
def _generations(prefix: str, folder: str) -> tuple[str, ...]:
    """Return the keys of the generations of a folder and of those that contain it, the root first."""
    return tuple([f"{prefix}:g:{each}" for each in ("", *folders_above(folder and f"{folder}/"))])


def _keys(prefix: str, fact: str, paths: Iterable[str]) -> _Keys:
    above = [_generations(prefix, path.rpartition("/")[0]) for path in paths]
    generations = [*dict.fromkeys(chain.from_iterable(above))]
    positions = dict(zip(generations, map(str, range(1, len(generations) + 1)), strict=True))
    return _Keys(
        entries=[f"{prefix}:{fact}:{path}" for path in paths],
        above=above,
        generations=generations,
        positions=[" ".join(map(positions.__getitem__, each)) for each in above],
    )
