"""
A registry on a store that fails in every way: acknowledged content is complete, other content is not visible.

Every failure is reported by a status 5xx, and nothing is left after housekeeping.
"""

from __future__ import annotations

import contextlib
import random

import pytest
import requests

from docker_registry.drivers.s3.driver import S3Driver
from tests.support.clients.v2 import OCI_MANIFEST, WAYS, Client, Refused, digest_of
from tests.support.images import make_image, push
from tests.support.servers.fault_proxy import FaultProxy
from tests.support.servers.registry import Server
from tests.support.servers.seaweedfs import ACCESS_KEY, BUCKET, SECRET_KEY

MIB = 1024 * 1024

#: The share of store requests that fail; a push of one image makes about fifty.
RATE = 0.05


def environment(port, prefix):
    """The variables of a registry whose bucket is behind a port."""
    return {
        "SETTINGS_FLAVOR": "s3",
        "STORAGE_PATH": prefix,
        "AWS_BUCKET": BUCKET,
        "AWS_KEY": ACCESS_KEY,
        "AWS_SECRET": SECRET_KEY,
        "AWS_HOST": "127.0.0.1",
        "AWS_PORT": str(port),
        "AWS_SECURE": "false",
        "AWS_ENCRYPT": "false",
        "AWS_CALLING_FORMAT": "boto.s3.connection.OrdinaryCallingFormat",
    }


