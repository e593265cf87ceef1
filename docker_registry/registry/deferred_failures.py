"""Errors of the store in single steps of some work, which must not keep its other steps from being taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from docker_registry.errors import LinkBroken, StorageError, StorageUnavailable


class DeferredFailures:
    """
    Defers the errors of steps until all steps were taken::

        failures = DeferredFailures()
        for step in steps:
            with failures.deferred():
                step()
        failures.raise_last()
    """

    def __init__(self) -> None:
        self._last: StorageError | None = None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """
        Keep an error of the store in this block for :meth:`raise_last`.

        Raises:
            StorageUnavailable: the store cannot be reached, so the other steps would fail too.
        """
        try:
            yield
        except StorageUnavailable:
            raise
        except StorageError as error:
            if self._last is None or not isinstance(error, LinkBroken):
                self._last = error

    def raise_last(self) -> None:
        """
        Raises:
            LinkBroken: steps failed, all of them because of broken symbolic links.
            StorageError: a step failed; the error is that of the last one that failed for another reason.
        """
        if self._last is not None:
            raise self._last
