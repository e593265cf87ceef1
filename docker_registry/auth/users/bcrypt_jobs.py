"""Jobs of a :class:`~docker_registry.cpu_pool.pool.CpuPool` that compare passwords with bcrypt hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import bcrypt

#: bcrypt reads no more of a password, and its library demands that it gets no more.
MAX_PASSWORD_BYTES: Final = 72


def check(password: bytes, stored: bytes) -> bool:
    """Return whether a password has a hash; a hash that the library refuses belongs to no password."""
    try:
        return bcrypt.checkpw(password[:MAX_PASSWORD_BYTES], stored)
    except ValueError:
        return False


def _check(arguments: Mapping[str, Any], _: object) -> Iterator[bytes]:
    """Yield ``true`` or ``false``; *arguments* are ``{"password": HEX, "hash": "$2b$…"}``."""
    yield b"true" if check(bytes.fromhex(arguments["password"]), arguments["hash"].encode()) else b"false"


JOBS: Final = {"check": _check}
