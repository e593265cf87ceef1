"""Verification of stored content against its digest."""

from __future__ import annotations

import hashlib

from docker_registry.concurrency import run_in_thread
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import PathNotFound
from docker_registry.registry.names import Digest


def is_intact(driver: StorageDriver, path: str, digest: Digest) -> bool:
    """
    Return whether the content of a stored file has a digest; False if the file does not exist.

    Reads the whole file; the hash is computed in a native thread.
    """
    content = hashlib.new(digest.algorithm)
    try:
        for block in driver.stream_read(path):
            run_in_thread(content.update, block)
    except PathNotFound:
        return False
    return Digest.from_hash(content) == digest
