"""
The program of the processes that :mod:`docker_registry.cpu_pool.pool` starts: runs jobs until the worker disconnects.

:mod:`docker_registry.cpu_pool.frames` describes the protocol.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from docker_registry import errors
from docker_registry.cpu_pool import frames
from docker_registry.errors import RegistryError, TooLarge

if TYPE_CHECKING:  # importing the drivers takes longer than starting the process
    from docker_registry.drivers.base import Bytes

#: Parts of the input, each an iterable of blocks. A job must consume each part before it requests the next one.
Parts: TypeAlias = "Iterator[Iterable[Bytes]]"

#: A computation: receives its arguments and input, and yields its output in blocks. A RegistryError that it raises is
#: raised again in the worker; any other error ends the process.
Job: TypeAlias = Callable[[Mapping[str, Any], Parts], Iterator[bytes]]


def main(module: str, descriptor: int, *, nice: int, max_memory_bytes: int) -> None:
    """
    Serve the jobs of a worker until it closes the connection.

    Args:
        module: name of the module whose ``JOBS`` maps names to jobs.
        descriptor: this process's end of the socket pair; less than 3, because all others are closed.
        nice: increment of the nice value, for a lower priority.
        max_memory_bytes: address space limit (RLIMIT_AS).
    """
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])  # gunicorn's sockets, which are inheritable
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the worker ends this one
    os.nice(nice)
    jobs: Mapping[str, Job] = importlib.import_module(module).JOBS
    resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.freeze()  # the modules are never garbage
    with socket.socket(fileno=descriptor) as connection:
        connection.setblocking(True)  # gevent made it non-blocking
        server = _Server(connection, jobs)
        try:
            while True:
                server.serve()
        except (EOFError, ConnectionError):
            return


class _Server:
    """Serves jobs one after the other, each within its limit of processor time."""

    def __init__(self, connection: socket.socket, jobs: Mapping[str, Job]) -> None:
        self._connection = connection
        self._jobs = jobs
        self._kind = frames.END  # of the last frame received
        self._is_transferring = False
        self._is_overdue = False

    def serve(self) -> None:
        """Run the next job and send its output."""
        self._kind, content = self._receive()
        request = json.loads(content)
        signal.signal(signal.SIGPROF, self._on_time_limit)
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])  # processor time
        try:
            for block in self._jobs[request["job"]](request["arguments"], self._parts()):
                self._send(frames.BLOCK, block)
        except RegistryError as error:
            self._end(error)
        except MemoryError:
            self._end(TooLarge("The content takes more memory to process than this registry allows."))
        else:
            self._end(None)

    def _end(self, error: RegistryError | None) -> None:
        """Send the outcome and discard the input that the job did not read."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._is_overdue = False
        if error is None:
            self._send(frames.DONE, b"")
        else:
            self._send(frames.ERROR, dump_error(error))
        while self._kind != frames.END:
            self._kind, _ = self._receive()

    def _parts(self) -> Parts:
        """Yield the parts of the input until its end."""
        while True:
            self._kind, content = self._receive()
            if self._kind == frames.END:
                return
            yield self._part(content)

    def _part(self, content: bytes) -> Iterator[bytes]:
        """Yield the blocks of a part, the first of which has been received, up to the frame that ends it."""
        while self._kind == frames.BLOCK:
            yield content
            self._kind, content = self._receive()

    def _on_time_limit(self, *_: object) -> None:
        """Handle the expiry of the time limit: end the job at once, or after the frame being transferred."""
        self._is_overdue = True
        if not self._is_transferring:
            self._check_time()

    def _check_time(self) -> None:
        """
        Raises:
            TooLarge: the time limit has expired.
        """
        if self._is_overdue:
            raise TooLarge("The content takes more processor time than this registry allows.")

    @contextmanager
    def _transfer(self) -> Iterator[None]:
        """Defer the end of an overdue job while a frame is transferred, which would otherwise be cut in the middle."""
        self._is_transferring = True
        try:
            yield
        finally:
            self._is_transferring = False
        self._check_time()

    def _receive(self) -> tuple[bytes, bytes]:
        with self._transfer():
            return frames.read(self._read)

    def _read(self, size: int) -> bytes:
        buffer = bytearray(size)
        view, filled = memoryview(buffer), 0
        while filled < size:
            arrived = self._connection.recv_into(view[filled:])
            if not arrived:
                raise EOFError
            filled += arrived
        return bytes(buffer)

    def _send(self, kind: bytes, content: bytes) -> None:
        view = memoryview(content)
        with self._transfer():
            for start in range(0, max(len(view), 1), frames.MAX_FRAME_BYTES):
                block = view[start : start + frames.MAX_FRAME_BYTES]
                self._connection.sendall(frames.pack(kind, len(block)))
                self._connection.sendall(block)


def dump_error(error: RegistryError) -> bytes:
    """Return an error as JSON, ``{"error": "TooLarge", "sentence": …, "detail": {…}}``."""
    return json.dumps({"error": type(error).__name__, "sentence": error.sentence, "detail": error.detail}).encode()


def parse_error(content: bytes) -> RegistryError:
    """
    Return the error that :func:`dump_error` has serialized.

    Jobs may raise all classes of :mod:`docker_registry.errors` that are constructed from a sentence and their detail.
    """
    document = json.loads(content)
    kind = getattr(errors, document["error"])
    error: RegistryError = kind(document["sentence"], **document["detail"])
    return error
