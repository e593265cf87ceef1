"""
The directory of a backup: a tree in the layout of the store, which the driver ``file`` can serve.

::

    docker/registry/v2/…  images/…  repositories/…     the store
    .docker-registry/backup/state.json                 {"isComplete": true, "id": "5b0f…"}
    .docker-registry/backup/lock                       held by the command that writes the backup
    .docker-registry/backup/new                        the file that is being written

A blob is renamed to its path only after it has been verified and synced, so an existing blob is not copied again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from docker_registry.drivers.base import Bytes
from docker_registry.drivers.paths import check_path
from docker_registry.errors import ConfigError, PathInvalid, StorageError
from docker_registry.registry import layout
from docker_registry.registry.maintenance import store_paths

_RESERVED: Final = ".docker-registry"
_BLOCK_BYTES: Final = 1024 * 1024

#: Mode of files with keys and tokens.
_SECRET_MODE: Final = 0o600

#: Errors of file systems without hard links, and of a file that has the maximum number of them: 65,000 on ext4.
_NO_LINKS: Final = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


class BackupFolder:
    """
    A directory in the local file system that holds a copy of a store.

    The methods that read it raise StorageError for what exists and cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._state_folder = root / _RESERVED / "backup"
        self._temporary = self._state_folder / "new"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """
        Create the directory, readable by its owner only, and hold its lock during the block.

        Raises:
            ConfigError: the directory contains something other than a backup, which a backup could overwrite or remove.
            StorageError: the directory cannot be written, or another command holds the lock.
        """
        with _translated(self._root, "written"):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._may_be_backup():
                raise ConfigError(
                    f"The folder {self._root} contains files that are no backup. Choose an empty folder, or a new one."
                )
            self._state_folder.mkdir(parents=True, exist_ok=True)
            with (self._state_folder / "lock").open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise StorageError(f"Another process is writing the backup {self._root}.") from None
                yield

    def _may_be_backup(self) -> bool:
        """Return whether the directory is empty, a backup, or a copy of a store that another program made."""
        # Some file systems have lost+found, .snapshot or the like in their root.
        names = {path.name for path in self._root.iterdir() if path.name[0] != "." and path.name != "lost+found"}
        is_backup = (self._state_folder / "state.json").exists() or (self._root / layout.ROOT).is_dir()
        return is_backup or names in (set(), {layout.IMAGES, layout.IMAGE_REPOSITORIES})

    def set_complete(self, *, is_complete: bool) -> None:
        """Record durably whether the backup is complete, after syncing everything written before."""
        os.sync()
        state = json.dumps({"isComplete": is_complete, "id": secrets.token_hex(16)}).encode()
        self._write(self._state_folder / "state.json", [state], sync=True)

    @property
    def is_complete(self) -> bool:
        """Whether the last backup into this directory completed; True for a tree copied by another program."""
        return bool(self._state().get("isComplete"))

    @property
    def identity(self) -> bytes:
        """The id of the last backup into this directory, if it has one, and the absolute path of the directory."""
        return f"{self._state().get('id', '')} ".encode() + os.fsencode(self._root.resolve())

    def _state(self) -> dict[str, Any]:
        path = self._state_folder / "state.json"
        with _translated(path, "read"):
            try:
                state = json.loads(path.read_bytes())
            except FileNotFoundError:
                return {"isComplete": True}
            except ValueError:
                return {}
        return state if isinstance(state, dict) else {}

    @property
    def is_readable(self) -> bool:
        """Whether the directory exists and can be listed."""
        try:
            return self._root.is_dir() and os.access(self._root, os.R_OK | os.X_OK)
        except PermissionError:  # of a folder above it
            return False

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes; None if it does not exist."""
        full_path = self._full_path(path)
        with _translated(full_path, "read"):
            try:
                status = full_path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def read(self, path: str) -> bytes | None:
        """Return the content of a small file; None if it does not exist."""
        full_path = self._full_path(path)
        with _translated(full_path, "read"):
            try:
                return full_path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield the blocks of a file."""
        full_path = self._full_path(path)
        with _translated(full_path, "read"), full_path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block

    def put(self, path: str, content: bytes) -> bool:
        """Write a small file, a secret for its owner only; return False if the file is there with this content."""
        target, is_secret = self._full_path(path), store_paths.is_secret(path)
        is_current = self.read(path) == content
        if is_current and not (is_secret and target.stat().st_mode & 0o077):  # earlier versions wrote it for all users
            return False
        self._write(target, [content], sync=False, is_secret=is_secret)
        return True

    def write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """Write a file durably and return its size in bytes; if *blocks* raises, the old file remains."""
        return self._write(self._full_path(path), blocks, sync=True)

    def link(self, source: str, target: str) -> None:
        """
        Create a hard link to a file.

        Where the file system has no hard links, or the file has the maximum number of them, it is copied instead,
        unless *target* has its size already.
        """
        source_path, target_path = self._full_path(source), self._full_path(target)
        if target_path.exists() and target_path.samefile(source_path):
            return
        self._temporary.unlink(missing_ok=True)
        try:
            os.link(source_path, self._temporary)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self.size(target) != self.size(source):
                self.write(target, self.blocks(source))
            return
        target_path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.replace(target_path)

    def remove(self, path: str) -> None:
        """Remove a file and the parent directories that become empty."""
        file = self._full_path(path)
        file.unlink(missing_ok=True)
        for folder in file.parents:
            if folder == self._root:
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def walk(self, path: str = "") -> Iterator[str]:
        """Yield the paths of all files below a directory; of the whole backup by default."""
        top = self._full_path(path) if path else self._root
        for folder, folders, files in os.walk(top, onerror=_check_missing):
            if Path(folder) == self._root:
                folders[:] = [name for name in folders if name not in (_RESERVED, "lost+found")]
            prefix = Path(folder).relative_to(self._root).as_posix()
            for name in files:
                found_path = name if prefix == "." else f"{prefix}/{name}"
                try:
                    yield check_path(found_path)
                except PathInvalid:  # not a valid path in a store
                    continue

    def _full_path(self, path: str) -> Path:
        return self._root / check_path(path)

    def _write(self, target: Path, blocks: Iterable[Bytes], *, sync: bool, is_secret: bool = False) -> int:
        size = 0
        self._temporary.unlink(missing_ok=True)  # may be a hard link to a blob, if a command died while linking
        with _translated(target, "written"), self._temporary.open("xb") as file:
            if is_secret:
                os.fchmod(file.fileno(), _SECRET_MODE)
            for block in blocks:
                file.write(block)
                size += len(block)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        with _translated(target, "written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.replace(target)
        return size


@contextmanager
def _translated(path: Path, action: Literal["read", "written"]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be {action}: {error.strerror}") from None


def _check_missing(error: OSError) -> None:
    """
    Check that a directory could not be listed because it does not exist.

    Raises:
        StorageError: there is another reason, so that files in it would be left out.
    """
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise StorageError(f"{error.filename} cannot be read: {error.strerror}")
