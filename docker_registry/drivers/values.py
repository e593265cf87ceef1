"""The values with which drivers describe files: their metadata and versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Value of ``if_match`` that requires that the path does not exist yet.
ABSENT: Final = ""

#: The version of a folder that does not exist.
NO_FOLDER: Final = ""


@dataclass(frozen=True, slots=True)
class Stat:
    """
    The metadata of a stored file.

    Attributes:
        path: the path of the file.
        size: bytes.
        modified: time at which the file was published or last touched, in seconds since the Unix epoch.
    """

    path: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Versioned:
    """
    A file's content and the identifier of exactly this version of it.

    Attributes:
        content: the bytes.
        version: an opaque text, never empty; valid for ``put_content(if_match=…)`` of the same path.
    """

    content: bytes
    version: str
