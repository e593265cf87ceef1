"""
How long a push and a pull of one big blob take, and how much memory, beside the CNCF distribution registry.

::

    python contrib/bench/transfer.py [--size MIB] [--pairs N] [--workers N] [--folder PATH]

A push is what docker does: one chunked PATCH of random bytes, sent by curl, then PUT; a pull is one GET. Ours has
synced what it acknowledges; distribution leaves that to the kernel.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import time
from pathlib import Path
from urllib.parse import urljoin

from side_by_side import MIB, Side, alternate, both, report

from tests.client import Client

REPOSITORY = "bench/transfer"


def curl(*arguments: str) -> str:
    """Run curl without the user's configuration, which must succeed, and return what it printed."""
    command = ["curl", "--disable", "--noproxy", "*", "--silent", "--show-error", "--fail", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_content(path: Path, size: int) -> None:
    """Write random bytes."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))


def renew(path: Path) -> str:
    """Make another content of a file, by its first bytes, and return its digest."""
    with path.open("r+b") as file:
        file.write(os.urandom(64))
    content = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(MIB):
            content.update(block)
    return f"sha256:{content.hexdigest()}"


def push(client: Client, content: Path, digest: str) -> None:
    """Push a file as a blob."""
    location = client.start_upload(REPOSITORY)
    answer = curl(
        "--request", "PATCH", "--upload-file", str(content), "--header", "Transfer-Encoding: chunked",
        "--header", "Expect:", "--dump-header", "-", location,
    )  # fmt: skip
    (following,) = re.findall(r"^location: (\S+)", answer, re.IGNORECASE | re.MULTILINE)
    client.commit(urljoin(client.url, following), digest)


def pull(side: Side, digest: str, size: int) -> None:
    """Pull a blob into nothing."""
    got = curl("--output", os.devnull, "--write-out", "%{size_download}", f"{side.url}/v2/{REPOSITORY}/blobs/{digest}")
    assert size == int(got), f"{side.name} sent {got} bytes"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--size", type=int, default=1024, help="of the blob, MiB (%(default)s)")
    parser.add_argument("--pairs", type=int, default=7, help="how often each server has its turn (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of ours (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the stores lie while it runs")
    options = parser.parse_args()
    size = options.size * MIB

    with both(options.workers, options.folder) as (ours, peer, folder):
        content = folder / "content"
        make_content(content, size)

        def measure(side: Side) -> dict[str, float]:
            digest = renew(content)
            with Client(side.url) as client:
                began = time.perf_counter()
                push(client, content, digest)
                pushed = time.perf_counter()
                pull(side, digest, size)
                pulled = time.perf_counter()
            side.forget_blob(digest)
            return {f"push {options.size} MiB, s": pushed - began, f"pull {options.size} MiB, s": pulled - pushed}

        report((ours, peer), alternate((ours, peer), options.pairs, measure))


if __name__ == "__main__":
    main()
