"""Images pushed by API V1 and by V2 into one registry, and their form in the other API."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zlib

from docker_registry.registry.ingest import Content
from docker_registry.registry.layers.compression import zstd
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from tests.support.layers import member, tar
from tests.support.v1_images import make, push

OLD, NEW = ImageRepositoryName.parse("acme/web"), RepositoryName.parse("acme/web")
V1, V2 = Tag("v1"), Tag("v2")

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PLAIN = "application/vnd.docker.image.rootfs.diff.tar"


def push_v1(registry, images, name=OLD, tag=V1):
    """Push a chain as Docker does by API V1."""
    registry.image_repositories.put_images(name, json.dumps([{"id": image.text} for image in images]).encode())
    push(registry, *(image for image in images if not registry.images.is_complete(image.id)))
    registry.image_tag_pushes.put(name, tag, images[-1].id, {})


def put_blob(registry, content, name=NEW):
    return registry.uploads.put(name, Digest.of(content), Content(content)).digest


def make_v2(registry, *layers, name=NEW, media_types=(), **config):
    """Store the blobs of a V2 image, and return its manifest."""
    plain = [unpack(layer) for layer in layers]
    document = {"architecture": "amd64", "os": "linux", **config}
    document.setdefault("rootfs", {"type": "layers", "diff_ids": [str(Digest.of(each)) for each in plain]})
    payload = json.dumps(document).encode()
    kinds = [*media_types, *["application/vnd.oci.image.layer.v1.tar+gzip"] * (len(layers) - len(media_types))]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", payload),
        "layers": [descriptor(kind, layer) for kind, layer in zip(kinds, layers, strict=True)],
    }
    for content in (payload, *layers):
        put_blob(registry, content, name)
    return json.dumps(manifest).encode()


def push_v2(registry, *layers, name=NEW, tag=V2, **more):
    payload = make_v2(registry, *layers, name=name, **more)
    return registry.manifest_pushes.put(name, tag, payload, None).descriptor.digest


def descriptor(media_type, content):
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def unpack(layer):
    for opening in (gzip.decompress, bz2.decompress, lzma.decompress, zstd.decompress):
        try:
            return opening(layer)
        except (OSError, EOFError, lzma.LZMAError, zlib.error, zstd.ZstdError):
            continue
    return layer


def zipped(content):
    return gzip.compress(content, mtime=0)


def layer(number, pack=zipped):
    return pack(tar(member(f"etc/conf-{number}", content=b"%d" % number * 3000)))


def as_is(content):
    return content


def config_of(registry, name, tag):
    manifest = json.loads(registry.manifests.get(name, tag).payload)
    return registry.blobs.get(Digest.parse(manifest["config"]["digest"]))


def read(registry, name, digest):
    return b"".join(registry.blobs.file(registry.blobs.stat(name, Digest.parse(digest))).read())


def v1_image(registry, name, tag):
    return registry.image_tags.get(name, tag)


def content_of(registry, text):
    return b"".join(registry.images.find_layer(ImageId(text))[1].read())


def unpack_any(image):
    try:
        return lzma.decompress(image.layer)
    except lzma.LZMAError:
        return unpack(image.layer)


def claim(text):
    """An image that a client pushes under the id of another image."""
    image = make(99)
    payload = json.dumps({"id": text}).encode()
    return type(image)(text, payload, image.layer, (text,))


class Below:
    """An image of V2, as the parent of another one."""

    def __init__(self, registry, image_id):
        self.text = str(image_id)
        self.ancestry = registry.images.ancestry(image_id)
