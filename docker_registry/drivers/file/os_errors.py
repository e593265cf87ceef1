"""Translation of operating system errors to errors of the store."""

from __future__ import annotations

import errno
from typing import Final

from docker_registry.errors import PathInvalid, StorageError, StorageFull, StorageUnavailable

#: The path does not exist or is of another kind than expected.
NOT_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AWAY: Final = {errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN}


def translated(path: str, error: OSError) -> StorageError:
    """Return the error of the store that corresponds to an operating system error for *path*."""
    if error.errno in _FULL:
        return StorageFull(path=path)
    if error.errno == errno.ENAMETOOLONG:
        return PathInvalid(path=path)
    if error.errno in _AWAY:
        return StorageUnavailable(path=path)
    if error.errno == errno.EXDEV:
        return StorageError("The folder of the store must be one file system, with no other mounted in it.", path=path)
    return StorageError(f"The store failed: {error.strerror}.", path=path)
