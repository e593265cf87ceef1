"""Rows of wrong logins: what they cost other clients."""

from __future__ import annotations

import base64
import secrets
import selectors
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import cast

from bench import Bench
from rows import Rate, Row, Sides
from small_requests import CONNECTIONS, REPOSITORY, fill
from workload import load

from docker_registry.auth.users.htpasswd import COST
from tests.support import access

PER_SECOND = 50

_RULES = """rules:
  - {repositories: ["**"], who: [anonymous], allow: [pull]}
  - {repositories: ["**"], who: [root], allow: [pull, push]}"""


class WrongLogins:
    """
    Sends wrong logins at a steady rate, over a connection each; a context manager.

    One thread sends them all without a library, because the client has the processors of the server.

    Attributes:
        statuses: how often each status was the answer.
    """

    def __init__(self, port: int, address: Callable[[int], str]) -> None:
        """
        Args:
            address: returns the address of the client of a number.
        """
        self.statuses: Counter[str] = Counter()
        self._port = port
        self._address = address
        self._number = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> WrongLogins:  # noqa: PYI034 - Self is newer than Python 3.10
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        with ExitStack() as connections, selectors.DefaultSelector() as waiting:
            while not self._over.is_set():
                connection = connections.enter_context(socket.create_connection(("127.0.0.1", self._port)))
                connection.sendall(self._request())
                waiting.register(connection, selectors.EVENT_READ)
                self._number += 1
                while (left := began + self._number / PER_SECOND - time.monotonic()) > 0:
                    self._read(waiting, left)
            while waiting.get_map():
                self._read(waiting, 60)

    def _read(self, waiting: selectors.BaseSelector, seconds: float) -> None:
        for key, _ in waiting.select(seconds):
            waiting.unregister(key.fileobj)
            answered = cast("socket.socket", key.fileobj)
            self.statuses[answered.recv(4096)[9:12].decode()] += 1
            answered.close()

    def _request(self) -> bytes:
        credentials = base64.b64encode(f"root:guess {secrets.token_hex(8)}".encode()).decode()
        return (
            f"GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic {credentials}\r\n"
            f"X-Forwarded-For: {self._address(self._number)}\r\nConnection: close\r\n\r\n"
        ).encode()


@contextmanager
def beside(bench: Bench, address: Callable[[int], str]) -> Iterator[Sides]:
    """GET of a manifest beside wrong logins; and without."""
    settings = access.settings(bench.folder / "access", _RULES, ("root",), cost=COST)
    server = bench.stack.enter_context(bench.server("restricted", **settings))
    fill(server.url, 1, ("root", "pw-root"))
    get = partial(load, bench, CONNECTIONS, [f"/v2/{REPOSITORY}/manifests/t0"], server.url)

    def attacked() -> Rate:
        with WrongLogins(server.port, address) as logins:
            rate = get()
        print(f" {dict(logins.statuses)} ", end="", file=sys.stderr, flush=True)
        return rate

    yield attacked, get


ROWS = [
    Row(
        "logins", f"GET manifest beside {PER_SECOND} wrong logins/s of one network", "without", "GET/s",
        partial(beside, address=lambda _: "192.0.2.1"), late_bound=2,
    ),
    Row(
        "logins-many", f"GET manifest beside {PER_SECOND} wrong logins/s, each of its own network", "without", "GET/s",
        partial(beside, address=lambda number: f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}"),
        late_bound=2,
    ),
]  # fmt: skip
