"""
What is inside the layers of API V1: the list of an image's files, and what it changes in the images below it.

Both are worked out once and kept beside the image: a line with the digest of the layer for which it holds, then the
content. A list is worked out when it is asked for. A diff needs the lists of all images below; where there is a queue,
workers do that, else it is done at once as long as it is not too much.
"""

from __future__ import annotations

from typing import Final, Protocol

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import DiffUnavailable, PathNotFound
from docker_registry.registry.keyed_locks import KeyedLocks
from docker_registry.registry.layers.archives import Expansion
from docker_registry.registry.layers.file_lists import FileList, FileLister, diff
from docker_registry.registry.layers.tarstream import TarReader
from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.stored_file import StoredFile
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.images import Images
from docker_registry.threads import in_thread

#: Stored bytes of layers that are read at once for a diff that somebody waits for.
MAX_DIFF_BYTES: Final = 1024**3


class DiffQueue(Protocol):
    """Where images wait whose diff is to be worked out."""

    def push(self, image_id: ImageId) -> None:
        """Let an image wait; never raises because the queue is away."""


class ImageFiles:
    """The files of all images."""

    def __init__(
        self,
        driver: StorageDriver,
        images: Images,
        *,
        max_unpacked_bytes: int,
        queue: DiffQueue | None = None,
        max_diff_bytes: int = MAX_DIFF_BYTES,
    ) -> None:
        """
        Args:
            max_unpacked_bytes: uncompressed bytes of a layer that are looked at.
            queue: read by workers; None where there are none.
            max_diff_bytes: stored bytes of layers that are read for one diff where there is no queue.
        """
        self._driver = driver
        self._images = images
        self._max_unpacked_bytes = max_unpacked_bytes
        self._queue = queue
        self._max_diff_bytes = max_diff_bytes
        self._at_work = KeyedLocks()

    def files(self, image_id: ImageId) -> bytes:
        """
        Return the list of an image's files, as JSON.

        Raises:
            ImageUnknown, ImageUnfinished: as for :meth:`Images.find_layer`.
            LayerFormatUnsupported: the layer is no tar.
            TooLarge: it expands to more than is looked at.
        """
        return self._list(image_id).answer()

    def diff(self, image_id: ImageId) -> bytes | None:
        """
        Return what an image changes in those below it, as JSON; None while it is not worked out.

        Raises:
            DiffUnavailable: there is no queue, and it is too much to be done at once.
            ImageUnknown, ImageUnfinished, LayerFormatUnsupported, TooLarge: as for :meth:`files`.
        """
        known = self._known_diff(image_id)
        if known is not None:
            return known
        if self._queue is not None:
            self._queue.push(image_id)
            return None
        unread = [file.size for _, file, files in map(self._known_list, self._chain(image_id)) if files is None]
        if sum(unread) > self._max_diff_bytes:
            raise DiffUnavailable(bytes=sum(unread), max_bytes=self._max_diff_bytes)
        return self.work_out_diff(image_id)

    def ask_for_diff(self, image_id: ImageId) -> None:
        """Let workers work a diff out before anybody asks for it."""
        if self._queue is not None:
            self._queue.push(image_id)

    def work_out_diff(self, image_id: ImageId) -> bytes:
        """
        Work out what an image changes in those below it, and keep it.

        Raises:
            ImageUnknown, ImageUnfinished, LayerFormatUnsupported, TooLarge: as for :meth:`files`.
        """
        with self._at_work.hold(("diff", image_id)):
            known = self._known_diff(image_id)
            if known is not None:
                return known
            lists = [self._list(ancestor) for ancestor in self._chain(image_id)]
            answer: bytes = in_thread(lambda: diff(lists).answer())
            self._keep(
                image_layout.changes(self._images.folder(image_id)), self._images.find_layer(image_id)[0].digest, answer
            )
            return answer

    # ------------------------------------------------------------------------------------------------- steps

    def _chain(self, image_id: ImageId) -> list[ImageId]:
        self._images.check(image_id)
        return [ImageId.parse(ancestor) for ancestor in self._images.ancestry(image_id)]

    def _list(self, image_id: ImageId) -> FileList:
        digest, file, known = self._known_list(image_id)
        if known is not None:
            return known
        with self._at_work.hold(("files", image_id)):
            _, _, known = self._known_list(image_id)
            if known is not None:
                return known
            files = self._read(file)
            self._keep(image_layout.file_list(self._images.folder(image_id)), digest, in_thread(files.record))
            return files

    def _read(self, file: StoredFile) -> FileList:
        lister = FileLister()
        expansion = Expansion(TarReader(lister), max_bytes=self._max_unpacked_bytes)
        for block in file.read():
            in_thread(expansion.update, block)
        in_thread(expansion.finish)
        return lister.files

    def _known_list(self, image_id: ImageId) -> tuple[Digest, StoredFile, FileList | None]:
        link, file = self._images.find_layer(image_id)
        record = self._kept(image_layout.file_list(self._images.folder(image_id)), link.digest)
        try:
            return link.digest, file, in_thread(FileList.parse, record) if record is not None else None
        except ValueError:  # written by somebody else
            return link.digest, file, None

    def _known_diff(self, image_id: ImageId) -> bytes | None:
        return self._kept(
            image_layout.changes(self._images.folder(image_id)), self._images.find_layer(image_id)[0].digest
        )

    def _keep(self, path: str, digest: Digest, content: bytes) -> None:
        self._driver.put_content(path, f"{digest}\n".encode() + content)

    def _kept(self, path: str, digest: Digest) -> bytes | None:
        try:
            line, _, content = self._driver.get_content(path).partition(b"\n")
        except PathNotFound:
            return None
        return content if line == str(digest).encode() else None
