"""
A cache in which a slow reader can never overwrite a newer value.

Every fact about a path has an entry, and every folder a generation. All keys begin with the store's identity::

    docker-registry:{<identity>}:<fact>:<path>     an entry: a lease until it is filled, then the value
    docker-registry:{<identity>}:g:<folder>        the generation of a folder, a random text; the root's path is empty

* **Look**: a lookup of a missing entry creates a lease, a random token. Concurrent lookups share the lease.
* **Fill**: replaces exactly that lease by the value, or does nothing.
* **Break**: removes the entry, whether it is a value or a lease. A writer breaks before and after its change, so a
  value that was read before the change either cannot be filled or is removed again.
* **Folders**: an entry contains the hash of the generations of all folders above it and is valid only while they are
  unchanged. Removing a folder's generation invalidates everything below it. Eviction of a generation has the same
  effect: its random successor never matches.

Each operation is one atomic command or script (https://redis.io/docs/latest/develop/programmability/eval-intro/).
Entries that could not be broken because Redis was unreachable are broken before Redis is used again
(:mod:`~docker_registry.drivers.cache.pending_invalidations`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import TYPE_CHECKING, Final, TypeVar

from docker_registry.drivers.base import folders_above
from docker_registry.drivers.cache.circuit_breaker import CircuitBreaker, OutOfMemory, Unavailable
from docker_registry.drivers.cache.pending_invalidations import PendingInvalidations

if TYPE_CHECKING:
    from redis import Redis

Result = TypeVar("Result")

#: Lifetime of a lease: a value that is read from the store later than this after the first lookup is not cached.
_LEASE_MILLISECONDS: Final = 10_000

#: KEYS: the entry, the generations; ARGV: a new token, the lifetime of a new lease in milliseconds. Returns two texts:
#: ``V`` and the value, or ``L`` and the lease; and the generations, separated by spaces.
_LOOK_UP: Final = """
local function get(key)  -- false also for a key of another type, which is not ours and is replaced
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value
end
local stamp = {}
for i = 2, #KEYS do
  local generation = get(KEYS[i])
  if not generation or not string.match(generation, '^%x+$') then
    generation = ARGV[1]
    redis.call('SET', KEYS[i], generation)
  end
  stamp[i - 1] = generation
end
local generations = table.concat(stamp, ' ')
stamp = redis.sha1hex(generations)
local found = get(KEYS[1])
if found and string.sub(found, 1, 40) == stamp then
  return {string.sub(found, 41), generations}
end
redis.call('SET', KEYS[1], stamp .. 'L' .. ARGV[1], 'PX', ARGV[2])
return {'L' .. ARGV[1], generations}
"""

#: KEYS: the entry, the generations; ARGV: the lease, the value, its lifetime in milliseconds or 0 for no limit. Returns
#: 1 if the entry was filled, otherwise 0.
_FILL: Final = """
local function get(key)
  local value = redis.pcall('GET', key)
  return type(value) == 'string' and value
end
local stamp = {}
for i = 2, #KEYS do
  local generation = get(KEYS[i])
  if not generation then
    return 0
  end
  stamp[i - 1] = generation
end
stamp = redis.sha1hex(table.concat(stamp, ' '))
if get(KEYS[1]) ~= stamp .. 'L' .. ARGV[1] then
  return 0
end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], stamp .. 'V' .. ARGV[2])
else
  redis.call('SET', KEYS[1], stamp .. 'V' .. ARGV[2], 'PX', ARGV[3])
end
return 1
"""

#: KEYS: entries and generations; ARGV: the expected sum of the first values (:func:`sum_of`), then the expected value
#: of each remaining key. Returns 1 if all match, otherwise 0.
_CONFIRM: Final = """
local found = redis.call('MGET', unpack(KEYS))
local summed = #KEYS - #ARGV + 1
for i = 1, #KEYS do
  local value = found[i]
  if not value or (i > summed and value ~= ARGV[i - summed + 1]) then
    return 0
  end
  found[i] = i > summed and '' or #value .. ':' .. value
end
return redis.sha1hex(table.concat(found)) == ARGV[1] and 1 or 0
"""


@dataclass(frozen=True, slots=True)
class Lookup:
    """
    The result of a lookup.

    Attributes:
        value: the cached value; None if it is unknown.
        lease: the lease for :meth:`LeasedCache.fill`; None if the value is known or Redis is unavailable.
        generations: generations of the folders above the path, by their keys.
        key: key of the entry.
    """

    value: bytes | None = None
    lease: bytes | None = None
    generations: Mapping[str, bytes] = field(default_factory=dict)
    key: str = ""

    def entry(self, value: bytes) -> bytes:
        """Return the content of the entry in Redis when it is filled with a value."""
        return _stamp(self.generations.values()) + b"V" + value


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
        self._look_up = redis.register_script(_LOOK_UP)
        self._fill = redis.register_script(_FILL)
        self._confirm = redis.register_script(_CONFIRM)
        self._pending = PendingInvalidations(redis)
        self.requests = self.hits = self.errors = 0

    def begin_request(self) -> None:
        """Restore this greenlet's or thread's wait time for Redis at the start of a request."""
        self._circuit.begin_request()

    def look_up(self, fact: str, path: str) -> Lookup:
        """Return the cached value of a fact about a path, or a lease to fill it; neither if Redis is unavailable."""
        prefix = self._prefix()
        if prefix is None:
            return Lookup()
        self.requests += 1
        keys = _entry_and_generations(prefix, fact, path)
        try:
            reply = self._call(lambda _: self._look_up(keys, [secrets.token_hex(8), _LEASE_MILLISECONDS]))
        except (Unavailable, OutOfMemory):
            return Lookup()
        value, generations = reply[0], dict(zip(keys[1:], reply[1].split(b" "), strict=True))
        if value[:1] == b"V":
            self.hits += 1
            return Lookup(value[1:], None, generations, keys[0])
        return Lookup(None, value[1:], generations, keys[0])

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
        keys = _entry_and_generations(prefix, fact, path)
        try:
            is_filled = self._call(lambda _: self._fill(keys, [lease, value, int((seconds or 0) * 1000)]))
        except (Unavailable, OutOfMemory):
            return False
        self._circuit.record_stored()
        return bool(is_filled)

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
            return bool(self._call(lambda _: self._confirm(keys, [total, *rest])))
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
        try:
            self._call(lambda redis: redis.delete(*keys))
        except BaseException as error:  # also if this greenlet is killed
            self._pending.add(keys, f"{prefix}:g:")
            if not isinstance(error, Unavailable | OutOfMemory):
                raise

    def _call(self, work: Callable[[Redis], Result]) -> Result:
        def flush_and_work(redis: Redis) -> Result:
            self._pending.flush()
            return work(redis)

        try:
            return self._circuit.call(flush_and_work)
        except (Unavailable, OutOfMemory):
            self.errors += 1
            raise

    def _prefix(self) -> str | None:
        identity = self._identity()
        return None if identity is None else f"docker-registry:{{{identity}}}"


def sum_of(values: Iterable[bytes]) -> bytes:
    """Return a hash of a sequence of values."""
    total = sha1(b"".join(b"%d:%b" % (len(value), value) for value in values), usedforsecurity=False)
    return total.hexdigest().encode()


def _stamp(generations: Iterable[bytes]) -> bytes:
    return sha1(b" ".join(generations), usedforsecurity=False).hexdigest().encode()


def _entry_and_generations(prefix: str, fact: str, path: str) -> list[str]:
    return [f"{prefix}:{fact}:{path}", *(f"{prefix}:g:{folder}" for folder in ("", *folders_above(path)))]
