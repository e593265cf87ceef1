"""The servers and contents that rows measure: our server and its peers, each started on its first use."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO

# Servers are started as in the tests, whose package is in the root of the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.certificates import Authority
from tests.support.processes import free_port, listens, running
from tests.support.servers.distribution import (
    Distribution,
    find_distribution,
    install_distribution_3,
    serve_distribution,
)
from tests.support.servers.nginx import running_nginx
from tests.support.servers.registry import Server, TlsServer

MIB = 1024 * 1024
HERE = Path(__file__).parent

#: Built programs, which are kept for the next run.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "docker-registry-bench"


class Missing(Exception):
    """A program that a row needs is not installed."""


class NamedPeer:
    """A running registry that the user named; contents pushed to it are kept."""

    store = None
    pids: Sequence[int] = ()

    def __init__(self, url: str) -> None:
        self.url = url


class Bench:
    """Everything that rows share; removes it at the end."""

    def __init__(
        self,
        scale: float,
        workers: int,
        folder: Path | None,
        last: contextlib.ExitStack | None = None,
        named_peer: str | None = None,
    ) -> None:
        """
        Args:
            scale: factor for the sizes of transfers; 1 for those of the table.
            workers: number of workers of our server; the peers use all cores.
            folder: for stores and contents; by default the folder for temporary files.
            last: with whose end they are removed; by default with that of the row.
            named_peer: URL of a running registry to measure instead of those that the bench starts.
        """
        self.scale = scale
        self.workers = workers
        self.named_peer = named_peer
        self._parent = folder
        self.stack = contextlib.ExitStack()
        self._last = last or self.stack

    def __enter__(self) -> Bench:  # noqa: PYI034 - Self is newer than Python 3.10
        temporary = tempfile.TemporaryDirectory(prefix="docker-registry-bench-", dir=self._parent)
        self.folder = Path(self._last.enter_context(temporary))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)

    @cached_property
    def ours(self) -> Server:
        """Our server, with durable writes."""
        return self.stack.enter_context(self.server("ours"))

    def server(self, name: str, **environment: str) -> Server:
        """Return our server, not started yet, over a store of this name; like the peers it logs no requests."""
        quiet = {"GUNICORN_ACCESS_LOG_FILE": "none"}
        return Server(self.folder / name / "store", workers=self.workers, new_interpreter=True, **quiet, **environment)

    @cached_property
    def peer(self) -> Distribution | NamedPeer:
        """The CNCF distribution registry 2.8, or the registry that the user named."""
        if self.named_peer is not None:
            return NamedPeer(self.named_peer)
        program = find_distribution()
        if program is None:
            raise Missing("distribution is not installed (Debian package docker-registry)")
        return self.stack.enter_context(serve_distribution(program, self.folder / "peer/store"))

    @cached_property
    def peer_3(self) -> Distribution:
        """The CNCF distribution registry 3, built by Go."""
        program = install_distribution_3(CACHE)
        if program is None:
            raise Missing("distribution 3 is built with Go, which is not installed")
        return self.stack.enter_context(serve_distribution(program, self.folder / "peer3/store"))

    @cached_property
    def nginx(self) -> str:
        """URL of an nginx that serves the files of :attr:`static`."""
        if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            raise Missing("nginx is not installed (Debian package nginx-light)")
        (self.folder / "nginx").mkdir()
        locations = (
            f"sendfile on; tcp_nopush on; location /static/ {{ alias {self.static}/; }} "
            f"location /v2/ {{ root {self.static}; }}"
        )
        return self.stack.enter_context(running_nginx(self.folder / "nginx", [1], locations, workers=self.workers))

    @cached_property
    def authority(self) -> Authority:
        """The certificate authority of the servers with TLS."""
        (self.folder / "tls").mkdir()
        return Authority(self.folder / "tls")

    @cached_property
    def ours_with_tls(self) -> TlsServer:
        """A second server of ours on the store of the first, with TLS."""
        certificate, key = map(str, self.authority.issue("ours"))
        settings = {
            "REGISTRY_TLS_CERTIFICATE": certificate,
            "REGISTRY_TLS_KEY": key,
            "GUNICORN_ACCESS_LOG_FILE": "none",
        }
        return self.stack.enter_context(TlsServer(self.ours.store, workers=self.workers, **settings))

    @cached_property
    def ours_observed(self) -> Server:
        """A second server of ours on the store of the first, with metrics, a JSON log and the audit log."""
        settings = {
            "REGISTRY_METRICS": "true",
            "REGISTRY_LOG_FORMAT": "json",
            "REGISTRY_AUDIT_LOG": str(self.folder / "audit.log"),
        }
        return self.stack.enter_context(Server(self.ours.store, workers=self.workers, new_interpreter=True, **settings))

    @cached_property
    def nginx_with_tls(self) -> str:
        """URL of an nginx with TLS that serves the files of :attr:`static`."""
        certificate, key = self.authority.issue("nginx")
        port = free_port()
        (self.folder / "nginx-tls").mkdir()
        server = (
            f"}} server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; "
            f"sendfile on; tcp_nopush on; location /static/ {{ alias {self.static}/; }}"
        )
        self.stack.enter_context(running_nginx(self.folder / "nginx-tls", [1], server, workers=self.workers))
        return f"https://127.0.0.1:{port}"

    @cached_property
    def static(self) -> Path:
        """The folder of files that nginx serves."""
        path = self.folder / "static"
        path.mkdir()
        return path

    @cached_property
    def bare(self) -> str:
        """URL of a bare WSGI callable in the same kind of worker."""
        port = free_port()
        command = [
            sys.executable, "-m", "gunicorn", "-k", "docker_registry.server.worker.RegistryWorker",
            "-w", str(self.workers), "-b", f"127.0.0.1:{port}", "--keep-alive", "75",
            "--chdir", str(HERE), "bare:application",
        ]  # fmt: skip
        environment = {"PYTHONPATH": str(HERE.parents[1])}
        self.stack.enter_context(running(command, self.folder / "bare.log", lambda: listens(port), environment))
        return f"http://127.0.0.1:{port}"

    def content(self, size: int, name: str = "content") -> Path:
        """Return a file of random bytes."""
        path = self.folder / name
        if not path.exists() or path.stat().st_size != size:
            with path.open("wb") as file:
                for start in range(0, size, MIB):
                    file.write(os.urandom(min(MIB, size - start)))
        return path


def require(program: str, package: str) -> str:
    """Return the path of a program."""
    found = shutil.which(program)
    if found is None:
        raise Missing(f"{program} is not installed (Debian package {package})")
    return found


def curl(*arguments: str, source: IO[bytes] | None = None) -> str:
    """Run curl without the user's configuration, and return its output; fails if curl fails."""
    command = [require("curl", "curl"), "--disable", "--noproxy", "*", "--silent", "--show-error", "--fail", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, stdin=source).stdout
