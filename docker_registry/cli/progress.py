"""Progress bars of commands, on standard error and only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")


class ProgressBar:
    """Counts items, of which the number is known."""

    def __init__(self, unit: str) -> None:
        """
        Args:
            unit: name of the counted items, in the plural.
        """
        self._bar = _bar(unit)

    def show(self, done: int, of: int) -> None:
        """Show that *done* of *of* items are done."""
        self._bar.total = of
        self._bar.update(done - self._bar.n)

    def end(self) -> None:
        """End the line."""
        self._bar.close()


class ProgressLine:
    """Counts files and their bytes."""

    def __init__(self) -> None:
        self._bar = _bar("files")

    def show(self, files: int, copied_bytes: int) -> None:
        """Show the current counts."""
        self._bar.set_postfix_str(f"{copied_bytes / 1_000_000:.1f} MB copied", refresh=False)
        self._bar.update(files - self._bar.n)

    def end(self) -> None:
        """End the line."""
        self._bar.close()


def counted(items: Iterable[Item], unit: str) -> Iterator[Item]:
    """Yield items and count them."""
    with _bar(unit) as bar:
        for item in items:
            yield item
            bar.update()


def _bar(unit: str) -> tqdm[Any]:
    from tqdm import tqdm

    # A bar starts no thread, since a command may fork or run greenlets.
    tqdm.monitor_interval = 0
    bar: tqdm[Any] = tqdm(unit=f" {unit}", file=sys.stderr, disable=not sys.stderr.isatty(), dynamic_ncols=True)
    return bar
