"""A progress bar for commands."""

from __future__ import annotations

from typing import Final, TextIO

_BAR_WIDTH: Final = 40


class ProgressBar:
    """One line that is drawn again and again on a terminal; on any other stream nothing is written."""

    def __init__(self, stream: TextIO, unit: str) -> None:
        """
        Args:
            unit: what is counted, in the plural.
        """
        self._stream = stream
        self._unit = unit
        self._is_terminal = stream.isatty()

    def show(self, done: int, of: int) -> None:
        """Draw how much is done."""
        if self._is_terminal:
            filled = _BAR_WIDTH * done // max(of, 1)
            self._stream.write(f"\r[{'#' * filled}{' ' * (_BAR_WIDTH - filled)}] {done} of {of} {self._unit}")
            self._stream.flush()

    def end(self) -> None:
        """End the line."""
        if self._is_terminal:
            self._stream.write("\n")


class ProgressLine:
    """Files and bytes, on one line that is written again and again on a terminal; nothing on any other stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()

    def show(self, files: int, copied_bytes: int) -> None:
        """Write how much is done."""
        if self._is_terminal:
            self._stream.write(f"\r{files} files, {copied_bytes / 1_000_000:.1f} MB copied")
            self._stream.flush()

    def end(self) -> None:
        """End the line."""
        if self._is_terminal:
            self._stream.write("\n")
