"""
gevent's monkey patches of the standard library, applied in two steps.

The master applies the patches that the modules shared by all workers need, and each worker the rest. Functions that
gunicorn's master uses to fork and wait stay unpatched in the master.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata


def patch_master() -> None:
    """Apply all patches except those that would break gunicorn's master; must run before libraries are imported."""
    from gevent import monkey

    with _packages_read_once():
        monkey.patch_all(os=False, signal=False, queue=False)


def patch_worker() -> None:
    """Apply the patches that :func:`patch_master` leaves out."""
    from gevent import monkey

    with _packages_read_once():
        for patch_one in (monkey.patch_os, monkey.patch_signal, monkey.patch_queue):
            patch_one()


@contextmanager
def _packages_read_once() -> Iterator[None]:
    """
    Read the entry points of the installed packages only once.

    gevent reads them before and after patching each module, to notify plugins; together that takes a tenth of the
    startup time.
    """
    ask, found = metadata.entry_points, metadata.entry_points()
    metadata.entry_points = found.select  # takes the same arguments
    try:
        yield
    finally:
        metadata.entry_points = ask
