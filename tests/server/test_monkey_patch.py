"""gevent's patches, and the packages that are notified of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

LISTENER = "names = []\ndef tell(event):\n    names.append(event.module_name)\n"


@pytest.fixture
def run(tmp_path):
    """Run a program with an installed package that subscribes to gevent's patches; return its output."""
    info = tmp_path / "listener-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: listener\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gevent.plugins.monkey.will_patch_module]\nlistener = listener:tell\n")
    (tmp_path / "listener.py").write_text(LISTENER)

    def run(program):
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert (0, "") == (done.returncode, done.stderr)
        return done.stdout.split()

    return run


class TestPatching:
    def test_notifies_every_subscribed_package(self, run):
        program = (
            "from docker_registry.server import monkey_patch\n"
            "monkey_patch.patch_{}()\n"
            "import listener\n"
            "print(*listener.names)\n"
        )
        assert {"socket", "threading", "time"} <= set(run(program.format("master")))
        assert ["os", "signal", "queue"] == run(program.format("worker"))

    def test_reads_the_installed_packages_once(self, run):
        program = (
            "from importlib import metadata\n"
            "read, ask, times = metadata.distributions, metadata.entry_points, []\n"
            "def counted(**what):\n"
            "    times.append(1)\n"
            "    return read(**what)\n"
            "metadata.distributions = counted\n"
            "from docker_registry.server import monkey_patch\n"
            "monkey_patch.patch_master()\n"
            "print(len(times), metadata.entry_points is ask)\n"
        )
        assert ["1", "True"] == run(program)
