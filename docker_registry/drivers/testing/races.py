"""Run concurrent operations on a store."""

from __future__ import annotations

import threading
from collections.abc import Callable


def race(*works: Callable[[], object]) -> list[Exception]:
    """Call all functions at the same time, each in its own thread, and return the exceptions that they raised."""
    start, raised = threading.Barrier(len(works)), []

    def run(work: Callable[[], object]) -> None:
        start.wait()
        try:
            work()
        except Exception as error:  # noqa: BLE001 - returned to the test
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised
