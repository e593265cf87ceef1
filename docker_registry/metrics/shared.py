"""
Numbers of all workers in a folder in memory, one file for each worker.

A worker replaces its file every second, so SIGKILL loses at most the last second of its numbers. The file of a worker
that ended stays, and is counted, until the server ends; files of ended workers are merged into one.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from docker_registry.metrics.busiest import MAX_COUNTED, busiest
from docker_registry.metrics.numbers import Numbers

#: Environment variable with the folder that the workers of one server share.
FOLDER_VARIABLE: Final = "DOCKER_REGISTRY_METRICS_FOLDER"

_PREFIX: Final = "docker-registry-metrics-"
_ENDED: Final = "ended"


def make_folder(uid: int, gid: int) -> Path:
    """Create the folder of a server that runs as this process, and remove folders of servers that were killed."""
    memory = Path("/dev/shm")  # noqa: S108 - files in memory; the folder below is private
    parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    namespace = _process_namespace()
    for other in parent.glob(f"{_PREFIX}*"):
        owner, _, rest = other.name.removeprefix(_PREFIX).partition("-")
        # A container that shares the memory has process ids of its own.
        if owner.isdecimal() and rest.startswith(f"{namespace}-") and not _lives(int(owner)):
            shutil.rmtree(other, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-{namespace}-", dir=parent))
    os.chown(folder, uid, gid)
    return folder


class SharedNumbers:
    """The numbers of all workers of a server."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: created by :func:`make_folder`.
        """
        self._folder = folder

    def publish(self, numbers: Numbers) -> None:
        """Replace the numbers of this worker."""
        self._replace(str(os.getpid()), numbers)

    def total(self, own: Numbers) -> tuple[Numbers, int]:
        """
        Sum the numbers of all workers.

        Args:
            own: the numbers of this worker, which may be newer than those that it has published.

        Returns:
            The sums, whose counters include those of workers that ended; and the number of live workers.
        """
        total, workers = Numbers(), 1
        total.add(own)
        with self._locked():
            ended = []
            for path in self._folder.iterdir():
                if path.name == str(os.getpid()) or not path.name.isdecimal():
                    continue
                if not _lives(int(path.name)):
                    ended.append(path)
                    continue
                total.add(_read(path))
                workers += 1
            total.add(self._merge(ended))
        return total, workers

    def _merge(self, ended: Sequence[Path]) -> Numbers:
        """
        Return the numbers of all workers that ended.

        Their files are merged, so that workers that come and go leave nothing behind; on a full file system they stay.

        Args:
            ended: the files that are not merged yet.
        """
        total = Numbers()
        for path in (*ended, self._folder / _ENDED):
            if path.exists():
                total.add(_read(path))
        total.gauges.clear()
        total.repositories = busiest(total.repositories, MAX_COUNTED)
        if ended:
            with suppress(OSError):
                self._replace(_ENDED, total)
                for path in ended:
                    path.unlink()
        return total

    def _replace(self, name: str, numbers: Numbers) -> None:
        staged = self._folder / f"{name}.new"
        staged.write_text(json.dumps(numbers.to_json()))
        staged.replace(self._folder / name)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _read(path: Path) -> Numbers:
    return Numbers.from_json(json.loads(path.read_text()))


def _process_namespace() -> str:
    """Return a number that identifies the namespace of this process's id; ``0`` where the system does not tell."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "0"


def _lives(pid: int) -> bool:
    """Return whether a process runs; a zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
