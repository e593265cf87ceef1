"""
How a connection is ended so that its client gets to read the last answer.

To close a connection while bytes that nobody has read lie in it resets it, and a client that is still sending loses the
answer. So what it sends is read away for a moment before.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from typing import Any, Final

from docker_registry.connections import Activity
from docker_registry.direct_body import DirectBody
from docker_registry.sockets import ClientSocket, TlsSocket

#: What is read, and how long, of a body that nobody wanted, before the connection is closed instead.
DRAIN_BYTES: Final = 1024 * 1024
_DRAIN_SECONDS: Final = 1.0

#: The first byte of a TLS hello; no request begins so.
TLS_HELLO: Final = b"\x16"

#: `docker manifest --insecure` turns to plain HTTP only when it reads HTTP where it expects TLS.
_NO_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTP, not HTTPS.\n"
)

#: What a client hears whose address has too many connections.
_TOO_MANY: Final = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"Too many connections from this address."}]}\n'
_REFUSAL: Final = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: 5\r\n"
    b"Connection: close\r\n\r\n%b" % (len(_TOO_MANY), _TOO_MANY)
)
_BLOCK_BYTES: Final = 64 * 1024


def asks_to_close(headers: Iterable[tuple[str, str]]) -> bool:
    """
    Tell whether a client wants its connection closed after the answer (RFC 9112, section 9.6).

    gunicorn takes Connection for a single word, but it is a list: ``close, TE``.
    """
    return any(
        name == "CONNECTION" and "close" in (word.strip().lower() for word in value.split(","))
        for name, value in headers
    )


def drain(body: DirectBody, sock: Any) -> bool:
    """
    Read away the end of a body that nobody wanted; tell whether the connection can be used again.

    A long one is not worth it.
    """
    block = memoryview(bytearray(_BLOCK_BYTES))
    until = time.monotonic() + _DRAIN_SECONDS
    left = DRAIN_BYTES
    sock.settimeout(_DRAIN_SECONDS)
    while left > 0 and time.monotonic() < until:
        arrived = body.readinto(block)
        if not arrived:
            break
        left -= arrived
    if body.complete:
        return True
    let_read_the_answer(sock, until - time.monotonic())
    return False


def let_read_the_answer(sock: Any, seconds: float = _DRAIN_SECONDS) -> None:
    """Wait for the client's end of a connection that is to be closed, but not long."""
    block = bytearray(_BLOCK_BYTES)
    until = time.monotonic() + seconds
    try:
        sock.settimeout(_DRAIN_SECONDS)
        sock.shutdown(socket.SHUT_WR)
        while time.monotonic() < until and sock.recv_into(block):
            pass
    except OSError:
        pass


def refuse_tls(client: Any) -> None:
    """Answer a TLS hello on the plain port in plain text, and close the connection."""
    try:
        client.recv(_BLOCK_BYTES)
        client.sendall(_NO_TLS)
    except OSError:  # it does not wait for an answer
        pass
    finally:
        client.close()


def refuse_connection(client: ClientSocket) -> None:
    """Answer a client whose address has too many connections, and close this one; with TLS without an answer."""
    if not isinstance(client, TlsSocket):
        client.begin(Activity.LINGERING)
        try:
            client.sendall(_REFUSAL)
        except OSError:  # closed by its client
            pass
        let_read_the_answer(client)
    client.close()
