"""Rows of the server as a whole: how soon it answers, and what memory many transfers at once take."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import listings
from bench import MIB, Bench
from rows import Row, Sides
from transfers import PEER, get, push, renew, timed

from tests.processes import memory_bytes
from tests.server import Server

TRANSFERS = 64


@contextmanager
def starts(bench: Bench) -> Iterator[Sides]:
    """From the command to the first answer: on a store of 100 000 tags, and on an empty one."""
    full = Server(bench.folder / "ours/store", workers=bench.workers)
    with listings.tags(bench):
        bench.ours.stop()

    def measure(server: Server) -> float:
        seconds = timed(server.start)
        server.stop()
        return seconds

    def empty() -> float:
        return measure(Server(bench.folder / secrets.token_hex(4) / "store", workers=bench.workers))

    yield lambda: measure(full), empty


@contextmanager
def memory(bench: Bench) -> Iterator[Sides]:
    """The most that one of our workers has, and that the peer has, while 32 push and 32 pull."""
    size = int(1024 * MIB * bench.scale)
    paths = [bench.content(max(MIB, size // 16), f"pushed{number}") for number in range(TRANSFERS // 2)]
    pulled = bench.content(size)

    def measure(url: str, pids: list[int]) -> float:
        digest = renew(pulled)
        push(url, pulled, digest)
        digests = [renew(path) for path in paths]
        blob = f"{url}/v2/bench/transfer/blobs/{digest}"
        with ThreadPoolExecutor(TRANSFERS) as pool:
            pending = [pool.submit(get, blob) for _ in range(TRANSFERS // 2)]
            pending += [pool.submit(push, url, *pair) for pair in zip(paths, digests, strict=True)]
            for one in pending:
                one.result()
        return max(memory_bytes(pid, "VmHWM") for pid in pids) / MIB

    ours, peer = bench.ours, bench.peer
    yield (
        lambda: measure(ours.url, ours.worker_pids()),
        lambda: measure(peer.url, peer.pids),
    )


ROWS = [
    Row("start", "start to the first answer, 100 000 tags in the store", "empty store", "s", starts, limit=1),
    Row("memory", f"largest process, {TRANSFERS} transfers at once", PEER, "MiB", memory, limit=150),
]
