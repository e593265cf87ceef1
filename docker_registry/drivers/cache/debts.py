"""
Keys that should have been removed while the Redis was away.

They are removed before the Redis is used for anything else again. In a server that is tried in the background as well,
at once and then every second, so that other hosts do not see for long what this one has replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import gevent
from gevent import monkey

from docker_registry.drivers.cache.circuit import Away

if TYPE_CHECKING:
    from redis import Redis

#: More are not remembered one by one: everything goes instead.
_MAX_KEYS: Final = 10_000

_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 1.0


class Debts:
    """What one process owes to the cache of one store."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._keys: set[str] = set()
        self._is_paying = False
        self._in_background: gevent.Greenlet[[], None] | None = None

    def add(self, keys: Iterable[str], everything: str) -> None:
        """
        Remember keys that could not be removed.

        Args:
            everything: the key that spoils all others.
        """
        self._keys.update(keys)
        if len(self._keys) > _MAX_KEYS:
            self._keys = {everything}
        if monkey.is_module_patched("socket") and not self._in_background:  # one that has ended is false
            self._in_background = gevent.spawn(self._keep_trying)

    def pay(self) -> None:
        """
        Remove them, if there are any.

        Raises:
            Away: somebody else is just doing that.
            RedisError, OSError: the Redis is still away.
        """
        if self._is_paying:
            raise Away
        if not self._keys:
            return
        keys, self._keys = self._keys, set()
        self._is_paying = True
        try:
            self._redis.delete(*keys)
        except BaseException:
            self._keys |= keys
            raise
        finally:
            self._is_paying = False

    def _keep_trying(self) -> None:
        from redis.exceptions import RedisError

        pause = _FIRST_PAUSE_SECONDS
        while self._keys:
            gevent.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            try:
                self.pay()
            except (RedisError, OSError, Away):
                continue
