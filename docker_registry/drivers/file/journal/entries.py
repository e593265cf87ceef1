"""
The entries of a journal.

Each says what was put under a path, and identifies the file that was there before and the file that was put, so that a
replay (:mod:`~.journal.replay`) restores only what is older than the entry.
"""

from __future__ import annotations

from typing import NamedTuple


class FileState(NamedTuple):
    """
    Identifies the file under a path: every write creates another inode or modification time.

    Attributes:
        inode: inode number.
        modified: nanoseconds since the epoch.
    """

    inode: int
    modified: int


class Trace(NamedTuple):
    """
    The states of the file that an entry concerns.

    Attributes:
        before: the file under the path when the entry was made; None if there was none.
        after: the file that was then put there; None if it was not known yet.
    """

    before: FileState | None
    after: FileState | None


class Entry(NamedTuple):
    """
    A change of one path.

    Attributes:
        moment: time of the change, in nanoseconds of the kernel's monotonic clock.
        content: the content that was put; None when the file system's state of the path, and of all paths below it, is
            correct.
        trace: None in journals of older versions and for an entry without content.
        entered: time of writing, in nanoseconds since the epoch; 0 before that.
    """

    moment: int
    path: str
    content: bytes | None = None
    trace: Trace | None = None
    entered: int = 0
