"""Whether stored bytes are those of a digest."""

from __future__ import annotations

import hashlib

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry.names import Digest
from docker_registry.threads import in_thread


def is_intact(driver: StorageDriver, path: str, digest: Digest) -> bool:
    """
    Read a stored file and tell whether its bytes amount to a digest; False when it is not there.

    Takes as long as reading all of it; the hash is computed in a native thread.
    """
    content = hashlib.new(digest.algorithm)
    try:
        for block in driver.stream_read(path):
            in_thread(content.update, block)
    except PathNotFound:
        return False
    return Digest.from_hash(content) == digest
