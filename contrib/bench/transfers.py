"""Rows of large layers: pushed and pulled, one and eight at a time, whole and in parts, by either API."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urljoin

from bench import MIB, Bench, curl
from rows import Row, Sides

from tests.support.clients.v2 import Client

REPOSITORY = "bench/transfer"
PARTS = 16


def renew(path: Path) -> str:
    """Change the content of a file by its first bytes, and return its digest."""
    with path.open("r+b") as file:
        file.write(os.urandom(64))
    return f"sha256:{hashed(path)}"


def hashed(path: Path, tail: bytes = b"") -> str:
    """Return the hash of a file and further bytes."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(MIB):
            content.update(block)
    content.update(tail)
    return content.hexdigest()


def upload(path: Path | IO[bytes], method: str, url: str) -> str:
    """Send a file or the output of a pipe chunked, as docker does, and return the head of the response."""
    piped = None if isinstance(path, Path) else path
    return curl(
        "--request", method, "--upload-file", "-" if piped else str(path), "--header", "Transfer-Encoding: chunked",
        "--header", "Expect:", "--dump-header", "-", url, source=piped,
    )  # fmt: skip


def push(url: str, path: Path | IO[bytes], digest: str) -> None:
    """Push a file as a blob: one chunked PATCH, then PUT."""
    with Client(url) as client:
        answer = upload(path, "PATCH", client.start_upload(REPOSITORY))
        (following,) = re.findall(r"^location: (\S+)", answer, re.IGNORECASE | re.MULTILINE)
        client.commit(urljoin(client.url, following), digest)


