"""What many do to a store at once."""

from __future__ import annotations

import threading
from collections.abc import Callable


def race(*works: Callable[[], object]) -> list[Exception]:
    """Do all works at once, each in a thread of its own, and return what they raised."""
    start, raised = threading.Barrier(len(works)), []

    def run(work: Callable[[], object]) -> None:
        start.wait()
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised
