"""
Real clients for tests.

One that is not installed skips the tests that need it, with one line; where ``CI`` is set it fails them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.processes import find

#: Far more than any command of the tests needs.
TIMEOUT_SECONDS = 180


def require(name: str, package: str) -> str:
    """
    Return the path of a program.

    Args:
        package: the Debian package that contains it.
    """
    return find(name) or missing(f"{name} is not installed (Debian package {package})")


def require_root() -> None:
    """Skip what only root may do."""
    if os.geteuid() != 0:
        missing("only root can run this")


def missing(sentence: str) -> NoReturn:
    """Skip the test, or fail it where everything should be installed."""
    if os.environ.get("CI"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


class Tool:
    """A command-line client: calling it with arguments returns its output."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """
        Args:
            command: the program and the options that every call has.
            environment: in addition to this process's own.
        """
        self._command = command
        self._environment = {**os.environ, **(environment or {})}

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """Run it and return its text; if it fails, its output is the message of the assertion."""
        return self.raw(*arguments, stdin=stdin).decode().strip()

    def raw(self, *arguments: str | Path, stdin: bytes = b"") -> bytes:
        """Run it and return its output as it is."""
        return self._run(arguments, stdin).stdout

    def log(self, *arguments: str | Path) -> str:
        """Run it and return what it writes to standard error, such as warnings."""
        return self._run(arguments, b"").stderr.decode()

    def _run(self, arguments: Sequence[str | Path], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [*self._command, *map(str, arguments)]
        options = {"env": self._environment, "input": stdin, "timeout": TIMEOUT_SECONDS}
        done = subprocess.run(command, check=False, capture_output=True, **options)
        said = (done.stdout[-4000:] + done.stderr).decode(errors="replace")
        assert done.returncode == 0, f"{' '.join(command)}\n{said}"
        return done
