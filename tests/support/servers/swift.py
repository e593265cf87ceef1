"""
A real Swift on free ports of loopback: one of each server, one copy of everything, users of TempAuth.

Its servers wait for each other for a minute. By default half a second without an answer makes the only copy
unavailable, which happens on a busy machine.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import itertools
import shutil
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swiftclient.client import Connection

from tests.support import processes
from tests.support.clients import programs

USER, PASSWORD = "test:tester", "testing"
READER, READER_PASSWORD = "test:reader", "reading"

_SERVICES = ("account", "container", "object")
_numbers = itertools.count()

_STORAGE = """
[DEFAULT]
devices = {folder}/srv
mount_check = false
disable_fallocate = true
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
recon_cache_path = {folder}/cache
log_address = /dev/null
log_level = WARNING
db_preallocation = off
conn_timeout = 60
node_timeout = 60
container_update_timeout = 60
[pipeline:main]
pipeline = {service}-server
[app:{service}-server]
use = egg:swift#{service}
"""

_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
log_address = /dev/null
log_level = WARNING
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk tempurl {auth} copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 60
node_timeout = 60
recoverable_node_timeout = 60
error_suppression_limit = 1000000
allow_account_management = true
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
connect_timeout = 60
io_timeout = 60
pool_timeout = 60
error_suppression_limit = 1000000
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_reader = reading
storage_url_scheme = http
[filter:slo]
use = egg:swift#slo
max_manifest_segments = {most_segments}
"""
#: Writes the rings of all services in one process, for a folder and pairs SERVICE=PORT: Swift takes long to import.
_RINGS = """
import sys
from swift.common.ring import RingBuilder

folder, *services = sys.argv[1:]
for service, port in (pair.split("=") for pair in services):
    builder = RingBuilder(part_power=6, replicas=1, min_part_hours=1)
    address = {"ip": "127.0.0.1", "port": int(port)}
    replication = {f"replication_{name}": value for name, value in address.items()}
    builder.add_dev({"region": 1, "zone": 1, **address, **replication, "device": "d1", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{service}.ring.gz")
"""
_FILTERS = ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "tempurl", "s3api", "copy", "dlo")


@dataclass(frozen=True)
class SwiftServer:
    """Where it listens."""

    port: int
    memcached_port: int

    @property
    def authurl(self) -> str:
        return f"http://127.0.0.1:{self.port}/auth/v1.0"

    @property
    def options(self) -> dict[str, str]:
        """Return the options of a driver for a new container."""
        return {
            "swift_authurl": self.authurl,
            "swift_container": f"lab{next(_numbers)}",
            "swift_user": USER,
            "swift_password": PASSWORD,
        }

    def forget_tokens(self) -> None:
        """Invalidate all issued tokens."""
        with socket.create_connection(("127.0.0.1", self.memcached_port)) as memcached:
            memcached.sendall(b"flush_all\r\n")
            assert memcached.recv(100) == b"OK\r\n"

    def connect(self) -> Connection:
        """Return a client of the tests' own."""
        return Connection(self.authurl, USER, PASSWORD)


@contextlib.contextmanager
def run_swift() -> Iterator[SwiftServer]:
    """Run all servers for the duration of a ``with`` block."""
    memcached = programs.require("memcached", "memcached")
    _require("swift-proxy-server")
    folder = Path(tempfile.mkdtemp(prefix="docker-registry-tests-"))
    for name in ("srv/d1", "cache"):
        (folder / name).mkdir(parents=True)
    ports = {service: processes.free_port() for service in (*_SERVICES, "proxy", "memcached")}
    _write_configuration(folder, ports)
    commands = {
        "memcached": [
            memcached,
            "-u",
            getpass.getuser(),
            "-l",
            "127.0.0.1",
            "-p",
            str(ports["memcached"]),
            "-U",
            "0",
            "-m",
            "32",
        ],
        **{
            service: [_require(f"swift-{service}-server"), str(folder / f"{service}.conf"), "-v"]
            for service in (*_SERVICES, "proxy")
        },
    }
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for service, command in commands.items():
            port = ports[service]
            ready = _is_healthy if service == "proxy" else processes.listens
            is_ready = functools.partial(ready, port)
            running = processes.running(command, folder / f"{service}.log", is_ready, is_discarded=True)
            stack.enter_context(running)
        yield SwiftServer(ports["proxy"], ports["memcached"])


def _require(program: str) -> str:
    """Return a program of the package ``swift``, which is beside Python."""
    beside = Path(sys.executable).parent / program
    found = str(beside) if beside.exists() else processes.find(program)
    return found or programs.missing(f"{program} is not installed (pip install swift)")


def _write_configuration(folder: Path, ports: dict[str, int]) -> None:
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = lab\n[storage-policy:0]\nname = Policy-0\ndefault = yes\n"
        # Pages so short that every longer list needs several.
        "[swift-constraints]\ncontainer_listing_limit = 20\n"
    )
    for service in _SERVICES:
        text = _STORAGE.format(user=getpass.getuser(), folder=folder, service=service, port=ports[service])
        (folder / f"{service}.conf").write_text(text)
    arguments = [f"{service}={ports[service]}" for service in _SERVICES]
    programs.Tool([sys.executable, "-c", _RINGS])(str(folder), *arguments)
    text = _PROXY.format(
        user=getpass.getuser(),
        folder=folder,
        port=ports["proxy"],
        memcached=ports["memcached"],
        auth="s3api tempauth",
        most_segments=8,
    )
    text += "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _FILTERS)
    (folder / "proxy.conf").write_text(text)


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5):
            return True
    except OSError:
        return False
