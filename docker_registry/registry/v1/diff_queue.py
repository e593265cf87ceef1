"""
The queue of images whose diff is to be worked out: the list ``diff-worker`` of a Redis, as 0.7.1 has it.

Each element is the JSON of an image id. The newest 1024 are kept: what falls out is asked for again when somebody wants
it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from docker_registry.errors import ImageUnknown, StorageUnavailable
from docker_registry.registry.names import ImageId

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger(__name__)

_KEY: Final = "diff-worker"
_MAX_WAITING: Final = 1024

#: Seconds that a request may lose to a Redis that does not answer.
TIMEOUT_SECONDS: Final = 2.0

#: How long nothing is sent to a Redis that failed: a push of a hundred images must not wait for it a hundred times.
_PAUSE_SECONDS: Final = 10.0


class RedisDiffQueue:
    """A queue that any number of registries fill and any number of workers read."""

    def __init__(self, redis: Redis, *, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            now: a clock that only goes forward, in seconds.
        """
        self._redis = redis
        self._now = now
        self._away_until = now()

    def push(self, image_id: ImageId) -> None:
        """Let an image wait. A Redis that is away costs a line in the log, and no push."""
        from redis.exceptions import RedisError

        if self._now() < self._away_until:
            return
        element = json.dumps(str(image_id))
        try:
            with self._redis.pipeline() as pipeline:
                # One that waits already is not worked out twice.
                pipeline.lrem(_KEY, 0, element)
                pipeline.lpush(_KEY, element)
                pipeline.ltrim(_KEY, 0, _MAX_WAITING - 1)
                pipeline.execute()
        except RedisError as error:
            self._away_until = self._now() + _PAUSE_SECONDS
            logger.warning("the diff of image %s is not worked out yet: %s", image_id, error)

    def pop(self, timeout_seconds: int) -> ImageId | None:
        """
        Take the image that has waited longest.

        Args:
            timeout_seconds: how long to wait for one, at least 1.

        Returns:
            None when none came, or what came is no image.

        Raises:
            StorageUnavailable: the Redis is away.
        """
        from redis.exceptions import RedisError

        found = None
        try:
            for _ in range(timeout_seconds):  # no wait may be longer than the time after which a Redis is given up
                found = self._redis.brpop([_KEY], 1)
                if found:
                    break
        except RedisError as error:
            raise StorageUnavailable(f"The queue of diffs cannot be reached: {error}") from None
        try:
            return ImageId.parse(str(json.loads(found[1]))) if found else None
        except (ValueError, RecursionError, ImageUnknown):
            logger.warning("the queue of diffs held something else: %r", found)
            return None

    def close(self) -> None:
        """Close the connections to Redis."""
        self._redis.close()

    def ping(self) -> None:
        """
        Raises:
            StorageUnavailable: the Redis is away.
        """
        from redis.exceptions import RedisError

        try:
            self._redis.ping()
        except RedisError as error:
            raise StorageUnavailable(f"Redis cannot be reached: {error}") from None
