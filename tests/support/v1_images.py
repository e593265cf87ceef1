"""Images of API V1 for tests: each has the previous one as parent, and a number determines all of its bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass

from docker_registry.registry.ingest import Content
from docker_registry.registry.names import ImageId
from docker_registry.registry.v1.pushes import Checksum
from tests.support.layers import member, tar


@dataclass(frozen=True)
class Image:
    """
    What a client pushes.

    Attributes:
        text: the id.
        payload: the JSON.
    """

    text: str
    payload: bytes
    layer: bytes
    ancestry: tuple[str, ...]

    @property
    def id(self):
        return ImageId(self.text)

    @property
    def payload_sum(self):
        return "sha256:" + hashlib.sha256(self.payload + b"\n" + self.layer).hexdigest()

    @property
    def checksum(self):
        return Checksum(payload=self.payload_sum)


def make(number=1, parent=None, layer=None, compress=lambda content: gzip.compress(content, mtime=0), **more):
    """
    Make an image.

    Args:
        number: decides its id and its only file.
        layer: another layer than the one with that file.
        more: what else is in its JSON.
    """
    text = hashlib.sha256(b"%d" % number).hexdigest()
    document = {"id": text, "created": "2014-06-01T10:00:00Z", **more}
    if parent is not None:
        document["parent"] = parent.text
    if layer is None:
        layer = compress(tar(member(f"etc/conf-{number}", content=b"%d" % number * 3000)))
    return Image(text, json.dumps(document).encode(), layer, (text, *(parent.ancestry if parent else ())))


def chain(length, first=1):
    """Create a chain of images, base first."""
    images = [make(first)]
    while len(images) < length:
        images.append(make(first + len(images), images[-1]))
    return images


def push(registry, *images):
    """Push images as Docker does, the base first."""
    for image in images:
        registry.image_pushes.put_json(image.id, image.payload)
        registry.image_pushes.put_layer(image.id, Content(image.layer))
        registry.image_pushes.put_checksum(image.id, image.checksum)


def pulled(registry, image):
    """Return the layer of an image as a client pulls it."""
    _, file = registry.images.find_layer(image.id)
    return b"".join(file.read())


def loads(answer):
    """Read the JSON of a list of files or a diff."""
    content = b"".join(answer.read())
    assert len(content) == answer.size
    return json.loads(content)


def store_raw(driver, image, *, layer=None, checksum=None, in_progress=False):
    """
    Store an image as docker-registry 0.7.1 does.

    Args:
        layer: other bytes than were pushed.
        checksum: the bytes of ``_checksum``; empty for none.
    """
    folder = f"images/{image.text}"
    driver.put_content(f"{folder}/json", image.payload)
    driver.put_content(f"{folder}/ancestry", json.dumps(image.ancestry).encode())
    driver.put_content(f"{folder}/layer", image.layer if layer is None else layer)
    if checksum is None:
        checksum = json.dumps([image.payload_sum]).encode()
    if checksum:
        driver.put_content(f"{folder}/_checksum", checksum)
    if in_progress:
        driver.put_content(f"{folder}/_inprogress", b"true")
