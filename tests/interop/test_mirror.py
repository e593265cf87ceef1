"""A registry that mirrors a real one: Debian's docker-registry."""

from __future__ import annotations

import json

import pytest

from tests.support.clients.programs import missing
from tests.support.clients.v2 import Client
from tests.support.images import make_index, pull, push, read_layout
from tests.support.processes import stop
from tests.support.servers.distribution import find_distribution, serve_distribution
from tests.support.servers.registry import Server

#: Layers of several pieces.
INDEX = make_index("mirrored", layer_bytes=3_000_000)

NAME = "up.example/library/app"


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    program = find_distribution() or missing("docker-registry (distribution) is not installed")
    with serve_distribution(program, tmp_path_factory.mktemp("peer") / "store") as peer:
        with Client(peer.url) as client:
            push(client, "library/app", "v1", INDEX)
        yield peer


@pytest.fixture(scope="module")
def mirror(tmp_path_factory, peer):
    """A server that mirrors the peer as up.example."""
    folder = tmp_path_factory.mktemp("mirror")
    settings = {
        "storage": "file",
        "storage_path": str(folder / "store"),
        "mirroring": {"upstreams": [{"name": "up.example", "url": peer.url}]},
    }
    config = folder / "config.yml"
    config.write_text(json.dumps({"dev": settings}))  # JSON is YAML
    with Server(folder / "store", workers=2, DOCKER_REGISTRY_CONFIG=str(config)) as server:
        yield server


class TestAMirrorOfDistribution:
    def test_serves_images_with_and_without_it(self, mirror, peer, skopeo, tmp_path):
        source = f"docker://127.0.0.1:{mirror.port}/{NAME}:v1"
        skopeo("copy", "--all", "--src-tls-verify=false", source, f"oci:{tmp_path}/first:v1")
        stop(peer.process)
        skopeo("copy", "--all", "--src-tls-verify=false", source, f"oci:{tmp_path}/second:v1")
        assert INDEX.contents == read_layout(tmp_path / "first") == read_layout(tmp_path / "second")
        with Client(mirror.url) as client:
            assert INDEX.contents == pull(client, NAME, INDEX.digest)
            assert ([NAME], ["v1"]) == (client.repositories(), client.tags(NAME))
        assert "Traceback" not in mirror.log.read_text()
