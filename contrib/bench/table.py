"""
The table of all speed requirements; each row is measured in turns with a peer.

::

    python contrib/bench/table.py [ROW …] [--pairs N] [--scale X] [--workers N] [--folder PATH] [--list]
    python contrib/bench/table.py blobs-32 mixed small --peer NAME=URL

With ``--peer`` the other side is a running registry at a URL, which must accept pushes without a password; the contents
stay there. Only rows that can be measured through a URL are available then.

It starts the peers itself, on free ports of loopback: distribution (Debian package docker-registry), nginx, SeaweedFS
and Redis; the clients are curl, wrk and ab. Rows that need a missing program are omitted with a message.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import access
import listings
import logins
import object_stores
import small_requests
import transfers
import whole_server
import workload
from bench import Bench, Missing
from rows import HEAD, machine, measure

#: Small writes come first, and their stores are removed last: after many removals, ext4 without a journal takes
#: longer to create a file.
ROWS = [
    *small_requests.WRITES,
    *transfers.ROWS,
    *small_requests.READS,
    *workload.ROWS,
    *listings.ROWS,
    *access.ROWS,
    *logins.ROWS,
    *object_stores.ROWS,
    *whole_server.ROWS,
]

#: Rows that can be measured beside any registry.
ANY_PEER = [
    row
    for row in (*small_requests.WRITES, *transfers.ROWS, *small_requests.READS, *workload.ROWS)
    if row.other == transfers.PEER or row in workload.ROWS
]


def main() -> int:
    """Measure and print; return 1 if a row misses its requirement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to measure (all)")
    parser.add_argument("--pairs", type=int, default=7, help="number of runs of each side (%(default)s)")
    parser.add_argument("--scale", type=float, default=1, help="factor for large sizes (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="number of workers of our server (%(default)s)")
    parser.add_argument("--folder", type=Path, help="folder for the stores")
    parser.add_argument("--peer", metavar="NAME=URL", help="a running registry as the other side")
    parser.add_argument("--list", action="store_true", help="list the rows without measuring")
    options = parser.parse_args()
    name, _, url = (options.peer or "").partition("=")
    if options.peer and not url.startswith("http://"):
        parser.error("--peer needs NAME=URL, with an http:// URL")
    rows = [replace(row, other=name) for row in ANY_PEER] if options.peer else ROWS
    unknown = set(options.rows) - {row.name for row in rows}
    if unknown:
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    chosen = [row for row in rows if row.name in (options.rows or [row.name])]
    if options.list:
        print("\n".join(f"{row.name:16}{row.work}" for row in chosen))
        return 0
    print(HEAD, flush=True)
    holds = True
    with ExitStack() as last:
        for row in chosen:
            removed = last if row.name in {each.name for each in small_requests.WRITES} else None
            with Bench(options.scale, options.workers, options.folder, removed, url or None) as bench:
                try:
                    outcome = measure(row, bench, options.pairs)
                except Missing as missing:
                    print(f"{row.name} is omitted: {missing}", file=sys.stderr)
                    continue
            print(outcome.line(), flush=True)
            holds = holds and outcome.holds
    print(f"\nMedians (least to most) of {options.pairs} pairs, our server with {options.workers} workers; {machine()}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
