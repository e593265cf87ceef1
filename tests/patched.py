"""Programs in a process that gevent has patched, as it has a worker of the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

PREAMBLE = """
from gevent import monkey; monkey.patch_all()
import gevent
native_sleep = monkey.get_original("time", "sleep")
this_thread = monkey.get_original("_thread", "get_ident")
"""


def under_gevent(program: str, *arguments: str) -> list[str]:
    """Run a program, which prints no error, and return the words that it printed."""
    command = [sys.executable, "-c", PREAMBLE + program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.split()
