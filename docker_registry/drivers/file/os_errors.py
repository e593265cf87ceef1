"""What errors of the system mean for a store."""

from __future__ import annotations

import errno
from typing import Final

from docker_registry.errors import PathInvalid, StorageError, StorageFull, StorageUnavailable

#: Nothing lies there, or something else than what was asked for.
NOT_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AWAY: Final = {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN}


def translated(path: str, error: OSError) -> StorageError:
    """Return what an error means for who asked for a path."""
    if error.errno in _FULL:
        return StorageFull(path=path)
    if error.errno == errno.ENAMETOOLONG:
        return PathInvalid(path=path)
    if error.errno in _AWAY:
        return StorageUnavailable(path=path)
    if error.errno == errno.EXDEV:
        return StorageError("The folder of the store must be one file system, with no other mounted in it.", path=path)
    return StorageError(f"The store failed: {error.strerror}.", path=path)
