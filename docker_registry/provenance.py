"""
What an answer was made of: the files that its request looked at, each as it was found, and what a cache has told it.

While a request is answered within :func:`collected`, the driver of files notes here what it reads and what it finds
missing. As long as all of that is unchanged, the same request has the same answer (:mod:`docker_registry.repeats`).
What is known from elsewhere has a witness, who notes it and confirms it (:mod:`docker_registry.drivers.cache.witness`).
Whatever cannot be noted spoils a provenance: work in another thread, a list that was read, a file so young that the
clock of the file system could not tell its next version from it.

Only who knows that an answer follows from the request and from such files alone offers it for repetition.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol, TypeVar

#: Device, inode, size, and the times of content and inode in nanoseconds; None of what is not there.
Signature = tuple[int, int, int, int, int] | None

#: A file that changed less than this ago may change again without a new time: kernels advance the clock of their file
#: systems every 1 to 10 ms.
CLOCK_TICK_NANOSECONDS: Final = 100_000_000

#: The same where times have whole seconds (ext3, ext4 with inodes of 128 bytes, some NFS), or every second one (FAT).
WHOLE_SECONDS_TICK_NANOSECONDS: Final = 2_100_000_000

_SECOND_NANOSECONDS: Final = 10**9

#: An answer made of more files costs as much to confirm as to make.
_MAX_FILES: Final = 64


class Witness(Protocol):
    """Somebody who has noted what else an answer was made of."""

    @property
    def is_whole(self) -> bool:
        """Whether all of it could be noted."""

    def is_current(self) -> bool:
        """Tell whether all of it is as it was; this may take a while."""


W = TypeVar("W", bound=Witness)


class Provenance:
    """
    What one answer was made of.

    Attributes:
        is_whole: whether all of it could be noted.
        is_offered: whether somebody knows that the answer follows from it.
        witness: who knows the rest of it, if there is any.
    """

    __slots__ = ("_files", "is_offered", "is_whole", "witness")

    def __init__(self) -> None:
        self.is_whole = True
        self.is_offered = False
        self.witness: Witness | None = None
        self._files: dict[str, Signature] = {}

    def is_current(self) -> bool:
        """Tell whether everything is as it was."""
        for place, signature in self._files.items():
            try:
                found = os.stat(place)
            except (FileNotFoundError, NotADirectoryError):
                if signature is not None:
                    return False
            except OSError:
                return False
            else:
                if signature != _sign(found):
                    return False
        return self.witness is None or (self.witness.is_whole and self.witness.is_current())

    def note(self, place: str, found: os.stat_result | None) -> None:
        """Add a file, as it was found, or that there is none."""
        signature = None if found is None else _sign(found)
        is_ambiguous = found is not None and may_change_unnoticed(found)
        if is_ambiguous or len(self._files) >= _MAX_FILES or self._files.setdefault(place, signature) != signature:
            self.is_whole = False


_collecting: ContextVar[Provenance | None] = ContextVar("provenance", default=None)


@contextmanager
def collected() -> Iterator[Provenance]:
    """Collect the provenance of what is answered meanwhile, in this greenlet."""
    provenance = Provenance()
    token = _collecting.set(provenance)
    try:
        yield provenance
    finally:
        _collecting.reset(token)


def may_change_unnoticed(found: os.stat_result) -> bool:
    """
    Tell whether a file or folder could still change without a change of its times.

    The tick is read from each time itself: a fraction of exactly zero means a clock of whole seconds. So nothing is
    probed, and a file system may mix both, as an ext3 that was converted to ext4 does. Only the time of the inode
    counts, because a program can set the time of the content to anything.
    """
    is_whole = found.st_ctime_ns % _SECOND_NANOSECONDS == 0
    tick = WHOLE_SECONDS_TICK_NANOSECONDS if is_whole else CLOCK_TICK_NANOSECONDS
    return time.time_ns() - found.st_ctime_ns < tick


def note(place: str, found: os.stat_result | None) -> None:
    """
    Say that a file was looked at.

    Args:
        place: in the file system.
        found: what lay there; None for nothing.
    """
    provenance = _collecting.get()
    if provenance is not None:
        provenance.note(place, found)


def witness(kind: type[W], make: Callable[[], W]) -> W | None:
    """
    Return who notes for the answer that is being made now what its driver knows; None where nobody collects.

    Args:
        make: makes the witness when the first thing is to be noted.
    """
    provenance = _collecting.get()
    if provenance is None or not provenance.is_whole:
        return None
    if provenance.witness is None:
        provenance.witness = make()
    if isinstance(provenance.witness, kind):
        return provenance.witness
    provenance.is_whole = False  # one store behind another: nobody confirms both
    return None


def spoil() -> None:
    """Say that something was looked at which cannot be noted."""
    provenance = _collecting.get()
    if provenance is not None:
        provenance.is_whole = False


def offer() -> None:
    """Say that the answer follows from its request and from what was noted, and from nothing else."""
    provenance = _collecting.get()
    if provenance is not None:
        provenance.is_offered = True


def _sign(found: os.stat_result) -> Signature:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