@pytest.fixture(scope="module")
def proxy(seaweedfs):
    with FaultProxy(seaweedfs.port, seed=7) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def server(proxy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with Server(folder / "store", workers=2, **environment(proxy.port, f"/{folder.name}")) as server:
        yield server


class Tries:
    """A client that pushes and pulls while the store fails, and records acknowledgements."""

    def __init__(self, client, seed):
        self.client = client
        self.acknowledged = {}
        self.refused = []
        self.random = random.Random(seed)

    def push(self, number):
        """Push an image; record it if its manifest was acknowledged."""
        size = self.random.choice([100, 20_000, 20_000, 400_000])
        image = make_image(number, layers=2, layer_bytes=size)
        way = self.random.choice(sorted(WAYS))
        name, tag = f"lab/n{number % 7}", f"t{number}"
        for content in image.blobs.values():
            self.client.push_blob(name, content, way)
        self.client.put_manifest(name, tag, image.manifest, OCI_MANIFEST)
        self.acknowledged[name, tag] = image

    def pull(self):
        """Pull an acknowledged image; every complete response must be correct."""
        if self.acknowledged:
            name, tag = self.random.choice(sorted(self.acknowledged))
            image = self.acknowledged[name, tag]
            assert image.manifest == self.client.get_manifest(name, tag).payload
            for digest, content in image.blobs.items():
                assert content == self.client.get_blob(name, digest)

    def run(self, action, *arguments):
        """Run a step that may only fail with a status 5xx."""
        try:
            action(*arguments)
        except Refused as refused:
            self.refused.append(refused)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            # A started response can no longer be replaced by an error, only truncated.
            self.refused.append(None)


class TestAnUnreliableStore:
    def check(self, server, proxy, seaweedfs, tries):
        with Client(server.url) as client:
            one = Tries(client, 11)
            with proxy.faulty(RATE):
                for number in range(tries):
                    one.run(one.push, number)
                    one.run(one.pull)
            assert len(set(proxy.met)) >= min(tries, 8) // 2
            self.all_failures_are_clean(one)
            self.all_that_was_acknowledged_is_whole(client, one)
            self.nothing_is_seen_that_was_not_pushed(client, tries)
        self.nothing_is_left_over(seaweedfs, server)
        return one

    def all_failures_are_clean(self, one):
        for refused in filter(None, one.refused):
            assert refused.status in (500, 503), refused
            assert refused.answer.json()["errors"], refused

    def all_that_was_acknowledged_is_whole(self, client, one):
        for (name, tag), image in one.acknowledged.items():
            assert image.manifest == client.get_manifest(name, tag).payload
            for digest, content in image.blobs.items():
                assert content == client.get_blob(name, digest)

    def nothing_is_seen_that_was_not_pushed(self, client, tries):
        """A push that was not acknowledged may have succeeded; if it is visible, it is complete."""
        for number in range(tries):
            image = make_image_of(number)
            for digest in image.blobs:
                if client.has_blob(f"lab/n{number % 7}", digest):
                    client.get_blob(f"lab/n{number % 7}", digest)  # verifies
        for name in client.repositories():
            for tag in client.tags(name):
                manifest = client.get_manifest(name, tag)
                for entry in (manifest.document["config"], *manifest.document["layers"]):
                    assert entry["size"] == len(client.get_blob(name, entry["digest"]))

    def nothing_is_left_over(self, seaweedfs, server):
        prefix = server.environment["STORAGE_PATH"]
        with contextlib.closing(S3Driver(**{**seaweedfs.options(), "storage_path": prefix})) as driver:
            driver.remove_leftovers(0)
        uploads = seaweedfs.connect().list_multipart_uploads(Bucket=BUCKET, Prefix=prefix.lstrip("/"))
        assert [] == uploads.get("Uploads", [])

    def test_loses_nothing_in_some_pushes_and_pulls(self, server, proxy, seaweedfs):
        one = self.check(server, proxy, seaweedfs, 10)
        assert one.acknowledged

    @pytest.mark.slow
    def test_loses_nothing_in_five_hundred_pushes_and_pulls(self, server, proxy, seaweedfs):
        one = self.check(server, proxy, seaweedfs, 500)
        assert len(one.acknowledged) > 250
        assert one.refused


def make_image_of(number):
    """The image that a push of this number may have stored, as far as its sizes are known."""
    return make_image(number, layers=2, layer_bytes=100)


class TestAnUnreachableStore:
    def test_is_answered_with_503_and_retry_after(self, server, proxy):
        with Client(server.url) as client, proxy.unreachable(), pytest.raises(Refused) as refused:
            client.push_blob("lab/x", b"content", "posted")
        assert 503 == refused.value.status
        assert int(refused.value.answer.headers["Retry-After"]) > 0

    def test_works_as_before_once_it_is_back(self, server, proxy):
        with Client(server.url) as client:
            with proxy.unreachable(), pytest.raises(Refused):
                client.push_blob("lab/x", b"content", "posted")
            digest = client.push_blob("lab/x", b"content", "posted")
            assert b"content" == client.get_blob("lab/x", digest)
            assert digest == digest_of(b"content")


class TestTheStoreRequestsOfARequest:
    """Counted at the proxy, on a server without Redis and without caches in memory."""

    def test_are_few_for_a_list_of_many_tags(self, server, proxy):
        image = make_image("tags", layers=1, layer_bytes=100)
        with Client(server.url) as client:
            push(client, "lab/tags", "t0", image)
            for start in range(1, 100, 9):
                tags = [("tag", f"t{number}") for number in range(start, start + 9)]
                path = f"/v2/lab/tags/manifests/{image.digest}"
                client.request(
                    "PUT", path, 201, params=tags, data=image.manifest, headers={"Content-Type": OCI_MANIFEST}
                )
            proxy.requests.clear()
            assert 100 == len(client.tags("lab/tags"))
        assert len(proxy.requests) <= 12, proxy.requests

    def test_are_three_for_a_manifest_by_tag(self, server, proxy):
        image = make_image("cold", layers=1, layer_bytes=100)
        counted = []
        with Client(server.url) as client:
            for tag in ("v1", "v2", "v3"):  # what expires after seconds may have to be read again for one of them
                push(client, "lab/cold", tag, image)
            client.tags("lab/cold")  # requests that a process makes once
            for tag in ("v1", "v2", "v3"):
                proxy.requests.clear()
                client.get_manifest("lab/cold", tag)
                counted.append([*proxy.requests])
        assert 3 == min(map(len, counted)), counted
