"""
A cache in which a reader, however slow, never buries a newer value.

Every fact about a path has an entry, and every folder a generation; all keys lie under the store's identity::

    docker-registry:{<identity>}:<fact>:<path>     an entry: a lease until it is filled, then the value
    docker-registry:{<identity>}:g:<folder>        the generation of a folder, a random text; the root's path is empty

* **Looking** for what is not there leaves a lease, a random token, which all who look meanwhile share.
* **Filling** replaces exactly that lease, or does nothing.
* **Breaking** removes the entry, value or lease. Who writes breaks before and after: what was read before the change
  can no longer be filled, or is removed again.
* **A folder** takes its children along: an entry carries the generations of all folders above it and is good only
  with them; removing a generation spoils all that lies below. One that was evicted is as good as removed: nothing can
  ever match it again.

Each step is one script, so nothing comes in between (https://redis.io/docs/latest/develop/programmability/eval-intro/).
What could not be broken, because the Redis was away, is made up for when it is back, before anything else
(:mod:`~docker_registry.drivers.cache.debts`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import TYPE_CHECKING, Final, TypeVar

from docker_registry.drivers.base import folders_above
from docker_registry.drivers.cache.circuit import Away, Circuit, Full
from docker_registry.drivers.cache.debts import Debts

if TYPE_CHECKING:
    from redis import Redis

Answer = TypeVar("Answer")

#: The one who looked first has so long to read the store; what comes later is not kept.
_LEASE_MILLISECONDS: Final = 10_000

#: KEYS: the entry, the generations; ARGV: a new token, milliseconds. Returns V and the value, or L and the lease; and
#: the generations.
_LOOK: Final = """
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

#: KEYS: the entry, the generations; ARGV: the lease, the value, milliseconds or 0. Returns whether it was filled.
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

#: KEYS: entries and generations; ARGV: the sum of what the first of them held, what each of the last ones held.
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
class Found:
    """
    What the cache says about a fact.

    Attributes:
        value: None when it does not know.
        lease: with which it may be told; None when it does not want to be.
        generations: of the folders above, by their keys.
        key: of the entry.
    """

    value: bytes | None = None
    lease: bytes | None = None
    generations: Mapping[str, bytes] = field(default_factory=dict)
    key: str = ""

    def entry(self, value: bytes) -> bytes:
        """Return what the Redis holds of a value."""
        return _stamp(self.generations.values()) + b"V" + value


class LeasedCache:
    """The cache of one store in a Redis that any number of processes share."""

    def __init__(self, redis: Redis, circuit: Circuit, identity: Callable[[], str | None]) -> None:
        """
        Args:
            identity: what tells this store from others in the same Redis; None while that is not known.
        """
        self._circuit = circuit
        self._identity = identity
        self._look = redis.register_script(_LOOK)
        self._fill = redis.register_script(_FILL)
        self._confirm = redis.register_script(_CONFIRM)
        self._debts = Debts(redis)

    def begin_request(self) -> None:
        """Say that what this greenlet, or thread, does from now on is another request, which may wait anew."""
        self._circuit.begin_request()

    def look(self, fact: str, path: str) -> Found:
        """Return what is known of a path, or a lease for whoever finds out."""
        prefix = self._prefix()
        if prefix is None:
            return Found()
        keys = _entry_and_generations(prefix, fact, path)
        try:
            answer = self._call(lambda _: self._look(keys, [secrets.token_hex(8), _LEASE_MILLISECONDS]))
        except (Away, Full):
            return Found()
        told, generations = answer[0], dict(zip(keys[1:], answer[1].split(b" "), strict=True))
        if told[:1] == b"V":
            return Found(told[1:], None, generations, keys[0])
        return Found(None, told[1:], generations, keys[0])

    def fill(self, fact: str, path: str, lease: bytes, value: bytes, seconds: float | None) -> bool:
        """
        Tell what was read from the store, unless somebody has changed it since the lease was given.

        Args:
            seconds: how long it is good at most; None for ever.

        Returns:
            Whether it is known now.
        """
        prefix = self._prefix()
        if prefix is None:
            return False
        keys = _entry_and_generations(prefix, fact, path)
        try:
            is_filled = self._call(lambda _: self._fill(keys, [lease, value, int((seconds or 0) * 1000)]))
        except (Away, Full):
            return False
        self._circuit.note_room()
        return bool(is_filled)

    def confirm(self, keys: Sequence[str], total: bytes, rest: Sequence[bytes]) -> bool:
        """
        Tell whether keys hold what they held; one request by itself.

        Args:
            total: the sum (:func:`sum_of`) of what all but the last ones held.
            rest: what the last ones held.
        """
        self._circuit.begin_request()
        try:
            return bool(self._call(lambda _: self._confirm(keys, [total, *rest])))
        except (Away, Full):
            return False

    def break_leases(self, entries: Iterable[tuple[str, str]], folder: str | None = None) -> None:
        """
        Forget facts, and let nobody fill them who looked before.

        Args:
            entries: facts and paths.
            folder: forget also all that lies below it.
        """
        prefix = self._prefix()
        if prefix is None:
            return
        keys = [f"{prefix}:{fact}:{path}" for fact, path in entries]
        if folder is not None:
            keys.append(f"{prefix}:g:{folder}")
        try:
            self._call(lambda redis: redis.delete(*keys))
        except BaseException as error:  # also when this greenlet is ended from outside
            self._debts.add(keys, f"{prefix}:g:")
            if not isinstance(error, Away | Full):
                raise

    def _call(self, work: Callable[[Redis], Answer]) -> Answer:
        def paid(redis: Redis) -> Answer:
            self._debts.pay()
            return work(redis)

        return self._circuit.call(paid)

    def _prefix(self) -> str | None:
        identity = self._identity()
        return None if identity is None else f"docker-registry:{{{identity}}}"


def sum_of(values: Iterable[bytes]) -> bytes:
    """Return a text that stands for values in their order."""
    total = sha1(b"".join(b"%d:%b" % (len(value), value) for value in values), usedforsecurity=False)
    return total.hexdigest().encode()


def _stamp(generations: Iterable[bytes]) -> bytes:
    return sha1(b" ".join(generations), usedforsecurity=False).hexdigest().encode()


def _entry_and_generations(prefix: str, fact: str, path: str) -> list[str]:
    return [f"{prefix}:{fact}:{path}", *(f"{prefix}:g:{folder}" for folder in ("", *folders_above(path)))]
