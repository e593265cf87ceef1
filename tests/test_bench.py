"""The benchmarks run, and leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.distribution import find_distribution
from tests.programs import missing, require

BENCH = Path(__file__).parent.parent / "contrib" / "bench"


@pytest.fixture
def run():
    """Run a benchmark and return what it prints."""
    if find_distribution() is None:
        missing("distribution is not installed (Debian package docker-registry)")
    require("curl", "curl")

    def run(name, *options):
        command = [sys.executable, str(BENCH / name), *options]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    return run


class TestTransfer:
    def test_prints_medians_ratios_memory_and_the_machine(self, run, tmp_path):
        lines = run("transfer.py", "--size", "2", "--pairs", "2", "--folder", str(tmp_path)).splitlines()
        assert ["docker-registry", "distribution"] == lines[0].split()[:2]
        assert ["push 2 MiB, s", "pull 2 MiB, s", "largest process, MiB"] == [line[:20].strip() for line in lines[1:4]]
        assert all(float(line.split()[-1]) > 0 for line in lines[1:4])
        assert "docker-registry with 2 workers" in lines[5]
        assert [] == list(tmp_path.iterdir())
