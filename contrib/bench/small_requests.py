"""Rows of small requests: reads by wrk and ab over 16 connections, pushes of small images by one keep-alive client."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from bench import Bench, require
from keep_alive import Connection
from rows import Row, Sides
from transfers import PEER, timed

from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import Client
from tests.support.images import Image, make_image, push
from tests.support.v1_images import make

REPOSITORY = "bench/small"
TAGS = 1000
SECONDS = 4
CONNECTIONS = 16
ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def wrk(bench: Bench, url: str, script: str) -> float:
    """Return the requests per second of wrk; fails if any response is an error."""
    path = bench.folder / "script.lua"
    path.write_text(script)
    command = [
        require("wrk", "wrk"), "-t2", f"-c{CONNECTIONS}", f"-d{max(1, int(SECONDS * min(bench.scale, 1)))}", "-s",
        str(path), url,
    ]  # fmt: skip
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in said and "Socket errors" not in said, said
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found, said
    return float(found[1])


def ab_head(bench: Bench, url: str) -> float:
    """Return the HEAD requests per second of ab; wrk would wait for bodies."""
    count = max(200, int(20000 * bench.scale))
    command = [require("ab", "apache2-utils"), "-q", "-k", "-i", f"-c{CONNECTIONS}", f"-n{count}", url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in said, said
    found = re.search(r"Requests per second:\s+([\d.]+)", said)
    assert found, said
    return float(found[1])


def fill(url: str, tags: int, auth: tuple[str, str] | None = None) -> Image:
    """Push one image under many tags."""
    image = make_image("bench", layers=1)
    with Client(url) as client:
        client.session.auth = auth
        push(client, REPOSITORY, "t0", image)
        for number in range(1, tags):
            client.put_manifest(REPOSITORY, f"t{number}", image.manifest, image.media_type)
    return image


def script(tags: int) -> str:
    """Return a script of wrk that requests manifests by random tags of these."""
    path = f'"/v2/{REPOSITORY}/manifests/t" .. math.random(0, {tags - 1})'
    return f'wrk.headers["Accept"] = "{ACCEPT}"\nrequest = function() return wrk.format("GET", {path}) end'


@contextmanager
def manifests(bench: Bench) -> Iterator[Sides]:
    """A random one of a thousand tags."""
    tags = max(10, int(TAGS * min(bench.scale, 1)))
    for url in (bench.ours.url, bench.peer.url):
        fill(url, tags)
    asked = script(tags)
    yield partial(wrk, bench, bench.ours.url, asked), partial(wrk, bench, bench.peer.url, asked)


@contextmanager
def manifests_with_tls(bench: Bench) -> Iterator[Sides]:
    """The same store, with TLS and without."""
    tags = max(10, int(TAGS * min(bench.scale, 1)))
    fill(bench.ours.url, tags)
    asked = script(tags)
    yield partial(wrk, bench, bench.ours_with_tls.url, asked), partial(wrk, bench, bench.ours.url, asked)


@contextmanager
def manifests_observed(bench: Bench) -> Iterator[Sides]:
    """The same store, with metrics, a JSON log and an audit log, and with none of them."""
    tags = max(10, int(TAGS * min(bench.scale, 1)))
    fill(bench.ours.url, tags)
    asked = script(tags)
    yield partial(wrk, bench, bench.ours_observed.url, asked), partial(wrk, bench, bench.ours.url, asked)


@contextmanager
def blobs(bench: Bench) -> Iterator[Sides]:
    """HEAD of a blob."""
    image = fill(bench.ours.url, 1)
    fill(bench.peer.url, 1)
    path = f"/v2/{REPOSITORY}/blobs/{next(iter(image.blobs))}"
    yield partial(ab_head, bench, f"{bench.ours.url}{path}"), partial(ab_head, bench, f"{bench.peer.url}{path}")


@contextmanager
def old_reads(bench: Bench, path: str) -> Iterator[Sides]:
    """A read of API V1, compared with a bare callable in the same kind of worker."""
    images = [make(1), *(make(number, make(1)) for number in range(2, 12))]
    with Docker(bench.ours.url) as docker:
        for number, image in enumerate(images[1:]):
            docker.push("bench/old", f"v{number}", images[0], image)
    script = f'request = function() return wrk.format("GET", "{path.format(id=images[1].text)}") end'
    yield partial(wrk, bench, bench.ours.url, script), partial(wrk, bench, bench.bare, script)


def _connections(bench: Bench) -> tuple[Connection, Connection]:
    ours, other = Connection(bench.ours.url), Connection(bench.peer.url)
    bench.stack.callback(ours.close)
    bench.stack.callback(other.close)
    return ours, other


def push_raw(connection: Connection, name: str, image: Image) -> None:
    """Push an image as docker does: HEAD, POST, PATCH and PUT of each blob, then the manifest."""
    for digest, content in image.blobs.items():
        connection.expect(404, "HEAD", f"/v2/{name}/blobs/{digest}")
        location = connection.expect(202, "POST", f"/v2/{name}/blobs/uploads/").location
        location = connection.expect(202, "PATCH", location, content).location
        connection.expect(201, "PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}")
    put_manifest(connection, name, "latest", image.manifest, image.media_type)


def put_manifest(connection: Connection, name: str, tag: str, payload: bytes, media_type: str) -> None:
    """Push a manifest."""
    put_prepared(connection, prepare_manifest(connection, name, tag, payload, media_type))


def put_prepared(connection: Connection, request: bytes) -> None:
    """Push a manifest by a prepared request."""
    answer = connection.exchange(request)
    assert answer.status == 201, answer


def prepare_manifest(connection: Connection, name: str, tag: str, payload: bytes, media_type: str) -> bytes:
    """Return the request that pushes a manifest."""
    return connection.prepare("PUT", f"/v2/{name}/manifests/{tag}", payload, f"Content-Type: {media_type}")


@contextmanager
def small_pushes(bench: Bench) -> Iterator[Sides]:
    """Ten layers of 100 kB, the configuration and the manifest, over one connection."""
    yield small_push_sides(*_connections(bench), bench)


def small_push_sides(ours: Connection, other: Connection, _: Bench) -> Sides:
    """Return both sides of a push of a small image."""

    def measure(connection: Connection) -> float:
        image = make_image(f"bench {time.time_ns()}", layers=10, layer_bytes=100_000)
        return timed(lambda: push_raw(connection, "bench/pushed", image))

    return partial(measure, ours), partial(measure, other)


@contextmanager
def manifest_puts(bench: Bench) -> Iterator[Sides]:
    """New manifests of one image, one after another, over one connection."""
    yield manifest_put_sides(*_connections(bench), bench)


def manifest_put_sides(ours: Connection, other: Connection, bench: Bench) -> Sides:
    """Return both sides of pushes of manifests."""
    image = make_image("bench", layers=1)
    for connection in (ours, other):
        push_raw(connection, REPOSITORY, image)
    count = max(2, int(50 * min(bench.scale, 1)))

    def measure(connection: Connection) -> float:
        document = json.loads(image.manifest)
        requests = []
        for number in range(count):
            payload = json.dumps({**document, "annotations": {"n": f"{time.time_ns()}-{number}"}}).encode()
            requests.append(prepare_manifest(connection, REPOSITORY, f"p{number}", payload, image.media_type))

        def put() -> None:
            for request in requests:
                put_prepared(connection, request)

        return timed(put) / count

    return partial(measure, ours), partial(measure, other)


def _old(name: str, work: str, path: str) -> Row:
    return Row(name, work, "bare WSGI", "requests/s", partial(old_reads, path=path), bound=0.6)


READS = [
    Row("manifest", f"GET a manifest by one of {TAGS} tags (wrk)", PEER, "requests/s", manifests, bound=4),
    Row("manifest-tls", "the same with TLS", "our plain port", "requests/s", manifests_with_tls, bound=0.5),
    Row(
        "manifest-observed",
        "the same with metrics, JSON log and audit log",
        "our server without any log",
        "requests/s",
        manifests_observed,
        bound=0.9,
    ),
    Row("blob-head", "HEAD a blob (ab)", PEER, "requests/s", blobs, bound=4),
    _old("v1-tags", "GET the 10 tags of a repository, V1 (wrk)", "/v1/repositories/bench/old/tags"),
    _old("v1-ancestry", "GET an ancestry, V1 (wrk)", "/v1/images/{id}/ancestry"),
    _old("v1-json", "GET an image's JSON, V1 (wrk)", "/v1/images/{id}/json"),
]

WRITES = [
    Row("push-small", "push 10 layers of 100 kB, one connection", PEER, "s", small_pushes, bound=0.35),
    Row("manifest-put", "PUT a manifest", PEER, "s", manifest_puts, bound=0.5),
]
