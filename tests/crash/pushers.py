"""
Clients that push until the server dies, and record its acknowledgements.

Clients may rely on acknowledged content: after a crash all of it must exist and be correct.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import requests

from tests.support.clients.v2 import Client, cut, digest_of
from tests.support.images import Image, make_image

#: The errors of a client whose server dies.
DEATHS = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout)

TAG = "latest"


@dataclass
class Session:
    """
    An upload that was begun and whose commit was not answered.

    Attributes:
        location: path of the next request.
        kept: bytes that the server has acknowledged.
    """

    location: str
    content: bytes
    kept: int = 0


@dataclass
class Promises:
    """
    What a server has acknowledged to one client.

    Attributes:
        blobs: contents by their digests, answered 201.
        manifests: payloads by their digests, answered 201.
        tagged: the digest that the tag points at, answered 201.
        tagging: another digest that the tag may point at: its request was not answered.
        session: the current upload.
        image: the image that is being pushed.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tagged: str | None = None
    tagging: str | None = None
    session: Session | None = None
    image: Image | None = None

    @property
    def count(self) -> int:
        """The number of acknowledged requests."""
        return len(self.blobs) + len(self.manifests) + bool(self.session and self.session.kept)


class Pusher(threading.Thread):
    """
    A client that pushes images to one repository, in every possible way, until the server dies.

    Attributes:
        promises: what it was told in this life of the server.
        failure: what it did not expect, if anything.
    """

    def __init__(self, url: str, name: str, seed: str, tagged: str | None) -> None:
        """
        Args:
            seed: common to all pushers, which all push every third image at the same time.
            tagged: the current target of the repository's tag.
        """
        super().__init__(name=name)
        self.promises = Promises(tagged=tagged)
        self.failure: Exception | None = None
        self._url = url
        self._seed = seed
        self._random = random.Random(f"{seed} {name}")

    def run(self) -> None:
        """Push until the connection breaks; nothing else may end it."""
        try:
            with Client(self._url) as client:
                for number in range(1000):
                    of_all = number % 3 == 0
                    size = 100_000 if of_all else self._random.choice([2_000, 300_000])
                    self._push(client, make_image(f"{self._seed} {'' if of_all else self.name} {number}", 2, size))
        except DEATHS:
            pass
        except Exception as error:  # noqa: BLE001 - it is shown by the test, not by the thread
            self.failure = error

    def _push(self, client: Client, image: Image) -> None:
        promises = self.promises
        promises.image = image
        for digest, content in image.blobs.items():
            way = self._random.choice([self._put, self._posted, self._streamed, self._ranged])
            way(client, content)
            promises.blobs[digest], promises.session = content, None
        promises.tagging = image.digest
        client.put_manifest(self.name, TAG, image.manifest)
        promises.manifests[image.digest] = image.manifest
        promises.tagged, promises.tagging, promises.image = image.digest, None, None

    def _posted(self, client: Client, content: bytes) -> None:
        client.push_blob(self.name, content, "posted")

    def _put(self, client: Client, content: bytes) -> None:
        client.commit(self._start(client, content), digest_of(content), content)

    def _streamed(self, client: Client, content: bytes) -> None:
        location = self._start(client, content)
        self._commit(client, self._append(client, location, _slowly(content)), content)

    def _ranged(self, client: Client, content: bytes) -> None:
        location = self._start(client, content)
        step = len(content) // 4 + 1
        for start in range(0, len(content), step):
            location = self._append(client, location, content[start : start + step], start)
        self._commit(client, location, content)

    def _start(self, client: Client, content: bytes) -> str:
        location = client.start_upload(self.name)
        self.promises.session = Session(_path(location), content)
        return location

    def _append(self, client: Client, location: str, piece: bytes | Iterator[bytes], start: int | None = None) -> str:
        location, kept = client.append(location, piece, start)
        assert self.promises.session is not None
        self.promises.session.location, self.promises.session.kept = _path(location), kept
        return location

    def _commit(self, client: Client, location: str, content: bytes) -> None:
        client.commit(location, digest_of(content))


def _path(location: str) -> str:
    parts = urlsplit(location)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _slowly(content: bytes) -> Iterator[bytes]:
    """Send a content in pieces with pauses, so that many crashes meet it half-way."""
    for piece in cut(content):
        yield piece
        time.sleep(0.005)
