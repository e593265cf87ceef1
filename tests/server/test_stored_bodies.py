"""Blobs in a remote store that a worker sends again without the application."""

from __future__ import annotations

import random

import pytest
import requests

pytest.importorskip("boto3", reason="boto3 is not installed")
pytest.importorskip("redis", reason="redis is not installed")

from docker_registry.drivers.s3.driver import S3Driver
from docker_registry.registry import layout
from docker_registry.registry.names import Digest
from tests.interop.test_s3 import environment
from tests.support.clients.v2 import Client
from tests.support.servers.redis import own_redis
from tests.support.servers.registry import Server
from tests.support.servers.truncating_proxy import CuttingProxy
from tests.support.timing import wait_until

#: Cached listings expire after 5 seconds; then a request reaches the application once.
ATTEMPTS = 30

LAYER = random.Random(1).randbytes(3_000_000)


@pytest.fixture(scope="module")
def proxy(seaweedfs):
    with CuttingProxy(seaweedfs.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def options(seaweedfs, proxy):
    return {**seaweedfs.options(), "s3_endpoint": f"http://127.0.0.1:{proxy.port}"}


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    return tmp_path_factory.mktemp("stored") / "counted"


@pytest.fixture(scope="module")
def server(options, counted):
    """One worker, which counts the requests that reach the application."""
    with (
        own_redis() as redis,
        Server(
            counted.with_name("store"),
            **{**environment(options), **redis.cache_environment},
            COUNTED=str(counted),
            GUNICORN_OPTS="tests.support.counting_application:application",
        ) as server,
    ):
        yield server


@pytest.fixture
def session(server):
    with requests.Session() as session:
        yield session


@pytest.fixture
def blob(server):
    """The URL and the digest of a layer."""
    with Client(server.url) as client:
        digest = client.push_blob("acme/web", LAYER)
    return f"{server.url}/v2/acme/web/blobs/{digest}", Digest.parse(digest)


def repeat(counted, ask):
    """Ask until the application is not asked."""
    for _ in range(ATTEMPTS):
        before = counted.stat().st_size
        ask()
        if counted.stat().st_size == before:
            return
    pytest.fail("the application was asked each time")


class TestALayer:
    def test_is_sent_again_without_the_application(self, session, counted, blob, server):
        first = session.get(blob[0])
        headers = {name: value for name, value in first.headers.items() if name != "Date"}
        assert LAYER == first.content

        def ask():
            again = session.get(blob[0])
            assert LAYER == again.content
            assert headers == {name: value for name, value in again.headers.items() if name != "Date"}

        repeat(counted, ask)
        repeat(counted, lambda: session.head(blob[0]).raise_for_status())

        def sizes():
            """Return the sizes in the log, whose lines are written a little later."""
            lines = server.log.read_text().rpartition("\n")[0].splitlines()
            return {line.split()[-3] for line in lines if "GET /v2/acme/web/blobs/" in line}

        wait_until(sizes)
        assert {str(len(LAYER))} == sizes()

    def test_is_sent_in_parts(self, session, counted, blob):
        def ask():
            answer = session.get(blob[0], headers={"Range": "bytes=1000000-1999999"})
            assert (206, LAYER[1_000_000:2_000_000]) == (answer.status_code, answer.content)

        repeat(counted, ask)

    def test_is_resumed_when_the_store_interrupts_it(self, session, counted, blob, proxy):
        repeat(counted, lambda: session.get(blob[0]))
        proxy.cuts, proxy.most_cuts, proxy.cut_after = 0, 2, 1_000_000
        assert LAYER == session.get(blob[0]).content
        assert 2 == proxy.cuts

    def test_that_the_store_lost_is_missing(self, session, counted, blob, seaweedfs, options):
        repeat(counted, lambda: session.get(blob[0]))
        driver = S3Driver(**options)
        driver.remove(layout.blob_data(blob[1]))
        driver.close()
        assert 404 == session.get(blob[0]).status_code

    def test_that_was_deleted_is_missing(self, session, counted, blob):
        repeat(counted, lambda: session.get(blob[0]))
        assert 202 == session.delete(blob[0]).status_code
        assert 404 == session.get(blob[0]).status_code
