"""Content that a server sends while it receives it from an upstream: blobs, and layers of API V1."""

from __future__ import annotations

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from docker_registry.registry.mirror.upstream_content import WITHHELD_BYTES
from tests.support import v1_images
from tests.support.clients.v2 import digest_of
from tests.support.layers import member, tar
from tests.support.servers.registry import Server
from tests.support.servers.upstream import Answer, Upstream
from tests.support.servers.v1_source import PING, serve_repository


def make_content(number):
    return tar(member("large", content=random.Random(number).randbytes(3_000_000)))


@pytest.fixture(scope="module")
def upstream():
    """A registry that speaks both APIs."""
    with Upstream() as upstream:
        upstream.contents[PING] = Answer(b"true")
        yield upstream


@pytest.fixture(scope="module")
def mirror(tmp_path_factory, upstream):
    """A server that mirrors it as up.example, and for clients of API V1."""
    folder = tmp_path_factory.mktemp("mirror")
    upstreams = [{"name": "up.example", "url": upstream.url}]
    mirroring = {"source": upstream.url, "upstreams": upstreams, "max_bytes": "1GiB"}
    settings = {"storage": "file", "storage_path": str(folder / "store"), "mirroring": mirroring}
    (folder / "config.yml").write_text(json.dumps({"dev": settings}))
    with Server(folder / "store", workers=2, DOCKER_REGISTRY_CONFIG=str(folder / "config.yml")) as server:
        yield server


def serve(upstream, api, content, number, answer):
    """Have content at the upstream, and return its path there and here."""
    if api == "v2":
        path = f"app{number}/blobs/{digest_of(content)}"
        upstream.contents[path] = answer
        return path, f"/v2/up.example/{path}"
    image = v1_images.make(number, layer=content)
    path = f"/v1/images/{image.text}"
    size = {"X-Docker-Size": str(len(content)), "X-Docker-Checksum-Payload": image.payload_sum}
    serve_repository(upstream, f"acme/app{number}", {"latest": image.text}, b"[]")
    upstream.contents[f"{path}/json"] = Answer(image.payload, headers=size)
    upstream.contents[f"{path}/ancestry"] = Answer(json.dumps(image.ancestry).encode())
    upstream.contents[f"{path}/layer"] = answer
    return f"{path}/layer", f"{path}/layer"


@pytest.mark.parametrize(("api", "number"), [("v1", 1), ("v2", 2)])
class TestColdContent:
    def test_is_sent_to_all_clients_while_it_is_received_once(self, mirror, upstream, api, number):
        gate = threading.Event()
        content = make_content(number)
        there, here = serve(upstream, api, content, number, Answer(content, gate=gate))
        has_begun = threading.Barrier(8, action=gate.set)  # the rest is not sent before all have their first bytes

        def get(_):
            with requests.get(mirror.url + here, stream=True, timeout=120) as answer:
                blocks = answer.iter_content(1000)
                received = next(blocks)
                has_begun.wait(120)
                return received + b"".join(blocks) == content

        with ThreadPoolExecutor(8) as pool:
            assert {True} == set(pool.map(get, range(8)))
        assert 1 == upstream.asked("GET").count(there)
        assert content == requests.get(mirror.url + here, timeout=120).content
        assert 1 == upstream.asked("GET").count(there)

    def test_is_not_sent_to_its_end_unless_it_is_right(self, mirror, upstream, api, number):
        content = make_content(10 + number)
        damaged = content[:-1] + b"x"
        _, here = serve(upstream, api, content, 10 + number, Answer(damaged))
        received = bytearray()
        with requests.get(mirror.url + here, stream=True, timeout=120) as answer:
            assert (200, str(len(content))) == (answer.status_code, answer.headers["Content-Length"])
            with pytest.raises(requests.RequestException):
                for block in answer.iter_content(1000):
                    received += block
        assert damaged[: len(received)] == received
        assert len(received) <= len(content) - WITHHELD_BYTES
        serve(upstream, api, content, 10 + number, Answer(content))
        assert content == requests.get(mirror.url + here, timeout=120).content
