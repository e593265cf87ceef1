"""
A proxy between the registry and its store that fails as networks and stores do; a seed makes failures reproducible.

Each request has its own connection, so that a fault affects one request.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

_HEAD_BYTES: Final = 64 * 1024
_BLOCK_BYTES: Final = 64 * 1024

#: The possible faults of a request.
FAULTS: Final = (
    "refused",  # the connection ends before the first byte
    "500",
    "503",
    "delayed",
    "cut off",  # the request ends in the middle
    "unheard",  # the request is processed, and its response lost
    "truncated",  # the response ends in the middle
    "reset",  # … with a reset
)


def _answer(status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>Try again.</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


_ANSWERS: Final = {
    "500": _answer("500 Internal Server Error", "InternalError"),
    "503": _answer("503 Slow Down", "SlowDown"),
}


@dataclass
class FaultProxy:
    """
    Listens on a free port of loopback.

    Attributes:
        rate: the share of requests with a fault.
        met: how often each fault occurred.
        requests: the first line of every received request; cleared by the test that counts.
    """

    target: int
    seed: int = 0
    rate: float = 0.0
    delay_seconds: float = 0.3
    met: Counter[str] = field(default_factory=Counter)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._faults: Sequence[str] = FAULTS
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    @contextlib.contextmanager
    def faulty(self, rate: float, faults: Sequence[str] = FAULTS) -> Iterator[None]:
        """Apply faults to a fraction of all requests for the duration of a ``with`` block; some still succeed."""
        self.rate, self._faults = rate, faults
        try:
            yield
        finally:
            self.rate = 0.0

    def unreachable(self) -> contextlib.AbstractContextManager[None]:
        """Refuse every request for the duration of a ``with`` block."""
        return self.faulty(1.0, ("refused",))

    # ------------------------------------------------------------------------------------------------- steps

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head, rest = _read_head(client)
            if not head:
                return
            self.requests.append(head.partition(b"\r\n")[0].decode("latin-1"))
            fault = self._choose()
            if fault == "refused":
                return
            if fault in _ANSWERS:
                client.sendall(_ANSWERS[fault])
                _drain(client)
                return
            if fault == "delayed":
                time.sleep(self.delay_seconds)
            self._forward(client, _with_close(head) + rest, fault)

    def _choose(self) -> str:
        if self._random.random() >= self.rate:
            return ""
        fault = self._random.choice(self._faults)
        self.met[fault] += 1
        return fault

    def _forward(self, client: socket.socket, beginning: bytes, fault: str) -> None:
        with socket.create_connection(("127.0.0.1", self.target)) as store:
            if fault == "cut off":
                store.sendall(beginning[:-1])
                return
            store.sendall(beginning)
            upward = threading.Thread(target=_pump, args=(client, store, None), daemon=True)
            upward.start()
            limit = self._random.randrange(1, 2000) if fault in ("truncated", "reset") else None
            _pump(store, None if fault == "unheard" else client, limit)
            # A socket is closed only when no greenlet waits for it.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RD if fault == "reset" else socket.SHUT_RDWR)
            upward.join()
            if fault == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    """Read a request up to the empty line, and the bytes received with it."""
    received = b""
    while b"\r\n\r\n" not in received and len(received) < _HEAD_BYTES:
        block = client.recv(_BLOCK_BYTES)
        if not block:
            return b"", b""
        received += block
    head, mark, rest = received.partition(b"\r\n\r\n")
    return head + mark, rest


def _with_close(head: bytes) -> bytes:
    """Ask the store to end the connection with its answer."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])


def _pump(source: socket.socket, target: socket.socket | None, limit: int | None) -> None:
    """Forward received bytes up to a limit."""
    passed = 0
    with contextlib.suppress(OSError):
        while block := source.recv(_BLOCK_BYTES):
            if limit is not None:
                block = block[: limit - passed]
            passed += len(block)
            if target is not None:
                target.sendall(block)
            if limit is not None and passed >= limit:
                return


def _drain(client: socket.socket) -> None:
    """Drain the client's remaining bytes so that it receives the response."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        client.settimeout(1)
        while client.recv(_BLOCK_BYTES):
            pass
