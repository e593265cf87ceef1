"""How many files a worker may open, and how many connections fit into that."""

from __future__ import annotations

import resource
from typing import Final

#: Files that a process may open, where the system allows it; many systems start with 1024.
MAX_OPEN_FILES: Final = 65536

#: A connection that pulls or pushes needs its socket, a file, and for moments a folder.
_FILES_PER_CONNECTION: Final = 3

#: Files that a worker needs besides: listeners, logs, journal, connections to databases.
_OTHER_FILES: Final = 128


def allow_many() -> None:
    """Let this process and its children open many files, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_that_fit() -> int:
    """Return how many connections this process can serve before it runs out of files; at least 1."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = MAX_OPEN_FILES
    return max((soft - _OTHER_FILES) // _FILES_PER_CONNECTION, 1)
