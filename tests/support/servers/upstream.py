"""An upstream registry on a free port of the loopback address, whose responses a test determines, also invalid ones."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, BinaryIO

from tests.support.clients.v2 import digest_of
from tests.support.images import Image

_BLOCK_BYTES = 1024 * 1024


@dataclass
class Answer:
    """
    A response.

    Attributes:
        headers: instead of the usual ones of the same names; None leaves one out.
        announced: value of Content-Length; by default that of the body. None sends the body and closes the connection.
        pause_seconds: after each mebibyte of the body.
        gate: is awaited after the first mebibyte of the body.
        raw: bytes to send instead of everything else.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    announced: int | None = -1
    pause_seconds: float = 0
    gate: threading.Event | None = None
    raw: bytes | None = None


def _send_body(file: BinaryIO, answer: Answer) -> None:
    for start in range(0, len(answer.body), _BLOCK_BYTES):
        file.write(answer.body[start : start + _BLOCK_BYTES])
        time.sleep(answer.pause_seconds)
        if answer.gate is not None and not answer.gate.wait(60):
            raise TimeoutError("the gate was not opened")


class Upstream:
    """
    A registry that has images, and records what it is asked.

    Attributes:
        url: where it listens.
        requests: method, path and headers of each request, in order.
        peer_certificates: whether the client of each request has shown a certificate.
        contents: responses by path below ``/v2/``, without the query; functions are called with the request's headers.
        guard: called with the path and the headers of each request first; returns a response instead of the content.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """
        Args:
            tls: serve HTTPS; None serves HTTP.
        """
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.peer_certificates: list[bool] = []
        self.contents: dict[str, Answer | Callable[[Mapping[str, str]], Answer]] = {}
        self.guard: Callable[[str, Mapping[str, str]], Answer | None] = lambda path, headers: None
        self._connections: list[socket.socket] = []
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                upstream._connections.append(self.connection)

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                upstream.requests.append((self.command, self.path, headers))
                get_certificate = getattr(self.connection, "getpeercert", lambda **_: None)
                upstream.peer_certificates.append(get_certificate(binary_form=True) is not None)
                path = self.path.removeprefix("/v2/").partition("?")[0]
                found = upstream.guard(path, headers) or upstream.contents.get(path, Answer(status=404))
                answer = found(headers) if callable(found) else found
                if answer.raw is not None:
                    self.wfile.write(answer.raw)
                    self.close_connection = True
                    return
                self.send_response_only(answer.status, HTTPStatus(answer.status).phrase)
                length = len(answer.body) if answer.announced == -1 else answer.announced
                sent = {"Content-Length": None if length is None else str(length), **answer.headers}
                for name, value in sent.items():
                    if value is not None:
                        self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    _send_body(self.wfile, answer)
                self.close_connection = length != len(answer.body)

            do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Print nothing: clients may break connections."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._encrypt(tls)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def _encrypt(self, tls: ssl.SSLContext | None) -> None:
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self) -> None:
        """Stop listening, and close all connections; may be called repeatedly."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def add(self, name: str, tag: str, image: Image) -> None:
        """Have an image under a tag."""
        self.put_manifest(name, tag, image.manifest, image.media_type)
        for digest, content in image.blobs.items():
            self.contents[f"{name}/blobs/{digest}"] = Answer(content, headers={"Docker-Content-Digest": digest})

    def put_manifest(self, name: str, tag: str, payload: bytes, media_type: str) -> None:
        """Have a manifest under a tag and its digest."""
        digest = digest_of(payload)
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
        for reference in (tag, digest):
            self.contents[f"{name}/manifests/{reference}"] = Answer(payload, headers=headers)

    def asked(self, method: str = "") -> list[str]:
        """Return the paths of all requests, or of those with a method, below ``/v2/``."""
        return [path.removeprefix("/v2/") for verb, path, _ in self.requests if method in ("", verb)]
