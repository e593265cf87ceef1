"""
Lingering close: ends a connection so that the client receives the last response.

Closing a socket with unread data in its receive buffer resets the connection, and a client that is still sending loses
the response. So incoming data is read and discarded for a moment before the close (RFC 9112, section 9.6).
"""

from __future__ import annotations

import socket
import time
from typing import Any, Final

from docker_registry.server.client_socket import ClientSocket
from docker_registry.server.connections import Activity
from docker_registry.server.request_body import RequestBody
from docker_registry.server.tls import TlsSocket

#: Limits for draining an unread request body before the connection is closed.
DRAIN_BYTES: Final = 1024 * 1024
_DRAIN_SECONDS: Final = 1.0

#: The first byte of a TLS ClientHello; no HTTP request begins with it.
TLS_HELLO: Final = b"\x16"

#: `docker manifest --insecure` falls back to plain HTTP only if it reads HTTP where it expects TLS.
_NO_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"This port speaks HTTP, not HTTPS.\n"
)

#: Response to a client whose address has too many connections.
_TOO_MANY: Final = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"Too many connections from this address."}]}\n'
_REFUSAL: Final = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: 5\r\n"
    b"Connection: close\r\n\r\n%b" % (len(_TOO_MANY), _TOO_MANY)
)
_BLOCK_BYTES: Final = 64 * 1024


def drain(body: RequestBody, sock: Any) -> bool:
    """
    Read and discard the rest of a request body; return whether the connection can be reused.

    Reading stops at DRAIN_BYTES or after a second. If the body is not complete then, a lingering close follows.
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
    linger(sock, until - time.monotonic())
    return False


def linger(sock: Any, seconds: float = _DRAIN_SECONDS) -> None:
    """Shut down sending and discard incoming data until the client closes, for at most *seconds*."""
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
    """Answer a TLS ClientHello on the plain port with a plain-text 400 and close the connection."""
    try:
        client.recv(_BLOCK_BYTES)
        client.sendall(_NO_TLS)
    except OSError:  # the client did not wait for the response
        pass
    finally:
        client.close()


def refuse_connection(client: ClientSocket) -> None:
    """Answer 429 to a client whose address has too many connections and close this one; TLS gets no response."""
    if not isinstance(client, TlsSocket):
        client.begin(Activity.LINGERING)
        try:
            client.sendall(_REFUSAL)
        except OSError:  # closed by the client
            pass
        linger(client)
    client.close()
