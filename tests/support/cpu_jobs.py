"""Jobs for the tests of the CPU pool."""

from __future__ import annotations

import os
import signal
import time

from docker_registry.errors import LayerFormatUnsupported


def upper(arguments, parts):
    """Yield the input in upper case."""
    for part in parts:
        for block in part:
            yield bytes(block).upper()
        yield arguments["end"].encode()


def stop_early(arguments, parts):
    """Read one block of the input only."""
    yield next(iter(next(parts)))[:5]


def refuse(arguments, parts):
    """Reject the input after one block."""
    next(iter(next(parts)))
    raise LayerFormatUnsupported(reason="it is no tar")
    yield b""


def spin(arguments, parts):
    """Compute without end, in Python."""
    while True:
        pass
    yield b""


def grow(arguments, parts):
    """Allocate more memory than is allowed."""
    yield b"x" * (1 << 40)


def die(arguments, parts):
    """End the process."""
    os._exit(1)
    yield b""


def pid(arguments, parts):
    """Return the id of its process."""
    yield str(os.getpid()).encode()


def falter(arguments, parts):
    """Make the process pause several times during its next job, as on a busy machine."""
    pauses = arguments["pauses"]

    def pause(*_):
        time.sleep(pauses.pop())
        signal.setitimer(signal.ITIMER_REAL, 0.002 if pauses else 0)

    signal.signal(signal.SIGALRM, pause)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    yield b""


JOBS = {job.__name__: job for job in (upper, stop_early, refuse, spin, grow, die, pid, falter)}
