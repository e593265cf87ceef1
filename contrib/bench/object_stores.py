"""Rows of a registry on S3 with a cache in Redis, beside distribution on the same S3 and Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import small_requests
import transfers
import workload
from bench import CACHE, MIB, Bench, Missing
from keep_alive import Connection
from rows import Row, Sides
from transfers import PEER, get, push, renew, timed
from workload import DISTRIBUTION_3

from tests.support.clients.v2 import Client
from tests.support.processes import free_port, listens, running
from tests.support.servers.distribution import find_distribution, install_distribution_3
from tests.support.servers.redis import PASSWORD, own_redis
from tests.support.servers.seaweedfs import run_seaweedfs

TAGS = 1000


@contextmanager
def servers(bench: Bench, version: int = 2) -> Iterator[tuple[str, str]]:
    """
    Both registries, each with a root of its own in the bucket; yields their URLs.

    Args:
        version: major version of distribution.
    """
    program = (install_distribution_3(CACHE) if version == 3 else find_distribution()) or ""
    if not program:
        raise Missing(f"distribution {version} is not installed, nor Go to build it")
    with run_seaweedfs() as s3, own_redis() as redis:
        options = s3.options()
        ours = {
            "SETTINGS_FLAVOR": "s3",
            "STORAGE_PATH": options["storage_path"],
            "AWS_BUCKET": options["s3_bucket"],
            "AWS_KEY": options["s3_access_key"],
            "AWS_SECRET": options["s3_secret_key"],
            "AWS_ENDPOINT_URL": options["s3_endpoint"],
            "AWS_SECURE": "false",
            "AWS_ENCRYPT": "false",  # for both registries alike
            **redis.cache_environment,
        }
        port = free_port()
        store = {
            "accesskey": options["s3_access_key"],
            "secretkey": options["s3_secret_key"],
            "region": "us-east-1",
            "regionendpoint": options["s3_endpoint"],
            "bucket": options["s3_bucket"],
            "rootdirectory": "/peer",
            "secure": False,
            **({"forcepathstyle": True} if version == 3 else {}),
        }
        address = f"127.0.0.1:{redis.port}"
        theirs = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "s3": store,
                "cache": {"blobdescriptor": "redis"},
                "delete": {"enabled": True},
                "redirect": {"disable": True},  # as by default for ours: the clients of these rows follow none
            },
            "redis": {"password": PASSWORD, **({"addrs": [address]} if version == 3 else {"addr": address})},
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        config = bench.folder / "peer.yml"
        config.write_text(json.dumps(theirs))  # JSON is YAML
        # With a bundle of certificates in the environment it does not start.
        peer = running(
            [program, "serve", str(config)], bench.folder / "peer.log", lambda: listens(port), {"AWS_CA_BUNDLE": ""}
        )
        with bench.server("s3", **ours) as server, peer:
            yield server.url, f"http://127.0.0.1:{port}"


@contextmanager
def pushes(bench: Bench) -> Iterator[Sides]:
    """One client."""
    path = bench.content(int(1024 * MIB * bench.scale))

    def measure(url: str) -> float:
        digest = renew(path)
        return timed(lambda: push(url, path, digest))

    with servers(bench) as (ours, theirs):
        yield partial(measure, ours), partial(measure, theirs)


@contextmanager
def manifests(bench: Bench) -> Iterator[Sides]:
    """Any of a thousand tags."""
    tags = max(10, int(TAGS * min(bench.scale, 1)))
    script = small_requests.script(tags)
    with servers(bench) as urls:
        for url in urls:
            small_requests.fill(url, tags)
        yield partial(small_requests.wrk, bench, urls[0], script), partial(small_requests.wrk, bench, urls[1], script)


@contextmanager
def tag_lists(bench: Bench) -> Iterator[Sides]:
    """All tags of a repository at once."""
    tags = max(10, int(TAGS * min(bench.scale, 1)))
    path = f"/v2/{small_requests.REPOSITORY}/tags/list"
    with servers(bench) as urls:
        clients = [bench.stack.enter_context(Client(url)) for url in urls]
        for url in urls:
            small_requests.fill(url, tags)
        yield (
            lambda: timed(lambda: clients[0].request("GET", path, 200)),
            lambda: timed(lambda: clients[1].request("GET", path, 200)),
        )


@contextmanager
def pulls(bench: Bench) -> Iterator[Sides]:
    """One client."""
    path = bench.content(int(512 * MIB * bench.scale))
    digest = renew(path)
    with servers(bench, 3) as urls:
        for url in urls:
            push(url, path, digest)
        ours, theirs = (f"{url}/v2/{transfers.REPOSITORY}/blobs/{digest}" for url in urls)
        yield lambda: timed(lambda: get(ours)), lambda: timed(lambda: get(theirs))


@contextmanager
def mixed(bench: Bench) -> Iterator[Sides]:
    """The workload of layers of real sizes."""
    work = workload.Workload(bench.scale)
    with servers(bench, 3) as urls:
        for url in urls:
            work.push(url)
        paths = work.mixed()
        first, second = (partial(workload.load, bench, 32, paths, url) for url in urls)
        yield first, second


@contextmanager
def small_writes(bench: Bench, sides: Callable[[Connection, Connection, Bench], Sides]) -> Iterator[Sides]:
    """Small pushes over one connection."""
    with servers(bench, 3) as urls:
        connections = Connection(urls[0]), Connection(urls[1])
        try:
            yield sides(*connections, bench)
        finally:
            for connection in connections:
                connection.close()


ROWS = [
    Row("s3-push", "push 1 GiB, on S3", PEER, "s", pushes, bound=0.6),
    Row("s3-manifest", f"GET a manifest by one of {TAGS} tags, on S3 (wrk)", PEER, "requests/s", manifests, bound=5),
    Row("s3-tags", f"list {TAGS} tags, on S3", PEER, "s", tag_lists, bound=0.2),
    Row("s3-pull", "pull 512 MiB, on S3", DISTRIBUTION_3, "s", pulls, bound=1),
    Row(
        "s3-mixed", "GET manifests, configurations and layers, 32 connections, on S3 (wrk)", DISTRIBUTION_3,
        "requests/s", mixed, bound=1, late_bound=1,
    ),
    Row(
        "s3-manifest-put", "PUT a manifest, on S3", DISTRIBUTION_3, "s",
        partial(small_writes, sides=small_requests.manifest_put_sides), bound=0.8,
    ),
    Row(
        "s3-push-small", "push 10 layers of 100 kB, on S3", DISTRIBUTION_3, "s",
        partial(small_writes, sides=small_requests.small_push_sides), bound=0.7,
    ),
]  # fmt: skip
