"""
A pool of processes for computations that grow with stored content, such as reading the tar of a layer,
and for others that take long.

A worker must not run them itself: pure Python code holds the interpreter lock, and native threads are needed for
writing. The pool starts a few processes on demand and ends them after they have been idle for a while. They run at low
priority and with bounded memory. A job is cancelled by killing its process.

Input and output are streams: the greenlet that needs the output reads it, and another greenlet reads the input from the
store and sends it. Without gevent, as in commands, jobs run in the calling thread.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import gevent
import gevent.socket
from gevent import monkey
from gevent.lock import BoundedSemaphore

from docker_registry import dependencies
from docker_registry.concurrency import check_client, run_in_background
from docker_registry.cpu_pool import frames
from docker_registry.cpu_pool.process import Job, parse_error
from docker_registry.drivers.base import Bytes
from docker_registry.errors import Overloaded, RegistryError

logger = logging.getLogger(__name__)

#: Input of a job: parts, each an iterable of blocks.
Source = Iterable[Iterable[Bytes]]

#: Time after which an idle process is ended, unless a pool sets another time.
IDLE_SECONDS: Final = 30.0

#: How often a waiting request checks whether its client is still connected.
_CHECK_SECONDS: Final = 1.0

_NICE: Final = 10

_PROGRAM: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from docker_registry.cpu_pool.process import main; "
    "main(sys.argv[2], 0, nice=int(sys.argv[3]), max_memory_bytes=int(sys.argv[4]))"
)

# gevent's subprocess forks the whole worker first; posix_spawn starts the program directly.
_posix_spawn: Final = monkey.get_original("os", "posix_spawn")
_waitpid: Final = monkey.get_original("os", "waitpid")


class CpuPool:
    """Runs jobs in a bounded number of processes."""

    def __init__(
        self,
        module: str,
        jobs: Mapping[str, Job],
        *,
        max_processes: int = 2,
        max_memory_bytes: int = 1024**3,
        max_seconds: float = 300,
        wait_seconds: float = 20,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """
        Args:
            module: name of the module that defines *jobs* as ``JOBS``; the processes import it.
            max_processes: maximum number of jobs that run at a time.
            max_memory_bytes: address space limit of each process.
            max_seconds: processor time of a job, after which it fails with TooLarge.
            wait_seconds: how long a job waits for a free process.
            idle_seconds: time after which an idle process is ended.
        """
        self._module = module
        self._jobs = jobs
        self._max_memory_bytes = max_memory_bytes
        self._max_seconds = max_seconds
        self._wait_seconds = wait_seconds
        self._idle_seconds = idle_seconds
        self._free = BoundedSemaphore(max_processes)
        self._idle: list[_Process] = []

    def run(self, job: str, arguments: Mapping[str, Any], source: Source = ()) -> Iterator[bytes]:
        """
        Run a job and yield its output as it arrives. Ending the iteration early cancels the job.

        An idle process may have been killed, for example for lack of memory. So a job without input is repeated once,
        in a new process, if a process that served earlier jobs ends before it answers.

        Args:
            job: name of the job.
            arguments: JSON object for the job.
            source: input of the job, read in another greenlet.

        Raises:
            Overloaded: no process became free in time, or the process could not be started or died.
            ClientLeft: the client of the current request disconnected meanwhile.
            TooLarge: the job exceeded its limit of time or memory.
            RegistryError: the error that the job or reading *source* raised.
        """
        dependencies.make_uncacheable()  # reads of the job are not recorded
        if not monkey.is_module_patched("threading"):
            yield from self._jobs[job](arguments, iter(source))
            return
        self._acquire()
        try:
            request = json.dumps({"job": job, "arguments": arguments, "seconds": self._max_seconds}).encode()
            if self._idle:
                process = self._idle.pop()
                try:
                    yield from self._run_in(process, request, source)
                    return
                except Overloaded:
                    if source or process.has_answered:
                        raise
                    logger.warning("a job of %s is repeated: the process may have ended before it", self._module)
            yield from self._run_in(self._start(), request, source)
        finally:
            self._free.release()

    def _run_in(self, process: _Process, request: bytes, source: Source) -> Iterator[bytes]:
        is_reusable = False
        try:
            yield from process.run(request, source)
            is_reusable = True
        except RegistryError:
            is_reusable = process.is_between_jobs
            raise
        finally:
            if is_reusable:
                self._make_idle(process)
            else:
                process.end()

    def result(self, job: str, arguments: Mapping[str, Any], source: Source = ()) -> Any:
        """Run a job whose output is a small JSON document, and return the parsed document (see :meth:`run`)."""
        return json.loads(b"".join(self.run(job, arguments, source)))

    def _acquire(self) -> None:
        waited = 0.0
        while not self._free.acquire(timeout=_CHECK_SECONDS):
            check_client()
            waited += _CHECK_SECONDS
            if waited >= self._wait_seconds:
                raise Overloaded("Too many computations are in progress. Try again later.")

    def _start(self) -> _Process:
        try:
            return _Process(self._module, self._max_memory_bytes)
        except OSError as error:
            logger.error("a process of %s cannot be started: %s", self._module, error)
            raise Overloaded from None

    def _make_idle(self, process: _Process) -> None:
        self._idle.append(process)
        process.idle_timer = gevent.spawn_later(self._idle_seconds, self._end_idle, process)

    def _end_idle(self, process: _Process) -> None:
        if process in self._idle:
            self._idle.remove(process)
            process.end()


class _Process:
    """
    One process of the pool.

    Attributes:
        is_between_jobs: whether the protocol is between jobs, so that another one may begin.
        has_answered: whether it has sent a frame for the current job.
        idle_timer: greenlet that ends the process when it stays idle.
    """

    idle_timer: gevent.Greenlet[..., None] | None = None

    def __init__(self, module: str, max_memory_bytes: int) -> None:
        self.is_between_jobs = True
        self.has_answered = False
        self._module = module
        self._connection, child_end = gevent.socket.socketpair()
        self._connection.settimeout(_CHECK_SECONDS)
        # The feeder sends through an object of its own: the timeout of a socket object applies to both directions.
        self._input = self._connection.dup()
        self._input.settimeout(None)
        with child_end:
            arguments = (json.dumps(sys.path), module, str(_NICE), str(max_memory_bytes))
            self._pid = _posix_spawn(
                sys.executable,
                (sys.executable, "-c", _PROGRAM, *arguments),
                os.environ,
                file_actions=(
                    (os.POSIX_SPAWN_DUP2, child_end.fileno(), 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                ),
            )

    def run(self, request: bytes, source: Source) -> Iterator[bytes]:
        """Run a job and yield its output."""
        if self.idle_timer is not None:
            self.idle_timer.kill(block=False)
        self.is_between_jobs = self.has_answered = False
        feeder = _Feeder(self._input, request, source, self._kill)
        try:
            while True:
                kind, content = frames.read(self._receive)
                self.has_answered = True
                if kind != frames.BLOCK:
                    break
                yield content
            feeder.stop()
        except (EOFError, ConnectionError):
            if feeder.error is not None:
                raise feeder.error from None
            logger.error("a process of %s has ended unexpectedly", self._module)
            raise Overloaded from None
        finally:
            feeder.kill()
        self.is_between_jobs = True
        if kind == frames.ERROR:
            raise parse_error(content)

    def end(self) -> None:
        """Kill the process, even during a job."""
        self._connection.close()
        self._input.close()
        self._kill()
        run_in_background(_reap, self._pid)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _receive(self, size: int) -> bytes:
        buffer = bytearray(size)
        view, filled = memoryview(buffer), 0
        while filled < size:
            try:
                arrived = self._connection.recv_into(view[filled:])
            except TimeoutError:
                check_client()
                continue
            if not arrived:
                raise EOFError
            filled += arrived
        return bytes(buffer)


class _Feeder:
    """
    Sends the input of a job from its own greenlet.

    Attributes:
        error: the error that reading the input raised; None if it raised none.
    """

    def __init__(
        self, connection: gevent.socket.socket, request: bytes, source: Source, abort: Callable[[], object]
    ) -> None:
        """
        Args:
            abort: called to kill the process if reading the input fails.
        """
        self.error: Exception | None = None
        self._connection = connection
        self._abort = abort
        self._is_sending = True
        self._greenlet = gevent.spawn(self._run, request, source)

    def stop(self) -> None:
        """End the input after the current frame; the process discards input that it does not need."""
        self._is_sending = False
        self._greenlet.join()
        if self.error is not None:
            raise self.error

    def kill(self) -> None:
        """Stop sending at once, also within a frame."""
        self._greenlet.kill()

    def _run(self, request: bytes, source: Source) -> None:
        try:
            self._send(frames.JOB, request)
            for part in source:
                for block in part:
                    if not self._is_sending:
                        break
                    self._send_block(block)
                if not self._is_sending:
                    break
                self._send(frames.END_OF_PART, b"")
            self._send(frames.END, b"")
        except ConnectionError:  # the process has ended; the reader reports it
            pass
        except Exception as error:  # noqa: BLE001 - raised again in the greenlet that reads the output
            self.error = error
            self._abort()  # ends the reader's wait

    def _send_block(self, block: Bytes) -> None:
        view = memoryview(block)
        for start in range(0, len(view), frames.MAX_FRAME_BYTES):
            self._send(frames.BLOCK, view[start : start + frames.MAX_FRAME_BYTES])

    def _send(self, kind: bytes, content: Bytes) -> None:
        self._connection.sendall(frames.pack(kind, len(content)))
        if len(content):
            self._connection.sendall(content)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        _waitpid(pid, 0)
