"""
Two servers side by side: ours and the CNCF distribution registry, on loopback, each over an empty store.

A machine is never as fast as it was a minute ago, so no time of one server is held against a time of another run: the
servers take turns, and what counts is the ratio of their medians. Other benchmarks beside this one begin with
:func:`both`, measure with :func:`alternate` and end with :func:`report`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

# Servers are started as the tests start them, and those lie beside the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.distribution import find_distribution, serve_distribution
from tests.processes import children, memory_bytes
from tests.server import Server

MIB = 1024 * 1024


@dataclass(frozen=True)
class Side:
    """
    One of the servers.

    Attributes:
        store: its root folder.
        pids: the processes that serve.
    """

    name: str
    url: str
    store: Path
    pids: tuple[int, ...]

    def forget_blob(self, digest: str) -> None:
        """Remove a blob's bytes, so that a disk holds many runs and the next push is a whole one."""
        algorithm, _, encoded = digest.partition(":")
        shutil.rmtree(self.store / "docker/registry/v2/blobs" / algorithm / encoded[:2] / encoded)

    @property
    def peak_bytes(self) -> int:
        """The most memory that one of its processes ever had."""
        return max(memory_bytes(pid, "VmHWM") for pid in self.pids)


@contextlib.contextmanager
def both(workers: int, folder: Path | None = None) -> Iterator[tuple[Side, Side, Path]]:
    """
    Run both servers, and leave nothing behind.

    Args:
        workers: of ours; the peer is one process that uses all cores.
        folder: where stores and contents lie; by default where the system keeps temporary files.

    Yields:
        Ours, the peer, and a folder for contents.
    """
    program = find_distribution()
    if program is None:
        sys.exit("distribution is not installed (Debian package docker-registry)")
    with (
        tempfile.TemporaryDirectory(prefix="docker-registry-bench-", dir=folder) as name,
        Server(Path(name) / "ours", workers=workers) as server,
        serve_distribution(program, Path(name) / "peer") as peer,
    ):
        ours = Side("docker-registry", server.url, server.store, tuple(children(server.process.pid)))
        yield ours, Side(_name_of(program), peer.url, peer.store, (peer.process.pid,)), Path(name)


def _name_of(program: str) -> str:
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return f"distribution {said.split()[-1].partition('+')[0]}"


def alternate(
    sides: Sequence[Side], pairs: int, measure: Callable[[Side], Mapping[str, float]]
) -> dict[str, dict[str, list[float]]]:
    """
    Let the sides take turns: A, B, A, B, …

    Args:
        measure: does one run and returns what it measured, by name.

    Returns:
        All measurements, by side and by name, in their order.
    """
    measured: dict[str, dict[str, list[float]]] = {side.name: {} for side in sides}
    for turn in range(pairs):
        for side in sides:
            os.sync()  # what the run before has left to write is not part of this one
            for name, value in measure(side).items():
                measured[side.name].setdefault(name, []).append(value)
        print(f"\r{turn + 1} of {pairs} pairs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return measured


def report(sides: tuple[Side, Side], measured: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Print the median, the least and the most of everything, the ratio of the medians, and the machine."""
    ours, peer = sides
    print(f"{'':28}{ours.name:>26}{peer.name:>26}{'ratio':>8}")
    for name in measured[ours.name]:
        here, there = measured[ours.name][name], measured[peer.name][name]
        ratio = statistics.median(here) / statistics.median(there)
        print(f"{name:28}{_spread(here):>26}{_spread(there):>26}{ratio:8.2f}")
    row = "largest process, MiB (peak)"
    print(f"{row:28}{ours.peak_bytes / MIB:26.1f}{peer.peak_bytes / MIB:26.1f}{ours.peak_bytes / peer.peak_bytes:8.2f}")
    print(f"\n{ours.name} with {len(ours.pids)} workers; medians (least to most); {machine()}")


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def machine() -> str:
    """Describe what all of this ran on, in a line."""
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
