"""Clients of API V1 that push until the server dies, and record its acknowledgements."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.crash.pushers import DEATHS
from tests.support.clients.v1 import Docker, done
from tests.support.images import make_tar
from tests.support.v1_images import Image, make

TAG = "latest"


def make_chain(seed: str, number: int) -> tuple[Image, ...]:
    """Create a chain of two images, always the same ones."""
    source = random.Random(f"{seed} {number}")
    images: list[Image] = []
    for _ in range(2):
        size = source.choice([2_000, 100_000, 300_000])
        layer = make_tar({"file": source.randbytes(size)})
        layer = gzip.compress(layer, 1, mtime=0) if source.random() < 0.7 else layer
        images.append(make(source.getrandbits(60), images[-1] if images else None, layer))
    return tuple(images)


@dataclass
class Promises:
    """
    What a server has acknowledged to one client.

    Attributes:
        images: by their ids, whose checksum was answered 200.
        tagged: the id that the tag names, answered 200.
        tagging: another id that the tag may name: its request was not answered.
        chain: the images that are being pushed.
    """

    images: dict[str, Image] = field(default_factory=dict)
    tagged: str | None = None
    tagging: str | None = None
    chain: tuple[Image, ...] = ()


class OldPusher(threading.Thread):
    """
    A client that pushes chain after chain to one repository, until the server dies.

    Attributes:
        promises: acknowledgements since the last start of the server.
        failure: an unexpected result; None if there is none.
    """

    def __init__(self, url: str, name: str, seed: str, tagged: str | None) -> None:
        """
        Args:
            seed: common to all pushers, which all push every third chain at the same time.
            tagged: the current target of the repository's tag.
        """
        super().__init__(name=name)
        self.promises = Promises(tagged=tagged)
        self.failure: Exception | None = None
        self._url = url
        self._seed = seed

    def run(self) -> None:
        """Push until the connection breaks; any other error is a failure."""
        try:
            with Docker(self._url) as docker:
                for number in range(1000):
                    owner = "" if number % 3 == 0 else self.name
                    self._push(docker, make_chain(f"{self._seed} {owner}", number))
        except DEATHS:
            pass
        except Exception as error:  # noqa: BLE001 - it is shown by the test, not by the thread
            self.failure = error

    def _push(self, docker: Docker, chain: tuple[Image, ...]) -> None:
        promises = self.promises
        promises.chain = chain
        done(docker.put(f"/repositories/{self.name}/", json.dumps([{"id": image.text} for image in chain])), 200)
        for image in chain:
            self._push_image(docker, image)
            promises.images[image.text] = image
        promises.tagging = chain[-1].text
        done(docker.put(f"/repositories/{self.name}/tags/{TAG}", json.dumps(chain[-1].text)), 200)
        promises.tagged, promises.tagging, promises.chain = chain[-1].text, None, ()

    def _push_image(self, docker: Docker, image: Image) -> None:
        """Push one image; another client that pushes the same one may be faster."""
        if docker.put(f"/images/{image.text}/json", image.payload).status_code == 409:
            return
        if docker.put(f"/images/{image.text}/layer", _slowly(image.layer)).status_code == 409:
            return
        checksum = {"X-Docker-Checksum-Payload": image.payload_sum}
        assert docker.put(f"/images/{image.text}/checksum", headers=checksum).status_code in (200, 409)


def _slowly(content: bytes) -> Iterator[bytes]:
    """Send a content in blocks with pauses, so that many crashes occur in the middle of it."""
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]
        time.sleep(0.003)
