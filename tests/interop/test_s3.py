"""A registry on S3, with real clients of both APIs."""

from __future__ import annotations

import contextlib
import time

import pytest
import requests

pytest.importorskip("boto3", reason="boto3 is not installed")

from docker_registry.drivers.s3.driver import S3Driver
from docker_registry.registry import layout
from docker_registry.registry.reclamation import MOVE_SECONDS, REMOVE_SECONDS
from tests.interop.stores import RedirectSuite, StoreSuite
from tests.registry.mirror.conftest import THERE
from tests.registry.mirror.test_eviction import Evicting, push
from tests.support.clients.v1 import Docker, done
from tests.support.clients.v2 import Client
from tests.support.images import make_image
from tests.support.servers.registry import Server
from tests.support.servers.upstream import Upstream
from tests.support.timing import wait_until
from tests.support.v1_images import make

KIB = 1024
AN_HOUR = 3600


def environment(options):
    """The variables of the sample configuration for the options of a driver."""
    return {
        "SETTINGS_FLAVOR": "s3",
        "STORAGE_PATH": options["storage_path"],
        "AWS_BUCKET": options["s3_bucket"],
        "AWS_KEY": options["s3_access_key"],
        "AWS_SECRET": options["s3_secret_key"],
        "AWS_ENDPOINT_URL": options["s3_endpoint"],
        "AWS_SECURE": "false",
    }


@pytest.fixture(scope="module")
def options(seaweedfs):
    return seaweedfs.options()


@pytest.fixture(scope="module")
def server(options, tmp_path_factory):
    """Two workers on one bucket."""
    with Server(tmp_path_factory.mktemp("s3") / "store", workers=2, **environment(options)) as server:
        yield server


@pytest.fixture(scope="module")
def redirecting(options, tmp_path_factory):
    """Another registry on the same bucket, which redirects clients to the store."""
    folder = tmp_path_factory.mktemp("redirecting")
    with Server(folder / "store", **environment(options), STORAGE_REDIRECT="true") as server:
        yield server


@pytest.fixture(scope="module")
def url(redirecting):
    """The URL of a blob that is large enough for a redirect."""
    with Client(redirecting.url) as client:
        digest = client.push_blob("lab/large", bytes(64 * KIB))
    return f"{redirecting.url}/v2/lab/large/blobs/{digest}"


class TestARegistryOnS3(StoreSuite):
    def test_serves_api_v1(self, server, name):
        base = make(1, layer=bytes(range(256)) * 400)
        images = [base, make(2, base, layer=bytes(range(255)) * 400)]
        with Docker(server.url) as docker:
            docker.push(name, "v1", *images)
            assert [image.layer for image in images] == [layer for _, _, layer in docker.pull(name, "v1")]


class TestARedirect(RedirectSuite):
    def test_of_a_blob_is_not_cacheable(self, url, seaweedfs):
        answer = done(requests.get(url, allow_redirects=False, timeout=20), 307)
        assert answer.headers["Location"].startswith(seaweedfs.endpoint)
        assert ("no-store", url.rpartition("/")[2]) == (
            answer.headers["Cache-Control"],
            answer.headers["Docker-Content-Digest"],
        )
        assert bytes(64 * KIB) == done(requests.get(url, timeout=20), 200).content

    def test_serves_the_requested_part(self, url):
        answer = requests.get(url, headers={"Range": "bytes=5-9"}, timeout=20)
        assert (206, bytes(5), f"bytes 5-9/{64 * KIB}") == (
            answer.status_code,
            answer.content,
            answer.headers["Content-Range"],
        )

    def test_is_not_sent_for_head(self, url):
        answer = done(requests.head(url, allow_redirects=False, timeout=20), 200)
        assert str(64 * KIB) == answer.headers["Content-Length"]

    def test_is_not_sent_for_small_content(self, redirecting):
        with Client(redirecting.url) as client:
            digest = client.push_blob("lab/small", bytes(64 * KIB - 1))
        answer = requests.get(f"{redirecting.url}/v2/lab/small/blobs/{digest}", allow_redirects=False, timeout=20)
        assert (200, 64 * KIB - 1) == (answer.status_code, len(answer.content))

    def test_of_a_layer_is_followed_by_old_clients(self, redirecting):
        image = make(3, layer=bytes(range(256)) * 400)
        with Docker(redirecting.url) as docker:
            docker.push("lab/old", "v1", image)
            answer = done(docker.get(f"/images/{image.text}/layer"), 302)
        assert image.layer == done(requests.get(answer.headers["Location"], timeout=20), 200).content


class TestAMirrorOnS3:
    def test_evicts_what_was_pulled_least_recently(self, seaweedfs):
        images = [make_image(f"s3 {number}", layers=1) for number in range(3)]
        driver = S3Driver(**seaweedfs.options())
        with contextlib.closing(driver), Upstream() as upstream:
            limit = sum(len(content) for content in images[0].contents.values()) + 100
            mirror = Evicting(driver, upstream.url, max_bytes=limit)
            with mirror.services:
                for number, image in enumerate(images):
                    upstream.add(THERE, f"v{number}", image)
                    mirror.pull(image, tag=f"v{number}")
                    next_second = int(time.time()) + 1
                    wait_until(lambda end=next_second: time.time() > end)  # the precision of modification times
                push(mirror, images[0])
                assert 3 == mirror.evict(AN_HOUR).blobs
                assert [True, False, True] == [mirror.has(image) for image in images]
                assert 0 < sum(mirror.evict(wait).removed for wait in (MOVE_SECONDS, REMOVE_SECONDS))
                kept = {digest for image in images[::2] for digest in image.contents}
                assert kept == {f"sha256:{each.path.split('/')[-2]}" for each in driver.walk(layout.BLOBS)}
                assert [] == list(driver.walk(layout.REMOVED))
                upstream.stop()
                mirror.pull(images[0], "team/app", images[0].digest)
                mirror.pull(images[2], tag="v2")
