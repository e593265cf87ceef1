"""A proxy that truncates a server's responses, or slows its requests, as networks do."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time


class CuttingProxy:
    """
    Forwards bytes from a free port of loopback for the duration of a ``with`` block.

    Attributes:
        cut_after: number of bytes of a response that are forwarded, including its head.
        most_cuts: number of truncated responses, after which all are forwarded completely.
        cuts: number of truncated responses.
        request_bytes_per_second: the rate at which the requests of a connection are forwarded.
    """

    def __init__(self, server_port: int) -> None:
        self.cut_after: float = math.inf
        self.most_cuts: float = math.inf
        self.cuts = 0
        self.request_bytes_per_second: float = math.inf
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> CuttingProxy:  # noqa: PYI034 - Self is newer than Python 3.10
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            for source, target, is_answer in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass_on, args=(source, target, is_answer), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        count = 0
        with source, target, contextlib.suppress(OSError):
            while some := source.recv(65536):
                if is_answer and self.cuts < self.most_cuts and not some.startswith(b"HTTP/1.1 100"):
                    if some.startswith(b"HTTP/1.1"):
                        count = 0
                    count += len(some)
                    if count > self.cut_after:
                        self.cuts += 1
                        target.sendall(some[: len(some) - int(count - self.cut_after)])
                        break
                if not is_answer:
                    time.sleep(len(some) / self.request_bytes_per_second)
                target.sendall(some)
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
