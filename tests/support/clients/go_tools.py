"""
Clients that are Go programs, installed as Go modules at the versions below; Go keeps what it has built between runs.

``helm`` and ``cosign`` take minutes to build, so their tests are marked slow.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from tests.support.clients import programs
from tests.support.clients.programs import Tool
from tests.support.processes import find

_MODULES: Final = {
    "crane": "github.com/google/go-containerregistry/cmd/crane@v0.22.1",
    "oras": "oras.land/oras/cmd/oras@v1.3.6",
    "regctl": "github.com/regclient/regclient/cmd/regctl@v0.11.7",
    "helm": "helm.sh/helm/v4/cmd/helm@v4.3.1",
    "cosign": "github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3",
    "compose-go": "github.com/compose-spec/compose-go/v2/cmd@v2.16.2",
}

_BUILD_SECONDS: Final = 900


def install(name: str, folder: Path, **environment: str) -> Tool:
    """
    Build a client, and return it with its own home folder.

    Args:
        folder: for the program, and its home.
    """
    go = find("go")
    if go is None:
        programs.missing(f"{name} needs Go to be built, which is not installed")
    command = [go, "install", _MODULES[name]]
    done = subprocess.run(
        command, env={**os.environ, "GOBIN": str(folder)}, capture_output=True, text=True, timeout=_BUILD_SECONDS
    )
    assert 0 == done.returncode, done.stderr[-4000:]
    program = folder / Path(_MODULES[name].partition("@")[0]).name
    return Tool([str(program)], {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), **environment})
