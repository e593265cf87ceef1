"""The limit of open files of a worker, and the number of connections that fit into it."""

from __future__ import annotations

import resource
from typing import Final

#: The soft limit of open files is raised to this, if the system allows it; the default is often 1024.
MAX_OPEN_FILES: Final = 65536

#: A transfer needs its socket, a file, and sometimes a folder.
_FILES_PER_CONNECTION: Final = 3

#: Other files of a worker: listeners, logs, journal, connections to databases.
_OTHER_FILES: Final = 128


def allow_many() -> None:
    """Raise the limit of open files for this process and its children, as far as the system allows."""
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
