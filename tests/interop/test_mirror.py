"""A registry that mirrors a real one: Debian's docker-registry."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.clients.programs import missing
from tests.support.clients.v2 import Client, digest_of
from tests.support.images import make_index, pull, push, read_layout
from tests.support.processes import stop
from tests.support.servers.distribution import find_distribution, serve_distribution
from tests.support.servers.registry import Server
from tests.support.servers.upstream import Answer, Upstream
from tests.support.timing import wait_until

#: Layers of several pieces.
INDEX = make_index("mirrored", layer_bytes=3_000_000)

LAYER = random.Random(5).randbytes(12 * 1024 * 1024 + 5)

NAME = "up.example/library/app"


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    program = find_distribution() or missing("docker-registry (distribution) is not installed")
    with serve_distribution(program, tmp_path_factory.mktemp("peer") / "store") as peer:
        with Client(peer.url) as client:
            push(client, "library/app", "v1", INDEX)
        yield peer


@pytest.fixture(scope="module")
def slow():
    """An upstream that takes its time for each answer."""
    with Upstream() as upstream:
        upstream.guard = lambda path, headers: time.sleep(0.3)
        yield upstream


@pytest.fixture(scope="module")
def mirror(tmp_path_factory, peer, slow):
    """A server that mirrors the peer as up.example, and the slow upstream as slow.example."""
    folder = tmp_path_factory.mktemp("mirror")
    settings = {
        "storage": "file",
        "storage_path": str(folder / "store"),
        "metrics": True,
        "search_backend": "sqlalchemy",
        "sqlalchemy_index_database": f"sqlite:///{folder}/search.db",
        "mirroring": {
            "upstreams": [{"name": "up.example", "url": peer.url}, {"name": "slow.example", "url": slow.url}]
        },
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
        wait_until(lambda: [NAME] == search(mirror, "library"))
        log = mirror.log.read_text()
        assert "Traceback" not in log
        asked = re.findall(r"upstream up\.example: (\w+) (\S+) (\d+) [0-9.]+ s\n", log)
        paths = [f"manifests/{digest}" for digest in ("v1", *(image.digest for image in INDEX.images))]
        paths += [f"blobs/{digest}" for image in INDEX.images for digest in image.blobs]
        assert sorted(("GET", f"library/app/{path}", "200") for path in paths) == sorted(asked)
        wait_until(partial(self.has_counted, mirror), partial(metrics, mirror))

    def has_counted(self, mirror):
        """Return whether the metrics show that each blob was fetched once, and sent to three clients."""
        blobs = {digest: content for image in INDEX.images for digest, content in image.blobs.items()}
        times, size = 3 * len(blobs), sum(map(len, blobs.values()))
        counted = {
            row.name: row.value
            for family in text_string_to_metric_families(metrics(mirror))
            for row in family.samples
            if row.labels == {"type": "blob", "upstream": "up.example"}
        }
        expected = {
            "requests": times, "hits": times - len(blobs), "misses": len(blobs),
            "pulled_bytes": size, "pushed_bytes": 3 * size,
        }  # fmt: skip
        return {f"registry_proxy_{name}_total": value for name, value in expected.items()} == counted


def search(mirror, text):
    answer = requests.get(f"{mirror.url}/v1/search", {"q": text}, timeout=60)
    return [result["name"] for result in answer.json()["results"]]


def metrics(mirror):
    return requests.get(f"{mirror.url}/metrics", timeout=60).text


class TestManyClients:
    def test_of_an_uncached_tag_cause_one_upstream_request(self, mirror, slow):
        image = INDEX.images[0]
        slow.add("app", "v1", image)

        def get(_):
            with Client(mirror.url) as client:  # a connection of its own, so that both workers answer
                return client.get_manifest("slow.example/app", "v1").payload

        with ThreadPoolExecutor(12) as pool:
            assert {image.manifest} == set(pool.map(get, range(12)))
        assert ["app/manifests/v1"] == slow.asked()

    def test_of_an_uncached_blob_share_one_transfer(self, mirror, slow):
        digest = digest_of(LAYER)
        slow.contents[f"app/blobs/{digest}"] = Answer(LAYER, pause_seconds=0.05)
        slow.requests.clear()

        def get(number):
            with Client(mirror.url) as client:
                if number % 4 == 3:  # a client that leaves
                    with client.request("GET", f"/v2/slow.example/app/blobs/{digest}", 200, stream=True) as answer:
                        next(answer.iter_content(1000))
                    return None
                return client.get_blob("slow.example/app", digest) == LAYER

        with ThreadPoolExecutor(12) as pool:
            assert {True, None} == set(pool.map(get, range(12)))
        assert [f"app/blobs/{digest}"] == slow.asked("GET")
        assert [] == list(mirror.store.glob("docker/registry/v2/_transfers/*/*"))

    @pytest.mark.slow
    def test_receive_the_blob_even_if_a_worker_dies(self, mirror, slow):
        layer = LAYER[::-1]
        digest = digest_of(layer)

        def answer(headers):
            start = int(headers.get("range", "bytes=0-")[len("bytes=") : -1])
            if not start:
                return Answer(layer, pause_seconds=0.2)
            part = {"Content-Range": f"bytes {start}-{len(layer) - 1}/{len(layer)}"}
            return Answer(layer[start:], 206, part, pause_seconds=0.2)

        slow.contents[f"app/blobs/{digest}"] = answer
        slow.requests.clear()

        def get(_):
            with Client(mirror.url) as client, contextlib.suppress(requests.RequestException):
                return client.get_blob("slow.example/app", digest) == layer

        with ThreadPoolExecutor(12) as pool:
            results = pool.map(get, range(12))
            wait_until(lambda: len(list(mirror.store.glob("docker/registry/v2/_transfers/*/*"))) > 5)
            os.kill(mirror.worker_pids()[0], signal.SIGKILL)
        assert {True} <= set(results) <= {True, None}
        with Client(mirror.url) as client:
            assert layer == client.get_blob("slow.example/app", digest)
        assert len(slow.asked("GET")) <= 2
