"""
Pending invalidations: keys that could not be deleted because Redis was unreachable.

They are deleted before Redis is used for anything else. A server also retries in the background, at first immediately
and then every second, so that other hosts do not use outdated entries for long.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import gevent
from gevent import monkey

from docker_registry.drivers.cache.circuit_breaker import Unavailable
from docker_registry.drivers.cache.commands import RedisCommands

#: With more pending keys than this, the whole cache is invalidated instead.
_MAX_KEYS: Final = 10_000

_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 1.0


class PendingInvalidations:
    """The pending invalidations of one process in the cache of one store."""

    def __init__(self, commands: RedisCommands) -> None:
        self._commands = commands
        self._keys: set[str] = set()
        self._is_flushing = False
        self._retries: gevent.Greenlet[[], None] | None = None

    def add(self, keys: Iterable[str], everything: str) -> None:
        """
        Record keys that could not be deleted.

        Args:
            everything: the key whose deletion invalidates the whole cache.
        """
        self._keys.update(keys)
        if len(self._keys) > _MAX_KEYS:
            self._keys = {everything}
        if monkey.is_module_patched("socket") and not self._retries:  # a finished greenlet is falsy
            self._retries = gevent.spawn(self._retry)

    def flush(self) -> None:
        """
        Delete the pending keys, if there are any.

        Raises:
            Unavailable: another greenlet or thread is already deleting them.
            RedisError, OSError: Redis is still unreachable; the keys remain pending.
        """
        if self._is_flushing:
            raise Unavailable
        if not self._keys:
            return
        keys, self._keys = self._keys, set()
        self._is_flushing = True
        try:
            self._commands.send("DEL", *keys)
        except BaseException:
            self._keys |= keys
            raise
        finally:
            self._is_flushing = False

    def _retry(self) -> None:
        from redis.exceptions import RedisError

        pause = _FIRST_PAUSE_SECONDS
        while self._keys:
            gevent.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            try:
                self.flush()
            except (RedisError, OSError, Unavailable):
                continue
