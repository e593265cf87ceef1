"""
An upstream registry in a process of its own, which sends blobs at a limited rate for all connections together.

``python -m tests.support.servers.limited_upstream FOLDER BYTES_PER_SECOND`` serves the files of the folder as blobs,
and writes its port to its output. :class:`LimitedUpstream` runs it.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import requests

_BLOCK_BYTES = 64 * 1024
_COUNTERS = "/counters"


class Counters(NamedTuple):
    """
    What the upstream has sent.

    Attributes:
        sent: bytes of blobs.
        first_sent_at: when the first of them was sent, on the monotonic clock; 0 if none was.
    """

    sent: int
    first_sent_at: float


class LimitedUpstream:
    """
    Runs the upstream while this context is entered.

    Attributes:
        url: where it listens.
    """

    def __init__(self, folder: Path, bytes_per_second: int) -> None:
        """
        Args:
            folder: has a file for each blob, named by its digest.
        """
        self._command = [sys.executable, "-m", __name__, str(folder), str(bytes_per_second)]

    def __enter__(self):
        self._process = subprocess.Popen(
            self._command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self._port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def counters(self) -> Counters:
        """Return what it has sent."""
        return Counters(*requests.get(self.url + _COUNTERS, timeout=60).json())

    def sends_to(self, pid: int) -> bool:
        """Return whether a process has a connection to it."""
        port = f":{self._port:04X}"
        lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        sockets = {f"socket:[{fields[9]}]" for fields in lines if fields[2].endswith(port) and fields[3] == "01"}
        return any(os.readlink(fd) in sockets for fd in Path(f"/proc/{pid}/fd").iterdir())


class _Rate:
    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._next_at = 0.0
        self.sent, self.first_sent_at = 0, 0.0

    def wait_for(self, size: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._next_at = max(self._next_at, now - 0.01) + size / self._rate
            if self._next_at > now:
                time.sleep(self._next_at - now)
            self.sent += size
            self.first_sent_at = self.first_sent_at or time.monotonic()


def main(folder: str, bytes_per_second: str) -> None:
    """Serve until the process is killed."""
    rate = _Rate(int(bytes_per_second))
    contents = {path.name: path.read_bytes() for path in Path(folder).iterdir()}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == _COUNTERS:
                self.answer(json.dumps([rate.sent, rate.first_sent_at]).encode())
                return
            content = contents.get(self.path.rpartition("/")[2])
            if content is None:
                self.send_error(404)
                return
            start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
            self.send_response_only(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            for offset in range(start, len(content), _BLOCK_BYTES):
                rate.wait_for(min(_BLOCK_BYTES, len(content) - offset))
                self.wfile.write(content[offset : offset + _BLOCK_BYTES])

        def answer(self, content: bytes) -> None:
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Print nothing: clients may break connections."""

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
