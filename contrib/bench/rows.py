"""
A row of the table: two sides that are measured in turns, and the required ratio of their medians.

The speed of a machine changes from minute to minute, so times of different runs are never compared.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bench import Bench

Measure = Callable[[], float]
#: Ours and the other side; each call is one run, and returns seconds, requests a second, or MiB.
Sides = tuple[Measure, Measure]


class Rate(float):
    """
    Requests per second.

    Attributes:
        late_ms: 99th percentile of the response times.
    """

    late_ms: float

    def __new__(cls, value: float, late_ms: float) -> Rate:  # noqa: PYI034 - Self is newer than Python 3.10
        """Create a rate with its percentile."""
        rate = super().__new__(cls, value)
        rate.late_ms = late_ms
        return rate


@dataclass(frozen=True)
class Row:
    """
    Attributes:
        name: selects the row on the command line.
        work: description of the measured work.
        other: name of the other side.
        bound: of ours divided by the other's; at least that for rates, at most otherwise.
        unit: of the figures.
        limit: maximum of our own figure.
        late_bound: at most this, of our 99th percentile divided by the other's.
        late_limit_ms: maximum of our own 99th percentile.
    """

    name: str
    work: str
    other: str
    unit: str
    sides: Callable[[Bench], AbstractContextManager[Sides]]
    bound: float | None = None
    limit: float | None = None
    late_bound: float | None = None
    late_limit_ms: float | None = None

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")


@dataclass(frozen=True)
class Outcome:
    """The result of a row."""

    row: Row
    ours: list[float]
    other: list[float]

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return statistics.median(self.ours) / statistics.median(self.other)

    @property
    def holds(self) -> bool:
        """True if the result is within the bounds of its row."""
        row, bound = self.row, self.row.bound
        kept = bound is None or (self.ratio >= bound if row.is_rate else self.ratio <= bound)
        kept = kept and (row.limit is None or statistics.median(self.ours) <= row.limit)
        if row.late_bound is not None:
            kept = kept and _late(self.ours) <= row.late_bound * _late(self.other)
        return kept and (row.late_limit_ms is None or _late(self.ours) <= row.late_limit_ms)

    def line(self) -> str:
        """Return the row as a line of Markdown."""
        row = self.row
        asked = [] if row.bound is None else [f"{'≥' if row.is_rate else '≤'} {row.bound:g}"]
        asked += [] if row.limit is None else [f"≤ {row.limit:g} {row.unit}"]
        asked += [] if row.late_bound is None else [f"99 % ≤ {row.late_bound:g} of the other's"]
        asked += [] if row.late_limit_ms is None else [f"99 % ≤ {row.late_limit_ms:g} ms"]
        cells = [
            row.name, row.work, _spread(self.ours), f"{_spread(self.other)} {row.other}", row.unit,
            f"{self.ratio:.2f}", ", ".join(asked) + ("" if self.holds else " **missed**"),
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |"


HEAD = "| row | work | ours | the other | unit | ratio | asked for |\n| --- | --- | --- | --- | --- | --- | --- |"


def measure(row: Row, bench: Bench, pairs: int) -> Outcome:
    """Measure both sides in turns: A, B, A, B, …"""
    ours: list[float] = []
    other: list[float] = []
    with row.sides(bench) as (first, second):
        for turn in range(pairs):
            for side, measured in ((first, ours), (second, other)):
                os.sync()  # pending writes of the previous run are not part of this one
                try:
                    measured.append(side())
                except (AssertionError, OSError, subprocess.SubprocessError) as error:
                    who = "ours" if side is first else row.other
                    raise RuntimeError(f"{row.name} of {who} failed in pair {turn + 1}") from error
            print(f"\r{row.name}: {turn + 1} of {pairs} pairs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return Outcome(row, ours, other)


def machine() -> str:
    """Describe the machine in one line."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
        else:
            processor = platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in ("gunicorn", "gevent", "flask"))
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores, {processor}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {versions}"
    )


def _spread(values: list[float]) -> str:
    digits = 0 if min(values) >= 100 else 2 if max(values) >= 0.1 else 4
    spread = f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return f"{spread}, 99 %: {_late(values):.1f} ms" if isinstance(values[0], Rate) else spread


def _late(values: list[float]) -> float:
    return statistics.median(value.late_ms for value in values if isinstance(value, Rate))
