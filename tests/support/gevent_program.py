"""Programs in a process that is patched by gevent, like a worker of the server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

PREAMBLE = """
from gevent import monkey; monkey.patch_all()
import gevent
native_sleep = monkey.get_original("time", "sleep")
this_thread = monkey.get_original("_thread", "get_ident")
"""


def under_gevent(program: str, *arguments: str, errors: bool = False) -> list[str]:
    """
    Run a program and return its output.

    Args:
        errors: whether it may print to stderr.
    """
    command = [sys.executable, "-c", PREAMBLE + program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (0, "") == (done.returncode, "" if errors else done.stderr), done.stderr
    return done.stdout.split()
