"""The benchmarks run, and clean up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clients.programs import missing, require
from tests.support.servers.distribution import find_distribution

BENCH = Path(__file__).parent.parent.parent / "contrib" / "bench"
ROOT = BENCH.parent.parent


@pytest.fixture
def run(tmp_path):
    """Run a benchmark at the smallest scale, and return the lines that it prints."""
    if find_distribution() is None:
        missing("distribution is not installed (Debian package docker-registry)")
    for program, package in (("curl", "curl"), ("wrk", "wrk"), ("ab", "apache2-utils"), ("nginx", "nginx-light")):
        require(program, package)

    def run(name, *options):
        small = ["--pairs", "1", "--scale", "0.002", "--folder", str(tmp_path)] if name != "search.py" else []
        command = [sys.executable, str(BENCH / name), *options, *small]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode in (0, 1), done.stderr[-3000:]  # 1: slower than required, which is allowed here
        assert [] == list(tmp_path.iterdir())
        return done.stdout.splitlines()

    return run


def rows_of(lines):
    """The ratio of each row."""
    cells = [[cell.strip() for cell in line.split("|")] for line in lines[2:] if line.startswith("|")]
    return {row[1]: float(row[6]) for row in cells}


class TestTheTable:
    def test_has_the_selected_rows(self, run):
        chosen = ["manifest", "blobs-4"]
        lines = run("table.py", *chosen)
        assert chosen == list(rows_of(lines))
        assert 2 == lines[-3].count("99 %: ")
        assert all(ratio > 0 for ratio in rows_of(lines).values())
        assert "our server with 2 workers" in lines[-1]

    @pytest.mark.slow
    def test_has_every_row(self, run):
        known = [line.split()[0] for line in run("table.py", "--list")]
        assert known == list(rows_of(run("table.py")))


class TestTheWorkload:
    def test_has_the_documented_sizes_and_popularities(self):
        program = """if True:
            from collections import Counter
            from workload import Workload, size_of
            sizes = [size_of((each + 0.5) / 1000) for each in range(1000)]
            print(sum(size < 10**6 for size in sizes), sum(size < 10**7 for size in sizes))
            workload = Workload(0.01)
            counts = Counter(workload.blobs()).most_common()
            print(len(workload.layers), counts[0][1] / sum(count for _, count in counts))
        """
        done = subprocess.run([sys.executable, "-c", program], cwd=BENCH, capture_output=True, text=True, check=True)
        below_1_mb, below_10_mb, layers, most_popular = map(float, done.stdout.split())
        assert (650, 800, 30) == (below_1_mb, below_10_mb, layers)
        assert 0.47 < most_popular < 0.53


class TestTwoCommits:
    @pytest.mark.slow
    def test_are_measured_in_turn(self, run):
        if not (ROOT / ".git").exists():
            pytest.skip("this is no checkout")
        lines = run("commits.py", "HEAD", "HEAD", "push")
        assert ["push"] == list(rows_of(lines))
        listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, check=True, capture_output=True, text=True)
        assert 1 == len(listed.stdout.splitlines())
