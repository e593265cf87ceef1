"""
Compares two commits of this project by rows of the table, measured in turns.

::

    python contrib/bench/commits.py COMMIT COMMIT [ROW …] [--pairs N] [--scale X] [--workers N] [--folder PATH]

Each commit is checked out into a folder of its own and runs with the libraries that are installed. The second one is
the other side of each row. Only rows that compare with distribution make sense here; bounds do not apply.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import small_requests
import transfers
import whole_server
from bench import Bench
from rows import HEAD, machine, measure

from tests.support.servers.registry import Server

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    row
    for row in (*small_requests.WRITES, *transfers.ROWS, *small_requests.READS, *whole_server.ROWS)
    if row.other == transfers.PEER
]


class TwoCommits(Bench):
    """A bench whose peer is another commit of this project."""

    roots: tuple[Path, Path]

    @cached_property
    def ours(self) -> Server:
        """The first commit."""
        return self._serve("ours", self.roots[0])

    @cached_property
    def peer(self) -> Server:  # type: ignore[override] # whatever serves
        """The second commit."""
        return self._serve("peer", self.roots[1])

    def _serve(self, name: str, root: Path) -> Server:
        store = self.folder / name / "store"
        return self.stack.enter_context(Server(store, workers=self.workers, root=root, new_interpreter=True))


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out for the duration of a ``with`` block."""
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("commits", nargs=2, metavar="COMMIT")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(row.name for row in ROWS)} (all)")
    parser.add_argument("--pairs", type=int, default=7, help="number of runs of each side (%(default)s)")
    parser.add_argument("--scale", type=float, default=1, help="factor for large sizes (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="number of workers of each server (%(default)s)")
    parser.add_argument("--folder", type=Path, help="folder for the stores")
    options = parser.parse_args()
    if set(options.rows) - {row.name for row in ROWS}:
        parser.error("there is no such row")
    print(HEAD, flush=True)
    first, second = options.commits
    for row in ROWS:
        if row.name not in (options.rows or [row.name]):
            continue
        with contextlib.ExitStack() as stack:
            bench = stack.enter_context(TwoCommits(options.scale, options.workers, options.folder))
            bench.roots = (
                stack.enter_context(checked_out(first, bench.folder / "first")),
                stack.enter_context(checked_out(second, bench.folder / "second")),
            )
            plain = replace(row, other=second, bound=None, limit=None)
            print(measure(plain, bench, options.pairs).line(), flush=True)
    print(f"\nours is {first}, the other is {second}; {machine()}", file=sys.stdout)


if __name__ == "__main__":
    main()
