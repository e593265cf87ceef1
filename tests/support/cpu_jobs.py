"""Jobs for the tests of the CPU pool."""

from __future__ import annotations

import os

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


JOBS = {job.__name__: job for job in (upper, stop_early, refuse, spin, grow, die, pid)}
