"""
The mark that a push of an image of API V1 is not finished: ``images/<id>/_inprogress``.

0.7.1 asked only whether it is there, and a push that died left it for ever. Here its content counts too: each push
that begins writes a random word, and a push may end only what has not begun anew meanwhile, by compare-and-swap.
Ending takes two steps, so that a push that begins in between is told: the word becomes ``finished``, then the mark is
removed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from docker_registry.drivers.base import ABSENT, StorageDriver
from docker_registry.errors import ImageExists, PathNotFound, PreconditionFailed, StorageError
from docker_registry.registry import image_layout
from docker_registry.registry.names import ImageId

#: What 0.7.1 writes.
FOREIGN: Final = b"true"

_FINISHED: Final = b"finished"

#: How often a push tries to begin while others begin and end.
_MAX_TRIES: Final = 100


@dataclass(frozen=True, slots=True)
class Mark:
    """
    A mark as it is at one moment.

    Attributes:
        version: :data:`ABSENT` where there is none.
        content: what it says.
    """

    version: str
    content: bytes = b""

    @property
    def is_in_progress(self) -> bool:
        """Whether a push has begun and not ended."""
        return self.version != ABSENT and self.content != _FINISHED


class ImageMarks:
    """The marks of all images."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def get(self, image_id: ImageId) -> Mark:
        """Return the mark as it is now."""
        try:
            stored = self._driver.get_versioned(image_layout.in_progress(image_id))
        except PathNotFound:
            return Mark(ABSENT)
        return Mark(stored.version, stored.content)

    def begin(self, image_id: ImageId, is_whole: Callable[[], bool]) -> None:
        """
        Say that a push begins, anew where one has begun before.

        Args:
            is_whole: tells whether all that makes the image is there, apart from the mark.

        Raises:
            ImageExists: it is there whole, and no push of it is under way.
        """
        for _ in range(_MAX_TRIES):
            mark = self.get(image_id)
            if mark.content == _FINISHED or (mark.version == ABSENT and is_whole()):
                raise ImageExists(id=str(image_id))
            word = secrets.token_hex(8).encode()
            try:
                self._put(image_id, word, mark.version)
            except PreconditionFailed:  # another has begun or ended just now
                continue
            if mark.version == ABSENT and self._driver.supports_if_match and is_whole():
                # A whole push came and went between the two looks.
                self._take_back(image_id, word)
                raise ImageExists(id=str(image_id))
            return
        raise StorageError("Too many pushes of one image at once.", id=str(image_id))

    def renew(self, image_id: ImageId) -> None:
        """Say that an image that seemed whole has to be pushed again."""
        self._driver.put_content(image_layout.in_progress(image_id), secrets.token_hex(8).encode())

    def finish(self, image_id: ImageId, mark: Mark) -> bool:
        """
        Say that a push has ended.

        Args:
            mark: what it was when all that makes the image was checked.

        Returns:
            Whether that is true now; False when another push has begun since.
        """
        try:
            self._put(image_id, _FINISHED, mark.version)
        except PreconditionFailed:
            return not self.get(image_id).is_in_progress
        try:
            self._driver.remove(image_layout.in_progress(image_id))
        except PathNotFound:  # by another who saw that it is finished
            pass
        return True

    def _take_back(self, image_id: ImageId, word: bytes) -> None:
        mark = self.get(image_id)
        if mark.content == word:
            self.finish(image_id, mark)

    def _put(self, image_id: ImageId, content: bytes, version: str) -> None:
        condition = version if self._driver.supports_if_match else None
        self._driver.put_content(image_layout.in_progress(image_id), content, if_match=condition)
