"""The CNCF distribution registry as a real process: the peer whose trees we adopt and beside which we measure."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.support.processes import SEARCH_PATH, find, free_port, listens, running

VERSION_3: Final = "3.1.1"
_MODULE_3: Final = "github.com/distribution/distribution/v3/cmd/registry"
_BUILD_SECONDS: Final = 900


def find_distribution() -> str | None:
    """Return the path of the peer's program; None when it is not installed. Ours has the same name, but is a script."""
    for folder in SEARCH_PATH.split(":"):
        path = Path(folder) / "docker-registry"
        if path.is_file() and path.read_bytes()[:4] == b"\x7fELF":
            return str(path)
    return None


def install_distribution_3(folder: Path) -> str | None:
    """
    Build the peer's current version with Go, unless it is in *folder* already; return the path of its program.

    Returns:
        None when Go is not installed.
    """
    program = folder / f"distribution-{VERSION_3}"
    go = find("go")
    if not program.exists():
        if go is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "GOBIN": str(folder)}
        subprocess.run(
            [go, "install", f"{_MODULE_3}@v{VERSION_3}"], env=environment, check=True, timeout=_BUILD_SECONDS
        )
        (folder / "registry").rename(program)
    return str(program)


class Distribution:
    """
    One running server.

    Attributes:
        url: where it listens.
        store: its root folder, which contains ``docker/registry/v2``; its configuration and log are beside it.
        process: its only process.
    """

    def __init__(self, program: str, store: Path, config: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.program = program
        self.store = store
        self.config = config
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = process

    @property
    def pids(self) -> list[int]:
        """The processes that serve."""
        return [self.process.pid]

    def collect_garbage(self) -> str:
        """Run its garbage collector on the store and return its output."""
        command = [self.program, "garbage-collect", str(self.config)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def serve_distribution(program: str, store: Path, settings: Mapping[str, Any] | None = None) -> Iterator[Distribution]:
    """
    Run the peer over a store, quietly and with deletion on.

    Args:
        program: from :func:`find_distribution`.
        settings: in place of those of the same names; a storage other than files leaves the store's folder empty.
    """
    store.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(store)}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
        **(settings or {}),
    }
    path = store.with_name(f"{store.name}-distribution.yml")
    path.write_text(json.dumps(config))  # JSON is YAML
    command = [program, "serve", str(path)]
    with running(command, path.with_suffix(".log"), lambda: listens(port)) as process:
        yield Distribution(program, store, path, port, process)