def push_with_tail(url: str, path: Path) -> str:
    """Push a file with a few more bytes, so that it is another blob without another file; return its digest."""
    tail = secrets.token_hex(16)
    digest = f"sha256:{hashed(path, tail.encode())}"
    with subprocess.Popen(["sh", "-c", 'cat "$0" && printf %s "$1"', path, tail], stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        push(url, reader.stdout, digest)
    return digest


def push_old(url: str, path: Path) -> None:
    """Push a file as the layer of an image of API V1: json, layer, checksum."""
    image_id = secrets.token_hex(32)
    payload = b'{"id": "%s"}' % image_id.encode()
    total = hashlib.sha256(payload + b"\n")
    with path.open("rb") as file:
        while block := file.read(MIB):
            total.update(block)
    began = time.perf_counter()
    with Client(url) as client:
        client.request("PUT", f"/v1/images/{image_id}/json", 200, data=payload)
        upload(path, "PUT", f"{url}/v1/images/{image_id}/layer")
        headers = {"X-Docker-Checksum-Payload": f"sha256:{total.hexdigest()}"}
        client.request("PUT", f"/v1/images/{image_id}/checksum", 200, headers=headers)
    push_old.seconds = time.perf_counter() - began  # type: ignore[attr-defined] # without the client's own hashing


def forget(store: Path | None, digest: str) -> None:
    """Remove the bytes of a blob from a local store, so that the disk does not fill up over many runs."""
    if store is None:
        return
    algorithm, _, encoded = digest.partition(":")
    shutil.rmtree(store / "docker/registry/v2/blobs" / algorithm / encoded[:2] / encoded)


def timed(work: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@contextmanager
def pushes(bench: Bench) -> Iterator[Sides]:
    """One client."""
    path = bench.content(int(1024 * MIB * bench.scale))

    def measure(url: str, store: Path | None) -> float:
        digest = renew(path)
        seconds = timed(lambda: push(url, path, digest))
        forget(store, digest)
        return seconds

    yield lambda: measure(bench.ours.url, bench.ours.store), lambda: measure(bench.peer.url, bench.peer.store)


@contextmanager
def pushes_at_once(bench: Bench) -> Iterator[Sides]:
    """Eight clients."""
    paths = [bench.content(int(128 * MIB * bench.scale), f"content{number}") for number in range(8)]

    def measure(url: str, store: Path | None) -> float:
        digests = [renew(path) for path in paths]
        with ThreadPoolExecutor(8) as pool:
            seconds = timed(lambda: list(pool.map(lambda pair: push(url, *pair), zip(paths, digests, strict=True))))
        for digest in digests:
            forget(store, digest)
        return seconds

    yield lambda: measure(bench.ours.url, bench.ours.store), lambda: measure(bench.peer.url, bench.peer.store)


@contextmanager
def old_pushes(bench: Bench) -> Iterator[Sides]:
    """A layer by API V1, and the same bytes by V2."""
    path = bench.content(int(1024 * MIB * bench.scale))
    server = bench.ours

    def old() -> float:
        digest = renew(path)
        push_old(server.url, path)
        forget(server.store, digest)
        shutil.rmtree(server.store / "images")
        return float(push_old.seconds)  # type: ignore[attr-defined]

    def new() -> float:
        digest = renew(path)
        seconds = timed(lambda: push(server.url, path, digest))
        forget(server.store, digest)
        return seconds

    yield old, new


def get(url: str, *options: str) -> None:
    """Pull and discard a URL."""
    curl("--output", os.devnull, *options, url)


def _served(bench: Bench, name: str, size: int) -> tuple[str, str]:
    """Push a file, put it into the folder of nginx too, and return both URLs."""
    path = bench.content(size, name)
    digest = renew(path)
    push(bench.ours.url, path, digest)
    target = bench.static / name
    if not target.exists():
        os.link(path, target)
    return f"{bench.ours.url}/v2/{REPOSITORY}/blobs/{digest}", f"{bench.nginx}/static/{name}"


@contextmanager
def pulls(bench: Bench) -> Iterator[Sides]:
    """One client."""
    ours, other = _served(bench, "content", int(1024 * MIB * bench.scale))
    yield lambda: timed(lambda: get(ours)), lambda: timed(lambda: get(other))


@contextmanager
def pulls_with_tls(bench: Bench) -> Iterator[Sides]:
    """One client, with TLS on both sides."""
    ours, other = _served(bench, "content", int(1024 * MIB * bench.scale))
    ours = ours.replace(bench.ours.url, bench.ours_with_tls.url)
    other = other.replace(bench.nginx, bench.nginx_with_tls)
    trusted = ("--cacert", str(bench.authority.file))
    yield lambda: timed(lambda: get(ours, *trusted)), lambda: timed(lambda: get(other, *trusted))


@contextmanager
def pulls_at_once(bench: Bench) -> Iterator[Sides]:
    """Eight clients, each with its own file."""
    served = [_served(bench, f"content{number}", int(128 * MIB * bench.scale)) for number in range(8)]

    def measure(side: int) -> float:
        with ThreadPoolExecutor(8) as pool:
            return timed(lambda: list(pool.map(get, [urls[side] for urls in served])))

    yield lambda: measure(0), lambda: measure(1)


@contextmanager
def ranges(bench: Bench) -> Iterator[Sides]:
    """One client that requests one part after another."""
    size = int(1024 * MIB * bench.scale)
    urls = _served(bench, "content", size)
    step = -(-size // PARTS)

    def measure(url: str) -> float:
        # one curl for all parts, over one connection
        asked = [["--range", f"{start}-{start + step - 1}", "--output", os.devnull, url, "--next", "--fail", "--silent"]
                 for start in range(0, size, step)]  # fmt: skip
        flat = [word for words in asked for word in words][:-3]
        return timed(lambda: curl(*flat))

    yield lambda: measure(urls[0]), lambda: measure(urls[1])


@contextmanager
def old_pulls(bench: Bench) -> Iterator[Sides]:
    """One client of API V1."""
    path = bench.content(int(1024 * MIB * bench.scale))
    _, other = _served(bench, "content", path.stat().st_size)
    push_old(bench.ours.url, path)
    (folder,) = (bench.ours.store / "images").iterdir()
    ours = f"{bench.ours.url}/v1/images/{folder.name}/layer"
    yield lambda: timed(lambda: get(ours)), lambda: timed(lambda: get(other))


PEER = "distribution 2.8.2"
ROWS = [
    Row("push", "push 1 GiB: chunked PATCH, then PUT", PEER, "s", pushes, bound=0.45),
    Row("push-8", "push 8 × 128 MiB at once", PEER, "s", pushes_at_once, bound=0.5),
    Row("push-v1", "push a layer of 1 GiB by API V1", "our V2", "s", old_pushes, bound=1.25),
    Row("pull", "pull 1 GiB", "nginx", "s", pulls, bound=1.05),
    Row("pull-tls", "pull 1 GiB with TLS", "nginx", "s", pulls_with_tls, bound=1.25),
    Row("pull-8", "pull 8 × 128 MiB at once", "nginx", "s", pulls_at_once, bound=1.15),
    Row("pull-ranges", f"pull 1 GiB in {PARTS} ranges", "nginx", "s", ranges, bound=1.15),
    Row("pull-v1", "pull a layer of 1 GiB by API V1", "nginx", "s", old_pulls, bound=1.15),
]
