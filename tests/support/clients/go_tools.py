"""
Clients that are Go programs, installed as Go modules at the versions below; Go keeps what it has built between runs.

``helm``, ``cosign``, ``notation`` and the daemons take minutes to build, so their tests are marked slow.
"""

from __future__ import annotations

import json
import os
import shutil
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
    "containerd": "github.com/containerd/containerd/v2/cmd/containerd@v2.4.2",
    "ctr": "github.com/containerd/containerd/v2/cmd/ctr@v2.4.2",
    "buildkitd": "github.com/moby/buildkit/cmd/buildkitd@v0.33.0",
    "buildctl": "github.com/moby/buildkit/cmd/buildctl@v0.33.0",
    "dockerd": "github.com/moby/moby/v2/cmd/dockerd@v2.0.0-beta.24",
    "notation": "github.com/notaryproject/notation/cmd/notation@v1.3.2",
    "compose-go": "github.com/compose-spec/compose-go/v2/cmd@v2.16.2",
}

#: Of the daemons, whose drivers for other file systems need libraries in C.
_BUILD_VARIABLES: Final = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -tags=no_btrfs,no_devmapper,no_zfs"}
_DAEMONS: Final = frozenset({"buildctl", "buildkitd", "containerd", "ctr", "dockerd"})

#: Modules of which a proxy may have this version, but no list of versions, for which `go install` asks.
_UNLISTED: Final = frozenset({"notation"})

#: Modules that exclude versions of others, which `go install` refuses, so that they are built from a copy.
_EXCLUDING: Final = frozenset({"buildctl", "buildkitd"})

_BUILD_SECONDS: Final = 900


def install(name: str, folder: Path, **environment: str) -> Tool:
    """
    Build a client, and return it with its own home folder.

    Args:
        folder: for the program, and its home.
    """
    variables = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), **environment}
    return Tool([str(build(name, folder))], variables)


def build(name: str, folder: Path) -> Path:
    """
    Build a program, and return its path.

    Args:
        folder: where it is put.
    """
    go = find("go")
    if go is None:
        programs.missing(f"{name} needs Go to be built, which is not installed")
    package, _, version = _MODULES[name].partition("@")
    program = folder / Path(package).name
    folder.mkdir(parents=True, exist_ok=True)
    command = [go, "install", _MODULES[name]]
    if name in _UNLISTED:
        (folder / "go.mod").write_text(f"module lab\n\ngo 1.23\n\nrequire {package.partition('/cmd/')[0]} {version}\n")
        command = [go, "build", "-mod=mod", "-o", str(program), package]
    variables = {**os.environ, "GOBIN": str(folder), **(_BUILD_VARIABLES if name in _DAEMONS else {})}
    if name in _EXCLUDING:
        module, _, part = package.partition("/cmd/")
        command = [go, "mod", "download", "-json", f"{module}@{version}"]
        found = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, check=True, timeout=_BUILD_SECONDS
        )
        source = folder / f"{name}-source"
        shutil.copytree(json.loads(found.stdout)["Dir"], source, copy_function=shutil.copyfile)
        command = [go, "build", "-C", str(source), "-o", str(program), f"./cmd/{part}"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=_BUILD_SECONDS)
    assert 0 == done.returncode, done.stderr[-4000:]
    return program
