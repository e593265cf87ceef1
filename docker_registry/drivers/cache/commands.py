"""
Commands of Redis, without the layers of redis-py's client.

The client takes about 200 function calls for each command: it looks for a connection under a lock, waits for the event
loop to learn that nothing has arrived on it, prepares retries and records metrics. Here the connections, which are
redis-py's, are kept and used directly.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha1
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Final

from gevent import monkey

if TYPE_CHECKING:
    from redis import Redis

#: Idle connections that are kept; after a burst of requests, further ones are closed.
MAX_IDLE: Final = 100

#: gevent's own poll would let other greenlets run, and takes longer.
_poll: Final = monkey.get_original("select", "poll")


class RedisCommands:
    """Sends commands on connections of their own, which greenlets and threads may share."""

    def __init__(self, redis: Redis) -> None:
        from redis.exceptions import ResponseError

        self._pool: Any = redis.connection_pool
        is_named = signature(self._pool.get_connection).parameters["command_name"].default is Parameter.empty
        self._options = ("_",) if is_named else ()  # redis-py before 5.3 expects the name of a command
        self._idle: list[Any] = []
        self._response_error = ResponseError
        self._pack: Any = packed
        with suppress(ImportError):  # an optional part of redis-py
            from hiredis import pack_command

            self._pack = pack_command

    def send(self, *command: str | bytes | int) -> Any:
        """
        Send a command once, and return its response.

        Raises:
            RedisError, OSError: there was no response, or it is an error.
        """
        connection = self._connection()
        try:
            connection.send_packed_command([self._pack(command)], check_health=False)
            response = connection.read_response()
        except self._response_error:  # a complete response
            self._keep(connection)
            raise
        except BaseException:
            self._drop(connection)
            raise
        self._keep(connection)
        return response

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            with suppress(IndexError):  # another thread was faster
                self._drop(self._idle.pop())

    def _connection(self) -> Any:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            # The pool of Sentinel disowns connections to a former master.
            if _is_ready(connection) and self._pool.owns_connection(connection):
                return connection
            self._drop(connection)
        return self._pool.get_connection(*self._options)

    def _keep(self, connection: Any) -> None:
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: Any) -> None:
        connection.disconnect()
        self._pool.release(connection)


class Script:
    """A Lua script, which Redis knows by its hash."""

    def __init__(self, commands: RedisCommands, text: str) -> None:
        from redis.exceptions import NoScriptError

        self._commands = commands
        self._text = text
        self._hash = sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._unknown = NoScriptError

    def run(self, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """
        Run the script and return its result.

        Raises:
            RedisError, OSError: as for :meth:`RedisCommands.send`.
        """
        try:
            return self._commands.send("EVALSHA", self._hash, len(keys), *keys, *arguments)
        except self._unknown:  # Redis has been restarted
            return self._commands.send("EVAL", self._text, len(keys), *keys, *arguments)


def packed(command: tuple[str | bytes | int, ...]) -> bytes:
    """Return a command as it is sent (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    parts = [b"*%d\r\n" % len(command)]
    for item in command:
        text = item if isinstance(item, bytes) else item.encode() if isinstance(item, str) else b"%d" % item
        parts += (b"$%d\r\n" % len(text), text, b"\r\n")
    return b"".join(parts)


def _is_ready(connection: Any) -> bool:
    """Return whether nothing has arrived on an idle connection, such as its end, and this process has opened it."""
    sock = getattr(connection, "_sock", None)  # not part of redis-py's documented interface
    if sock is None or connection.pid != os.getpid():
        return False
    poll = _poll()
    try:
        poll.register(sock.fileno(), select.POLLIN)
    except ValueError:  # closed
        return False
    return not poll.poll(0) and not getattr(sock, "pending", int)()
