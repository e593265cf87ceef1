"""A real Azurite, Microsoft's own emulator of Azure Blob Storage, on a free port of loopback; it checks signatures."""

from __future__ import annotations

import base64
import contextlib
import functools
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from azure.storage.blob import BlobServiceClient

from tests.support import processes
from tests.support.clients import programs

VERSION = "3.35.0"
NAME, KEY = "lab", base64.b64encode(b"a key for tests").decode()
OTHER_KEY = base64.b64encode(b"another key").decode()

_numbers = itertools.count()


@dataclass(frozen=True)
class AzureServer:
    """Where it listens."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{NAME}"

    def connect(self) -> BlobServiceClient:
        """Return a client of the tests' own."""
        return BlobServiceClient(self.endpoint, credential={"account_name": NAME, "account_key": KEY})

    def make_container(self) -> str:
        """Make a container, and return its name."""
        name = f"lab{next(_numbers)}"
        with self.connect() as client:
            client.create_container(name)
        return name

    def options(self) -> dict[str, object]:
        """Return the options of a driver for a new container."""
        return {
            "azure_storage_account_name": NAME,
            "azure_storage_account_key": KEY,
            "azure_storage_container": self.make_container(),
            "azure_endpoint": self.endpoint,
            "azure_use_https": False,
        }


@contextlib.contextmanager
def run_azurite() -> Iterator[AzureServer]:
    """Run a server for the duration of a ``with`` block."""
    node, program = programs.require("node", "nodejs"), _installed()
    folder = Path(tempfile.mkdtemp(prefix="docker-registry-tests-"))
    port = processes.free_port()
    command = [
        node, str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence",
        "--disableTelemetry", "--silent", "--skipApiVersionCheck",
    ]  # fmt: skip
    environment = {"AZURITE_ACCOUNTS": f"{NAME}:{KEY}"}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        is_ready = functools.partial(processes.listens, port)
        stack.enter_context(processes.running(command, folder / "log", is_ready, environment, is_discarded=True))
        yield AzureServer(port)


def _installed() -> Path:
    """Return its main program, installed once, outside the tree, and kept between runs."""
    folder = Path("~/.cache/docker-registry-tests").expanduser() / f"azurite-{VERSION}"
    if not folder.exists():
        npm = programs.require("npm", "npm")
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix="azurite-", dir=folder.parent))
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(new), f"azurite@{VERSION}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
        if done.returncode:
            shutil.rmtree(new)
            programs.missing(f"azurite could not be installed by npm: {done.stderr[-500:]}")
        new.rename(folder)
    return folder / "node_modules/azurite/dist/src/blob/main.js"
