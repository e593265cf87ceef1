"""Rows of wrong logins: what they cost other clients."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import requests
from bench import Bench
from rows import Rate, Row, Sides
from small_requests import CONNECTIONS, REPOSITORY, fill
from workload import load

from docker_registry.auth.users.htpasswd import COST
from tests.support import access

PER_SECOND = 50

#: Logins that are under way; the registry lets some wait for seconds.
UNDER_WAY = 200

_RULES = """rules:
  - {repositories: ["**"], who: [anonymous], allow: [pull]}
  - {repositories: ["**"], who: [root], allow: [pull, push]}"""


class WrongLogins:
    """
    Sends wrong logins at a steady rate from threads; a context manager.

    Attributes:
        statuses: how often each status was the answer.
    """

    def __init__(self, url: str, address: Callable[[int], str]) -> None:
        """
        Args:
            address: returns the address of the client of a number.
        """
        self.statuses: Counter[int] = Counter()
        self._url = url
        self._address = address
        self._numbers = itertools.count()
        self._over = threading.Event()
        self._clock = threading.Thread(target=self._run)

    def __enter__(self) -> WrongLogins:  # noqa: PYI034 - Self is newer than Python 3.10
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._clock.join()

    def _run(self) -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(UNDER_WAY) as threads:
            for number in self._numbers:
                threads.submit(self._log_in, number)
                if self._over.wait(max(0.0, began + (number + 1) / PER_SECOND - time.monotonic())):
                    threads.shutdown(cancel_futures=True)
                    return

    def _log_in(self, number: int) -> None:
        headers = {"X-Forwarded-For": self._address(number), "Connection": "close"}
        answer = requests.get(f"{self._url}/v2/", auth=("root", f"guess {number}"), headers=headers, timeout=60)
        self.statuses[answer.status_code] += 1


@contextmanager
def beside(bench: Bench, address: Callable[[int], str]) -> Iterator[Sides]:
    """GET of a manifest beside wrong logins; and without."""
    settings = access.settings(bench.folder / "access", _RULES, ("root",), cost=COST)
    server = bench.stack.enter_context(bench.server("restricted", **settings))
    fill(server.url, 1, ("root", "pw-root"))
    get = partial(load, bench, CONNECTIONS, [f"/v2/{REPOSITORY}/manifests/t0"], server.url)

    def attacked() -> Rate:
        with WrongLogins(server.url, address) as logins:
            rate = get()
        print(f" {dict(logins.statuses)}", end="", flush=True)
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
