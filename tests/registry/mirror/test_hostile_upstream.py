"""An upstream with the protocol of Docker Hub that breaks and lies at random: nothing wrong is served or stored."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry import layout
from docker_registry.registry.maintenance.store_paths import blob_digest
from docker_registry.registry.mirror.upstream_connection import PROBE_SECONDS
from docker_registry.registry.names import Digest
from tests.registry.mirror.conftest import NAME, THERE, Mirrored
from tests.registry.mirror.test_authentication import LOGIN, Hub
from tests.support.clients.v2 import digest_of
from tests.support.clock import Clock
from tests.support.images import make_image
from tests.support.servers.upstream import Answer, Upstream

#: Status codes of a mirror that cannot get something; clients try their next one.
CLEAN = {429, 502, 503, 504}

#: How often each fault occurs, in parts per hundred of the answers.
FAULTS = {"truncate": 8, "reset": 5, "other bytes": 5, "more bytes": 4, "size": 4, "error": 5, "page": 4, "redirect": 3}

PULLS_PER_WINDOW = 8


class HostileHub:
    """
    Docker Hub, with a host for tokens and manifests, and another one for blobs.

    Attributes:
        faults: number of answers by their fault.
        pulls: manifests that were counted against the limit; HEAD requests are not.
    """

    def __init__(self, upstream, storage, seed):
        self.upstream, self.storage = upstream, storage
        self.random = random.Random(seed)
        self.faults = Counter()
        self.pulls = 0
        self.stalls = 2
        self.tokens = Hub(upstream)
        self.tokens.scope = ""
        check_token = self.tokens.check
        upstream.guard = lambda path, headers: check_token(path, headers) or self.limit(path)

    def add(self, name, tag, image):
        """Have an image, whose blobs are at the storage host."""
        self.upstream.add(name, tag, image)
        for reference in (tag, image.digest):
            content = self.upstream.contents[f"{name}/manifests/{reference}"]
            self.upstream.contents[f"{name}/manifests/{reference}"] = lambda _, content=content: self.broken(content)
        for digest, content in image.blobs.items():
            location = {"Location": f"{self.storage.url}/{digest}?signature=x"}
            self.upstream.contents[f"{name}/blobs/{digest}"] = Answer(status=307, headers=location)
            self.storage.contents[f"/{digest}"] = lambda _, content=content: self.broken(Answer(content))

    def limit(self, path):
        """Count pulls, and refuse them beyond the limit."""
        method = self.upstream.requests[-1][0]
        if "/manifests/" not in path or method == "HEAD":
            return None
        self.pulls += 1
        if self.pulls % PULLS_PER_WINDOW:
            return None
        return Answer(b'{"errors": [{"code": "TOOMANYREQUESTS"}]}', status=429, headers={"Retry-After": "60"})

    def broken(self, answer):
        fault = self.random.choices([*FAULTS, "none"], [*FAULTS.values(), 100 - sum(FAULTS.values())])[0]
        if self.stalls and self.random.random() < 0.02:
            fault, self.stalls = "stall", self.stalls - 1
        self.faults[fault] += 1
        body, headers = answer.body, dict(answer.headers)
        position = self.random.randrange(len(body))
        other = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
        return {
            "none": answer,
            "truncate": Answer(body[:position], headers=headers, announced=len(body)),
            "reset": Answer(raw=b""),
            "other bytes": Answer(other, headers=headers),
            "more bytes": Answer(body + b"more", headers=headers, announced=len(body)),
            "size": Answer(body, headers=headers, announced=self.random.randrange(2 * len(body))),
            "error": Answer(status=self.random.choice((500, 503))),
            "page": Answer(b"<html>Down for maintenance</html>", headers={"Content-Type": "text/html"}),
            "redirect": Answer(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"}),
            "stall": Answer(body, headers=headers, announced=len(body) + 1, pause_seconds=1.5),
        }[fault]


@pytest.mark.parametrize("pulls", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_a_hostile_upstream_does_no_harm(upstream, pulls):
    images = {f"v{number}": make_image(f"hostile {number}", layer_bytes=90_000) for number in range(pulls // 3)}
    driver, chance, results = MemoryDriver(), random.Random(1), Counter()
    with Upstream() as storage:
        hub = HostileHub(upstream, storage, seed=pulls)
        for tag, image in images.items():
            hub.add(THERE, tag, image)
        mirrored = Mirrored(driver, upstream.url, **{**LOGIN, "timeout": 1, "ttl": 0})
        with mirrored.services:
            clock = mirrored.services.mirror._clients[0].connection._breaker._now = Clock()
            for _ in range(pulls):
                tag = chance.choice([*images])
                results[pull(mirrored, tag, images[tag])] += 1
                clock.now += PROBE_SECONDS + 1
        assert {"GET"} == {method for method, _, _ in storage.requests}
        sent = {name for _, _, headers in storage.requests for name in headers}
        assert sent <= {"host", "user-agent", "accept-encoding", "connection", "via", "range", "if-range"}
    stored = {each.path: driver.get_content(each.path) for each in driver.walk(layout.BLOBS)}
    assert {path: str(blob_digest(path)) for path in stored} == {
        path: digest_of(content) for path, content in stored.items()
    }
    assert [] == list(driver.walk(layout.TRANSFERS)) == list(driver.walk("docker/registry/v2/_uploads"))
    assert results["whole"] > pulls / 10, results
    assert results["failed"] > pulls / 10, results
    assert FAULTS.keys() <= hub.faults.keys() or pulls < 100
    assert hub.pulls >= PULLS_PER_WINDOW


def pull(mirrored, tag, image):
    """Pull an image; every answer must be right, a clean error, or cut before its end."""
    answer = mirrored.get(f"manifests/{tag}")
    if answer.status_code != 200:
        return failed(answer, answer.data)
    assert (image.manifest, image.digest) == (answer.data, answer.headers["Docker-Content-Digest"])
    for digest, content in image.blobs.items():
        received = b""
        try:
            answer = mirrored.client.get(f"/v2/{NAME}/blobs/{digest}", buffered=False)
            for block in answer.iter_encoded():
                received += block
        except Exception:  # noqa: BLE001 - as the server sees it: it cuts the connection
            assert len(received) < len(content)
            return "failed"
        if answer.status_code != 200:
            return failed(answer, received)
        assert content == received
        assert Digest.parse(digest) == Digest.of(received)
    return "whole"


def failed(answer, body):
    assert answer.status_code in CLEAN
    assert json.loads(body)["errors"]
    if answer.status_code == 429:
        assert int(answer.headers["Retry-After"]) > 0
    return "failed"
