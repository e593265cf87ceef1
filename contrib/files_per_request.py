"""
Count the files of this project that a request runs through, in a worker of a real server.

    python contrib/files_per_request.py [--list | --functions] [ROOT]

A function call in a file counts that file. ROOT is the checkout that runs, by default this one. With ``--list`` each
file is named, with the number of its functions that ran and of its lines; with ``--functions`` also these functions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType

import requests

HERE = Path(__file__).resolve()
CHECKOUT = HERE.parents[1]

#: Started instead of the console script: traces every call in the workers that gunicorn forks.
_TRACED_SERVER = """
import sys
sys.path.insert(0, {checkout!r})
from contrib.files_per_request import trace_workers
sys.path.insert(0, {root!r})
trace_workers({folder!r}, {root!r})
from docker_registry.cli import main
sys.exit(main())
"""

#: One that gunicorn does not use.
SIGNAL = signal.SIGRTMIN + 3

#: How often each request is sent, and how long what it runs is recorded: the worker writes its log after the response.
#: Some background work runs once a second, and would often coincide with all of fewer and longer runs.
RUNS = 5
RECORDED_SECONDS = 0.2

#: The functions that ran, by file.
Files = dict[str, list[str]]

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def trace_workers(folder: str, root: str) -> None:
    """In every process forked from now on, write the functions that ran since the last signal when SIGNAL comes."""
    package = str(Path(root) / "docker_registry") + os.sep

    def start() -> None:
        seen: set[CodeType] = set()

        def profile(frame: FrameType, _event: str, _argument: object) -> None:
            if frame.f_code.co_filename.startswith(package):
                seen.add(frame.f_code)

        def dump(*_: object) -> None:
            found, path = _by_file(seen, package), Path(folder) / str(os.getpid())
            seen.clear()
            path.with_suffix(".new").write_text(json.dumps(found))
            path.with_suffix(".new").replace(path)

        signal.signal(SIGNAL, dump)
        threading.setprofile(profile)
        sys.setprofile(profile)

    os.register_at_fork(after_in_child=start)


def _by_file(functions: Iterable[CodeType], package: str) -> Files:
    """Return the functions by file, named relative to the package; each with its first line."""
    found: Files = {}
    for code in sorted(functions, key=lambda code: code.co_firstlineno):
        name = f"{code.co_name}:{code.co_firstlineno}"
        found.setdefault(code.co_filename.removeprefix(package), []).append(name)
    return found


class TracedServer:
    """A server with one worker, whose calls are recorded."""

    def __init__(self, server: object, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def files(self) -> Files:
        """Return the files that ran since this was called last, with their functions."""
        (pid,) = self.server.worker_pids()  # type: ignore[attr-defined]
        path = self.folder / str(pid)
        path.unlink(missing_ok=True)
        os.kill(pid, SIGNAL)
        for _ in range(500):
            if path.exists():
                return dict(json.loads(path.read_text()))
            time.sleep(0.01)
        raise RuntimeError("the worker does not respond to the signal")


def measure(traced: TracedServer, url: str) -> dict[str, Files]:
    """
    Send each request with new content, after its prerequisites, and return the files that it ran through.

    Each is sent :data:`RUNS` times, and only files of all runs count, because background work may coincide with one.
    """
    config = b"{}"
    found: dict[str, Files] = {}
    session = requests.Session()

    def send(method: str, path: str, **options: object) -> requests.Response:
        response = session.request(method, url + path, timeout=30, **options)  # type: ignore[arg-type]
        response.raise_for_status()
        return response

    def record(row: str, method: str, path: str, **options: object) -> None:
        traced.files()
        send(method, path, **options)
        time.sleep(RECORDED_SECONDS)
        files = traced.files()
        found[row] = {name: functions for name, functions in found.get(row, files).items() if name in files}

    def blob(content: bytes) -> dict[str, object]:
        send("POST", f"/v2/acme/web/blobs/uploads/?digest={digest(content)}", data=content)
        return {"mediaType": "application/octet-stream", "digest": digest(content), "size": len(content)}

    def manifest(number: int) -> bytes:
        document = {
            "schemaVersion": 2, "mediaType": _MANIFEST_TYPE, "config": blob(config), "layers": [blob(layer(number))],
        }  # fmt: skip
        return json.dumps(document).encode()

    payloads = [manifest(number) for number in range(RUNS + 1)]
    headers = {"Content-Type": _MANIFEST_TYPE}
    send("PUT", "/v2/acme/web/manifests/v0", data=payloads[0], headers=headers)  # creates the repository
    for number in range(1, RUNS + 1):
        path, image = f"/v2/acme/web/manifests/v{number}", f"{number:064x}"
        record("PUT manifest", "PUT", path, data=payloads[number], headers=headers)
        record("GET manifest", "GET", path)
        record("GET blob", "GET", f"/v2/acme/web/blobs/{digest(layer(number))}")
        record("DELETE tag", "DELETE", path)
        send("PUT", f"/v1/images/{image}/json", data=json.dumps({"id": image}))
        record("V1 PUT layer", "PUT", f"/v1/images/{image}/layer", data=layer(number))
    return found


def layer(number: int) -> bytes:
    """Return the content of a layer."""
    return number.to_bytes(1024, "big")


def digest(content: bytes) -> str:
    """Return the digest of a content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def small_write(root: Path, folder: Path) -> Files:
    """Return the files that one ``put_content`` of the file driver runs through, in this process."""
    sys.path.insert(0, str(root))
    from docker_registry.drivers.file import FileDriver

    driver = FileDriver(str(folder))
    driver.put_content("a/b", b"1")
    package, seen = str(root / "docker_registry") + os.sep, set[CodeType]()

    def profile(frame: FrameType, _event: str, _argument: object) -> None:
        if frame.f_code.co_filename.startswith(package):
            seen.add(frame.f_code)

    threading.setprofile(profile)
    sys.setprofile(profile)
    driver.put_content("a/b", b"2")
    sys.setprofile(None)
    threading.setprofile(None)  # type: ignore[arg-type]
    return _by_file(seen, package)


def main() -> None:
    """Print the number of files that each request runs through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=CHECKOUT, help="the checkout to run")
    parser.add_argument("--list", action="store_true", help="name the files, and what runs of them")
    parser.add_argument("--functions", action="store_true", help="name also the functions that ran, with their lines")
    chosen = parser.parse_args()
    root = chosen.root.resolve()
    sys.path.insert(0, str(CHECKOUT))
    from tests.support.servers.registry import Server

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = _TRACED_SERVER.format(checkout=str(CHECKOUT), root=str(root), folder=name)
        command = (sys.executable, "-c", program)
        with Server(folder / "store", command=command, root=root, SEARCH_BACKEND="") as server:
            found = measure(TracedServer(server, folder), server.url)
        found["small put_content"] = small_write(root, folder / "driver")
    for row, files in found.items():
        print(f"{row:20} {len(files):3}")
        for name, functions in sorted(files.items()) if chosen.list or chosen.functions else ():
            lines = len((root / "docker_registry" / name).read_text().splitlines())
            print(f"    {name:45} {len(functions):3} functions, {lines:3} lines")
            if chosen.functions:
                print(f"        {', '.join(functions)}")


if __name__ == "__main__":
    main()
