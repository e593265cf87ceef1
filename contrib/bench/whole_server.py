"""Rows of the server as a whole: the time to its first response, and the memory of many concurrent transfers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import listings
from bench import MIB, Bench, NamedPeer
from rows import Row, Sides
from transfers import PEER, forget, get, push, push_with_tail, renew, timed

from tests.support.processes import memory_bytes
from tests.support.servers.distribution import Distribution
from tests.support.servers.registry import Server

TRANSFERS = 64


@contextmanager
def starts(bench: Bench) -> Iterator[Sides]:
    """From the command to the first response, on a store of 100 000 tags and on an empty one, with compiled modules."""
    # As in an installed package: without write access, Python compiles a checkout at each start.
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bench.folder / "compiled")}
    full = bench.server("ours", **compiled)
    with listings.tags(bench):
        bench.ours.stop()

    def measure(server: Server) -> float:
        seconds = timed(server.start)
        server.stop()
        return seconds

    def empty() -> float:
        return measure(bench.server(secrets.token_hex(4), **compiled))

    empty()
    yield lambda: measure(full), empty


@contextmanager
def memory(bench: Bench) -> Iterator[Sides]:
    """The peak memory of one of our workers, and of the peer, during 32 pushes and 32 pulls."""
    path = bench.content(int(1024 * MIB * bench.scale))

    def measure(server: Server | Distribution | NamedPeer) -> float:
        digest = renew(path)
        push(server.url, path, digest)
        with ThreadPoolExecutor(TRANSFERS) as pool:
            blob = f"{server.url}/v2/bench/transfer/blobs/{digest}"
            pulls = [pool.submit(get, blob) for _ in range(TRANSFERS // 2)]
            pushes = [pool.submit(push_with_tail, server.url, path) for _ in range(TRANSFERS // 2)]
            for one in pulls:
                one.result()
            for pushed in (digest, *(one.result() for one in pushes)):
                forget(server.store, pushed)
        return max(memory_bytes(pid, "VmHWM") for pid in server.pids) / MIB

    yield partial(measure, bench.ours), partial(measure, bench.peer)


ROWS = [
    Row("start", "start to the first answer, 100 000 tags in the store", "empty store", "s", starts, limit=1),
    Row("memory", f"largest process, {TRANSFERS} transfers at once", PEER, "MiB", memory, limit=150),
]
