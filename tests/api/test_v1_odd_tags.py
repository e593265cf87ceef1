"""API V1: repositories in which some tags name content that API V1 cannot show."""

from __future__ import annotations

import itertools
import json

import pytest

from tests.api.conftest import unique
from tests.support.clients.v1 import Docker, done, error
from tests.support.clients.v2 import OCI_INDEX, OCI_MANIFEST, Client, digest_of, encoded
from tests.support.images import OCI_CONFIG, OCI_LAYER, descriptor, make_image, make_index, push
from tests.support.timing import wait_until
from tests.support.v1_images import make

_numbers = itertools.count(700_000)

COSIGN = "application/vnd.dev.cosign.simplesigning.v1+json"
CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
EMPTY = "application/vnd.oci.empty.v1+json"


@pytest.fixture(scope="module")
def docker(server):
    with Docker(server.url) as docker:
        yield docker


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url) as client:
        yield client


def manifest(client, name, config, layers=(), config_type=OCI_CONFIG, layer_type=OCI_LAYER, **more):
    """Push the blobs of a manifest, and return it."""
    for content in (config, *layers):
        client.push_blob(name, content)
    return encoded(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(config, config_type),
            "layers": [descriptor(layer, layer_type) for layer in layers],
            **more,
        }
    )


def index(client, name, *children):
    return encoded({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(children)})


def child(client, name, **more):
    image = make_image("child", layers=1)
    push(client, name, "child", image)
    return descriptor(image.manifest, OCI_MANIFEST, **more)


def rootfs(*diff_ids):
    return encoded({"rootfs": {"type": "layers", "diff_ids": list(diff_ids)}})


#: Each makes a manifest out of a client and a repository's name.
ODD = {
    "cosign signature": lambda *to: manifest(*to, rootfs(), [b'{"critical": {}}'], layer_type=COSIGN),
    "artifact": lambda *to: manifest(*to, b"{}", [b"{}"], EMPTY, EMPTY, artifactType="application/spdx+json"),
    "BuildKit cache": lambda *to: manifest(*to, b'{"layers": []}', [b"cache"], CACHE_CONFIG),
    "encrypted layer": lambda *to: manifest(*to, rootfs(), [b"x"], layer_type=f"{OCI_LAYER}+encrypted"),
    "configuration is a list": lambda *to: manifest(*to, b"[]"),
    "configuration is not JSON": lambda *to: manifest(*to, b"\x00\xff"),
    "configuration is nested deeply": lambda *to: manifest(*to, b'{"rootfs": ' + b"[" * 9000 + b"]" * 9000 + b"}"),
    "configuration is nested too deeply": lambda *to: manifest(*to, b'{"rootfs": ' + b"[" * 19000),
    "configuration without rootfs": lambda *to: manifest(*to, b"{}", [b"layer"]),
    "configuration with odd diff_ids": lambda *to: manifest(*to, rootfs({"sha256": None}, 7), [b"layer"]),
    "configuration with diff_ids of SHA-512": lambda *to: manifest(*to, rootfs(digest_of(b"", "sha512")), [b"layer"]),
    "other number of layers": lambda *to: manifest(*to, rootfs(digest_of(b"1"), digest_of(b"2")), [b"layer"]),
    "other platform": lambda *to: push(*to, "odd", make_index("odd", ("arm64", "s390x"))),
    "index of nothing": index,
    "index with an odd platform": lambda *to: index(*to, child(*to, platform=["linux", "amd64"], annotations=7)),
}


class TestATagWithoutAV1Form:
    @pytest.mark.parametrize("odd", ODD)
    def test_is_omitted_while_the_others_can_be_pulled(self, docker, client, odd):
        name, image = unique("v1"), make(next(_numbers))
        newer = make_image(name, layers=1)
        payload = ODD[odd](client, name)
        if payload is not None:
            client.put_manifest(name, "odd", payload, json.loads(payload)["mediaType"])
        client.put_manifest(name, "odd2", client.get_manifest(name, "odd").payload, None)
        assert 404 == error(docker.get(f"/repositories/{name}/tags/odd"))[0]
        expected = (
            {"child": docker.get(f"/repositories/{name}/tags/child").json()} if "child" in client.tags(name) else {}
        )
        assert expected == done(docker.get(f"/repositories/{name}/tags"), 200).json()
        docker.push(name, "v1", image)
        push(client, name, "v2", newer)
        assert [(image.text, image.payload, image.layer)] == docker.pull(name, "v1")
        assert [newer.layers[0]] == [layer for *_, layer in docker.pull(name, "v2")]
        tags = done(docker.get(f"/repositories/{name}/tags"), 200).json()
        assert {*expected, "v1", "v2"} == set(tags)
        listed = done(docker.get(f"/repositories/{name}/images"), 200).json()
        assert {image.text, tags["v2"], *expected.values()} == {entry["id"] for entry in listed}
        assert 404 == error(docker.get(f"/repositories/{name}/tags/odd/json"))[0]
        done(docker.get(f"/repositories/{name}/json"), 200)

        def found():
            results = done(docker.get("/search", params={"q": name}), 200).json()["results"]
            return [result["name"] for result in results]

        wait_until(lambda: [name] == found(), found)  # the index follows the store

    def test_may_be_the_only_tag_of_a_repository(self, docker, client):
        name = unique("v1")
        client.put_manifest(name, "sig", ODD["cosign signature"](client, name))
        assert (404, "images not found") == error(docker.get(f"/repositories/{name}/images"))
        assert {} == done(docker.get(f"/repositories/{name}/tags"), 200).json()


class TestAnImageWhoseConfigurationIsNotUtf8:
    def test_is_pulled(self, docker, client):
        name, plain = unique("v1"), make_image("latin", layers=1)
        author = b'{"author":"Andr\xe9",'
        config = author + plain.config.removeprefix(b"{")
        client.put_manifest(name, "v1", manifest(client, name, config, plain.layers))
        ((text, payload, layer),) = docker.pull(name, "v1")
        assert (digest_of(config).removeprefix("sha256:"), plain.layers[0]) == (text, layer)
        assert b"Andr\xe9" in payload
