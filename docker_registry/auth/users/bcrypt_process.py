"""
A process of low priority in which a worker runs bcrypt.

A thread of the worker would do for the interpreter lock, but it would compete with requests: for the processor at their
priority, and at a lower one it would delay the worker whenever it has to wait for the processor while holding the lock.
"""

from __future__ import annotations

from typing import Final

from docker_registry.auth.users import bcrypt_jobs
from docker_registry.concurrency import ignoring_client
from docker_registry.cpu_pool.pool import CpuPool

#: Time after which an unused process is ended; starting one takes longer than bcrypt.
IDLE_SECONDS: Final = 300.0

#: Processor time of one comparison; at the highest cost that is accepted it takes about 1.2 seconds.
MAX_SECONDS: Final = 60.0

MAX_MEMORY_BYTES: Final = 512 * 1024**2


class BcryptProcess:
    """Compares passwords with hashes; the process is started when it is needed. Commands do without it."""

    def __init__(self) -> None:
        self._pool = CpuPool(
            bcrypt_jobs.__name__,
            bcrypt_jobs.JOBS,
            max_processes=1,
            max_memory_bytes=MAX_MEMORY_BYTES,
            max_seconds=MAX_SECONDS,
            idle_seconds=IDLE_SECONDS,
        )

    def check(self, password: bytes, stored: bytes) -> bool:
        """
        Return whether a password has a hash.

        Raises:
            Overloaded: the process could not be started, or died.
        """
        arguments = {"password": password[: bcrypt_jobs.MAX_PASSWORD_BYTES].hex(), "hash": stored.decode()}
        with ignoring_client():  # a client that leaves must not escape the limit of failed logins
            return bool(self._pool.result("check", arguments))
