"""Progress displays for commands, written to terminals only."""

from __future__ import annotations

from typing import Final, TextIO

_BAR_WIDTH: Final = 40


class ProgressBar:
    """A progress bar on one line of a terminal; writes nothing to other streams."""

    def __init__(self, stream: TextIO, unit: str) -> None:
        """
        Args:
            unit: name of the counted items, in the plural.
        """
        self._stream = stream
        self._unit = unit
        self._is_terminal = stream.isatty()

    def show(self, done: int, of: int) -> None:
        """Redraw the bar with *done* of *of* items."""
        if self._is_terminal:
            filled = _BAR_WIDTH * done // max(of, 1)
            self._stream.write(f"\r[{'#' * filled}{' ' * (_BAR_WIDTH - filled)}] {done} of {of} {self._unit}")
            self._stream.flush()

    def end(self) -> None:
        """End the line."""
        if self._is_terminal:
            self._stream.write("\n")


class ProgressLine:
    """Counts of files and bytes on one line of a terminal; writes nothing to other streams."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()

    def show(self, files: int, copied_bytes: int) -> None:
        """Rewrite the line with the current counts."""
        if self._is_terminal:
            self._stream.write(f"\r{files} files, {copied_bytes / 1_000_000:.1f} MB copied")
            self._stream.flush()

    def end(self) -> None:
        """End the line."""
        if self._is_terminal:
            self._stream.write("\n")
