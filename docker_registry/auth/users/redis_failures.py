"""Failed logins of all hosts of a registry, in Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from redis import Redis

#: Runs some work with Redis, and returns its result; None if Redis is unavailable.
CallRedis = Callable[[Callable[["Redis"], Any]], Any]

_PREFIX: Final = "docker-registry:failed-logins:"

#: KEYS: the keys; ARGV: milliseconds to add to the remaining lifetime of each key, or 0 to only read it, then the
#: maximum lifetime of each. Returns the remaining lifetime of each. Keys have no other state, so that Redis removes
#: what is forgiven.
_ADD: Final = """
local found = {}
for i = 1, #KEYS do
  local left = redis.call('PTTL', KEYS[i])
  if left < 0 then left = 0 end
  if ARGV[1] ~= '0' then
    left = math.min(left + tonumber(ARGV[1]), tonumber(ARGV[i + 1]))
    redis.call('SET', KEYS[i], '', 'PX', left)
  end
  found[i] = left
end
return found
"""


class RedisFailures:
    """Keeps failures as keys in Redis; the remaining lifetime of a key is the time until all are forgiven."""

    def __init__(self, call: CallRedis) -> None:
        self._call = call

    def left(self, names: Sequence[str]) -> list[float]:
        """Return the seconds until all failures of each key are forgiven; 0 while Redis is unavailable."""
        return self._run(names, 0, [])

    def add(self, names: Sequence[str], seconds: float, most: Sequence[float]) -> None:
        """Add seconds to the remaining lifetime of each key, up to its maximum in *most*."""
        self._run(names, seconds, most)

    def _run(self, names: Sequence[str], seconds: float, most: Sequence[float]) -> list[float]:
        keys = [_PREFIX + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:32] for name in names]
        arguments = [str(int(value * 1000)) for value in (seconds, *most)]
        found = self._call(lambda redis: redis.eval(_ADD, len(keys), *keys, *arguments))
        return [0.0] * len(keys) if found is None else [int(value) / 1000 for value in found]
