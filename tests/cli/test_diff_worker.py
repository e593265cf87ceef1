"""`docker-registry diff-worker`, as many processes beside a server and a real Redis."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal

import pytest

from tests.support import processes
from tests.support.clients.v1 import Docker, done
from tests.support.layers import tar
from tests.support.servers.redis import redis_server  # noqa: F401 - a fixture
from tests.support.servers.registry import Server
from tests.support.servers.template import run_command, template
from tests.support.timing import wait_until
from tests.support.v1_images import make

_numbers = itertools.count(4_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory, redis_server):  # noqa: F811
    """A server with its own queue in Redis."""
    store = tmp_path_factory.mktemp("diffs") / "store"
    with Server(store, workers=2, **redis_server.environment, CACHE_REDIS_DB="3") as server:
        yield server


@pytest.fixture(scope="module")
def docker(server):
    with Docker(server.url) as docker:
        yield docker


@contextlib.contextmanager
def worker(server, **environment):
    """A worker that runs for the duration of a ``with`` block."""
    log = server.store.parent / f"worker-{next(_numbers)}.log"
    environment = {"STORAGE_PATH": str(server.store), **server.environment, **environment}
    with log.open("wb") as output:
        process = template("command").start(["diff-worker"], {**os.environ, **environment}, output)
    process.log = log
    try:
        yield process
    finally:
        processes.stop(process)


def push(docker, *layers):
    """Push a chain of images; return the id of the last."""
    parent = None
    for layer in layers:
        parent = make(next(_numbers), parent, layer=layer)
        docker.push_images(parent)
    return parent.text


def diff(docker, text):
    """The diff that a client receives now; None if there is none."""
    answer = done(docker.get(f"/images/{text}/diff"), 200)
    if not answer.content:
        assert "no-cache" == answer.headers["Cache-Control"]
        return None
    assert "public, max-age=31536000" == answer.headers["Cache-Control"]
    return json.loads(answer.content)


def wait_for(docker, text):
    return wait_until(lambda: diff(docker, text))


class TestADiff:
    def test_is_empty_until_a_worker_runs(self, server, docker):
        text = push(docker, tar("a", "b"), tar(".wh.a", "c"))
        assert diff(docker, text) is None
        with worker(server):
            found = wait_for(docker, text)
        assert ({"a"}, {"c"}, {}) == (set(found["deleted"]), set(found["created"]), found["changed"])

    def test_is_computed_before_the_first_request(self, server, docker):
        with worker(server):
            text = push(docker, tar("a"))
            kept = server.store / "images" / text
            wait_until(lambda: list(kept.glob("_changes*")), lambda: sorted(kept.iterdir()))
            assert {"a"} == set(diff(docker, text)["created"])

    def test_of_a_layer_that_is_not_a_tar_stops_no_worker(self, server, docker):
        with worker(server) as process:
            broken = push(docker, b"no tar")
            assert {"a"} == set(wait_for(docker, push(docker, tar("a")))["created"])
            assert process.poll() is None
            assert broken in process.log.read_text()

    def test_is_computed_by_any_of_several_workers(self, server, docker):
        texts = [push(docker, tar(f"file-{number}")) for number in range(20)]
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(worker(server)) for _ in range(3)]
            for number, text in enumerate(texts):
                assert {f"file-{number}"} == set(wait_for(docker, text)["created"])
            assert [None] * 3 == [process.poll() for process in workers]


class TestAWorker:
    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
    def test_ends_on_a_signal(self, server, docker, end):
        with worker(server) as process:
            wait_for(docker, push(docker, tar("a")))
            process.send_signal(end)
            assert 0 == process.wait(60)

    def test_waits_for_unreachable_redis(self, server):
        with worker(server, CACHE_REDIS_PORT=str(processes.free_port()), REGISTRY_LOG_FORMAT="json") as process:
            wait_until(lambda: "retrying in" in process.log.read_text())
            assert process.poll() is None
            assert '"logger": "docker_registry.cli.diff_worker"' in process.log.read_text()
            assert "traceback" not in process.log.read_text().lower()

    def test_and_a_server_of_api_v2_alone_are_warned_of_unreachable_redis_by_the_check(self, tmp_path):
        elsewhere = {
            "REGISTRY_V1": "false",
            "CACHE_REDIS_HOST": "127.0.0.1",
            "CACHE_REDIS_PORT": str(processes.free_port()),
        }
        checked = run_command("check", STORAGE_PATH=str(tmp_path), REGISTRY_HOST="127.0.0.1", **elsewhere)
        assert (0, True) == (checked.returncode, "cache: Redis cannot be reached" in checked.stderr)

    def test_requires_redis(self):
        done = run_command("diff-worker")
        assert done.returncode != 0
        assert "cache.host is not set" in done.stderr
        assert "Traceback" not in done.stderr
