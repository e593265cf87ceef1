"""Bytes that a disk has damaged: whatever pushes the right ones repairs them, over real HTTP."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.api.conftest import unique
from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import OCI_MANIFEST, WAYS, Client, digest_of, encoded
from tests.support.v1_images import make

#: One that is received into memory, and one that is written to a file of its own.
SIZES = (5000, 600_000)


def place(server, digest):
    """The file that holds a blob."""
    algorithm, _, hexadecimal = digest.partition(":")
    return server.store / "docker/registry/v2/blobs" / algorithm / hexadecimal[:2] / hexadecimal / "data"


def damage(path, cut_bytes=0):
    """Overwrite the beginning of a file in place, and cut off some of its end."""
    with path.open("r+b") as file:
        file.write(b"DAMAGED")
        file.truncate(path.stat().st_size - cut_bytes)


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client


@pytest.mark.parametrize("cut_bytes", [0, 1])
@pytest.mark.parametrize("size", SIZES)
class TestADamagedBlob:
    @pytest.mark.parametrize("way", WAYS)
    def test_is_repaired_by_a_push(self, client, server, way, size, cut_bytes):
        name, content = unique("damaged"), os.urandom(size)
        digest = client.push_blob(name, content)
        damage(place(server, digest), cut_bytes)
        client.push_blob(name, content, way)
        assert content == client.get_blob(name, digest)

    @pytest.mark.parametrize("way", WAYS)
    def test_is_repaired_together_with_its_image(self, client, server, way, size, cut_bytes):
        name, image = unique("damaged"), make(secrets.randbits(60), layer=os.urandom(size))
        with Docker(server.url) as docker:
            docker.push(name, "latest", image)
        beside = server.store / "images" / image.text / "layer"
        blob = place(server, digest_of(image.layer))
        assert os.path.samefile(beside, blob)
        damage(blob, cut_bytes)
        client.push_blob(name, image.layer, way)
        assert (image.layer, image.layer) == (blob.read_bytes(), beside.read_bytes())
        assert os.path.samefile(beside, blob)

    def test_is_repaired_by_a_push_of_another_image(self, client, server, size, cut_bytes):
        name, layer = unique("damaged"), os.urandom(size)
        first, second = (make(secrets.randbits(60), layer=layer) for _ in range(2))
        with Docker(server.url) as docker:
            docker.push(name, "first", first)
            damage(place(server, digest_of(layer)), cut_bytes)
            docker.push(name, "second", second)
        for image in (first, second):
            assert layer == (server.store / "images" / image.text / "layer").read_bytes()


class TestADamagedManifest:
    @pytest.mark.parametrize("cut_bytes", [0, 1])
    def test_is_repaired_by_a_push(self, client, server, cut_bytes):
        name = unique("damaged")
        config = client.push_blob(name, b"{}")
        payload = encoded(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": "application/octet-stream", "digest": config, "size": 2},
                "layers": [],
                "annotations": {"repository": name},
            }
        )
        digest = client.put_manifest(name, "latest", payload)
        damage(place(server, digest), cut_bytes)
        client.put_manifest(name, "latest", payload)
        assert payload == client.get_manifest(name, "latest").payload


class TestAnIntactBlob:
    @pytest.mark.parametrize("size", SIZES)
    def test_keeps_its_hard_link_and_gets_a_new_time_when_it_is_pushed_again(self, client, server, size):
        name, image = unique("intact"), make(secrets.randbits(60), layer=os.urandom(size))
        with Docker(server.url) as docker:
            docker.push(name, "latest", image)
        beside, blob = server.store / "images" / image.text / "layer", place(server, digest_of(image.layer))
        os.utime(blob, (1, 1))
        client.push_blob(name, image.layer)
        assert os.path.samefile(beside, blob)
        assert blob.stat().st_mtime > 1
