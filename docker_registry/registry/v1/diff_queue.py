"""
The queue of images whose diff must be computed: the Redis list ``diff-worker``, in the format of 0.7.1.

Each element is the JSON of an image id. The queue keeps the newest 1024; a dropped image is queued again when a client
requests its diff.
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

#: Longest wait for a response of Redis, seconds.
TIMEOUT_SECONDS: Final = 2.0

#: Pause after a failure of Redis, seconds, so that a push of a hundred images does not run into a hundred timeouts.
_PAUSE_SECONDS: Final = 10.0


class RedisDiffQueue:
    """A queue for any number of producers (registry workers) and consumers (diff workers)."""

    def __init__(self, redis: Redis, *, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            now: a monotonic clock, seconds.
        """
        self._redis = redis
        self._now = now
        self._paused_until = now()

    def push(self, image_id: ImageId) -> None:
        """
        Add an image, or move it to the end of the queue.

        If Redis is unavailable, a warning is logged and the image is not added, nor any other one during a pause of ten
        seconds: a push must not fail or wait for it.
        """
        from redis.exceptions import RedisError

        if self._now() < self._paused_until:
            return
        element = json.dumps(str(image_id))
        try:
            with self._redis.pipeline() as pipeline:
                # Removes an earlier entry, so that the diff is not computed twice.
                pipeline.lrem(_KEY, 0, element)
                pipeline.lpush(_KEY, element)
                pipeline.ltrim(_KEY, 0, _MAX_WAITING - 1)
                pipeline.execute()
        except RedisError as error:
            self._paused_until = self._now() + _PAUSE_SECONDS
            logger.warning("the diff of image %s is not computed yet: %s", image_id, error)

    def pop(self, timeout_seconds: int) -> ImageId | None:
        """
        Remove and return the oldest image.

        Args:
            timeout_seconds: longest wait for an image, at least 1.

        Returns:
            None when the timeout expired, or the element was not an image id.

        Raises:
            StorageUnavailable: Redis cannot be reached.
        """
        from redis.exceptions import RedisError

        found = None
        try:
            for _ in range(timeout_seconds):  # each wait must stay below the client's socket timeout
                found = self._redis.brpop([_KEY], 1)
                if found:
                    break
        except RedisError as error:
            raise StorageUnavailable(f"The diff queue cannot be reached: {error}") from None
        try:
            return ImageId.parse(str(json.loads(found[1]))) if found else None
        except (ValueError, RecursionError, ImageUnknown):
            logger.warning("the diff queue contained an invalid entry: %r", found)
            return None

    def close(self) -> None:
        """Close the connections to Redis."""
        self._redis.close()

    def ping(self) -> None:
        """
        Check that Redis responds.

        Raises:
            StorageUnavailable: it does not.
        """
        from redis.exceptions import RedisError

        try:
            self._redis.ping()
        except RedisError as error:
            raise StorageUnavailable(f"Redis cannot be reached: {error}") from None
