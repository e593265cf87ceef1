"""A server that sends prepared responses, however wrong they are."""

from __future__ import annotations

import contextlib
import socket
import threading


class Scripted:
    """
    A server that sends a prepared response to each request; an empty one closes the connection instead.

    A response may be a tuple of parts, which are sent one after the other. After a response with ``connection: close``
    the connection is closed.

    Attributes:
        accepted: number of connections.
        requests: the heads of all requests.
    """

    def __init__(self, *responses, context=None, host="127.0.0.1"):
        self._responses = list(responses)
        self._listener = socket.create_server((host, 0))
        self._context = context
        self.accepted = 0
        self.requests = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # wake the thread that accepts
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    @property
    def address(self):
        return self._listener.getsockname()

    @property
    def url(self):
        return "http://{}:{}".format(*self.address)

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.accepted += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection, contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                while b"\r\n\r\n" in (request := self._receive(connection)) and self._responses:
                    self.requests.append(request)
                    response = self._responses.pop(0)
                    parts = response if isinstance(response, tuple) else (response,)
                    for part in parts:
                        connection.sendall(part)
                    if not response or b"connection: close" in parts[0]:
                        return

    def _receive(self, connection):
        received = b""
        while b"\r\n\r\n" not in received and (block := connection.recv(65536)):
            received += block
        return received
