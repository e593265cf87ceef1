"""
gevent's patches of the standard library: first what is imported into all workers needs, in a worker the rest.

What gunicorn's master forks and waits with stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata


def patch_master() -> None:
    """Patch all but what gunicorn's master needs; libraries take hold of locks and sockets while they are imported."""
    from gevent import monkey

    with _packages_read_once():
        monkey.patch_all(os=False, signal=False, queue=False)


def patch_worker() -> None:
    """Patch what :func:`patch_master` left."""
    from gevent import monkey

    with _packages_read_once():
        for patch_one in (monkey.patch_os, monkey.patch_signal, monkey.patch_queue):
            patch_one()


@contextmanager
def _packages_read_once() -> Iterator[None]:
    """
    Read only once which packages are installed, and what they offer.

    gevent asks that before and after each module, for packages that want to know; together a tenth of a start.
    """
    ask, found = metadata.entry_points, metadata.entry_points()
    metadata.entry_points = found.select  # which takes the same arguments
    try:
        yield
    finally:
        metadata.entry_points = ask
