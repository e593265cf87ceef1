"""The access log: gunicorn's logger as an observer of exchanges."""

from __future__ import annotations

import base64
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from typing import Any, Final
from urllib.parse import unquote

from gevent.lock import RLock
from gunicorn.config import AccessLogFormat
from gunicorn.glogging import Logger

from docker_registry.http.exchange import Exchange, Observer, Repetitions
from docker_registry.logs.exchange_lines import prepare_request_line, repeated_request_lines, request_line
from docker_registry.logs.line_writer import LineStream, LineWriter, is_regular, write_all
from docker_registry.logs.setup import JSON, JsonFormatter

#: Attribute of gunicorn's configuration: the format of messages.
FORMAT: Final = "registry_log_format"

registry_logger = logging.getLogger("docker_registry")

#: Beginnings of the routes that orchestrators and Prometheus request every few seconds; logged at level debug only.
_HEALTH_CHECKS: Final = ("health.", "metrics.", "status.show_status")


def escape(text: str) -> str:
    """Return text from a client on one line, with control and other unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class AccessLog(Logger):  # type: ignore[misc]
    """
    gunicorn's logger; response sizes include bytes that the kernel sent of files, and each entry is one line.

    Under :class:`~docker_registry.server.worker.RegistryWorker` it is an observer; elsewhere gunicorn calls it.
    """

    is_observer = False

    def __init__(self, cfg: Any) -> None:
        self._entries: LineWriter | None = None
        self._diverted: list[tuple[logging.StreamHandler[Any], Any, LineWriter]] = []
        # Each SIGUSR1 is handled in a greenlet of its own; by other workers in the signal handler, so reentrant.
        self._reopening = RLock()
        super().__init__(cfg)

    def setup(self, cfg: Any) -> None:
        """Open the logs; see gunicorn. The format of its own messages is that of the registry's."""
        super().setup(cfg)
        if getattr(cfg, FORMAT, "") == JSON:
            for handler in self.error_log.handlers:
                handler.setFormatter(JsonFormatter())

    def observer(self, log_format: str) -> Observer | None:
        """
        Return the observer that writes all further entries.

        Args:
            log_format: ``text``, in gunicorn's access log format, or ``json``.

        Returns:
            None if nothing is logged, or the format contains headers or variables of the environment, which exchanges
            lack: then gunicorn writes the entries.
        """
        is_json = log_format == JSON
        self.is_observer = self.access_log_enabled and (is_json or "{" not in self.cfg.access_log_format)
        if not self.is_observer:
            return None
        put = self._open()
        if is_json:
            return BatchEntries(put, request_line, prepare_request_line, repeated_request_lines)
        if self.cfg.access_log_format == AccessLogFormat.default:
            return BatchEntries(put, _usual_line, _prepare_usual_line, _repeated_usual_lines)
        return Entries(put, self._line)

    def divert(self) -> None:
        """Write the messages of this worker outside the event loop, too."""
        for handler in self.error_log.handlers:
            if type(handler) in (logging.StreamHandler, logging.FileHandler):
                stream = handler.stream
                writer = _writer("error log", stream.fileno)
                self._diverted.append((handler, stream, writer))
                handler.stream = LineStream(writer)  # setStream would flush, which a full disk makes fail

    def reopen_files(self) -> None:
        """
        Open log files again, after they were renamed; see gunicorn, which closes the streams of their handlers.

        The files stay as they are if one cannot be opened: gunicorn would fail at each message.
        """
        with self._reopening:
            files = [
                handler
                for handler in (*self.error_log.handlers, *self.access_log.handlers)
                if isinstance(handler, logging.FileHandler)
            ]
            if not all(map(self._create, files)):
                return
            is_diverted = bool(self._diverted)
            self._end_diversion()
            for handler in files:
                _discard_unwritten(handler)
            super().reopen_files()
            if is_diverted:
                self.divert()

    def _create(self, handler: logging.FileHandler) -> bool:
        """Open the file of a handler; create it for the user of the workers, as gunicorn does when it starts."""
        try:
            handler._open().close()  # noqa: SLF001 - as gunicorn does
        except OSError as error:
            self.error_log.error("%s cannot be opened again: %s", handler.baseFilename, error.strerror)
            return False
        with suppress(OSError):  # only root may do this
            os.chown(handler.baseFilename, self.cfg.user, self.cfg.group)
        return True

    def finish(self) -> None:
        """Write the remaining lines. Later messages, such as the error that ended the worker, are written at once."""
        if self._entries is not None:
            self._entries.close()
        with self._reopening:
            self._end_diversion()

    def _end_diversion(self) -> None:
        for handler, stream, writer in self._diverted:
            writer.close()
            handler.stream = stream
        self._diverted.clear()

    def _open(self) -> Callable[[str], object]:
        """Return the function that writes lines of the access log, one or several in a text."""
        handlers = self.access_log.handlers
        if len(handlers) != 1 or not isinstance(handlers[0], logging.StreamHandler):  # such as syslog
            return self._pass_on
        handler = handlers[0]

        def descriptor() -> int:
            return int(handler.stream.fileno())  # gunicorn opens the log again at SIGUSR1

        self._entries = _writer("access log", descriptor)
        return self._entries.write

    def _pass_on(self, lines: str) -> None:
        for line in lines.removesuffix("\n").split("\n"):
            self.access_log.info("%s", line)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write the entry of a request, if no observer does; called by gunicorn."""
        if not self.is_observer:
            super().access(resp, req, environ, request_time)

    def _line(self, exchange: Exchange) -> str:
        micros = int(exchange.seconds * 1_000_000)
        target = exchange.target
        path, _, query = target.partition("?")
        atoms = {
            "h": exchange.client,
            "l": "-",
            "u": exchange.user or "-",
            "t": self.now(),
            "r": f"{exchange.method} {target} {exchange.protocol}",
            "s": exchange.status,
            "m": exchange.method,
            "U": unquote(path),
            "q": query,
            "H": exchange.protocol,
            "b": exchange.bytes_out,
            "B": exchange.bytes_out,
            "f": exchange.referrer or "-",
            "a": exchange.user_agent or "-",
            "T": micros // 1_000_000,
            "D": micros,
            "M": micros // 1000,
            "L": f"{exchange.seconds:.6f}",
            "p": f"<{os.getpid()}>",
        }
        return str(self.cfg.access_log_format % self.atoms_wrapper_class(_printable(atoms))) + "\n"

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> dict[str, Any]:
        """Return the values that gunicorn puts into an entry that it writes itself."""
        sent = resp.sent + getattr(resp.sock, "file_bytes", 0)
        return _printable({**super().atoms(resp, req, environ, request_time), "b": str(sent), "B": sent})


def _writer(name: str, descriptor: Callable[[], int]) -> LineWriter:
    def write(content: bytes) -> None:
        write_all(descriptor(), content)

    return LineWriter(name, write, is_file=is_regular(descriptor()))


def _discard_unwritten(handler: logging.FileHandler) -> None:
    """Open the file of a handler again if lines cannot be written: closing it later would raise the same error."""
    try:
        handler.flush()
    except OSError:  # such as a full disk
        with suppress(OSError):
            handler.close()
        handler.stream = handler._open()  # noqa: SLF001 - as gunicorn does


class Entries:
    """Writes an entry for each exchange; an observer."""

    def __init__(self, put: Callable[[str], object], line_of: Callable[[Exchange], str]) -> None:
        """
        Args:
            put: writes entries.
            line_of: makes the entry of an exchange.
        """
        self._put = put
        self._line_of = line_of

    def __call__(self, exchange: Exchange) -> None:
        """Write the entry of an exchange."""
        if exchange.method and not _is_quiet(exchange):  # without a method: unparsable, see the error log
            self._put(self._line_of(exchange))


class BatchEntries(Entries):
    """The same, for formats whose entries of repeated exchanges can be made together."""

    def __init__(
        self,
        put: Callable[[str], object],
        line_of: Callable[[Exchange], str],
        prepare: Callable[[Exchange], Any],
        repeated_lines: Callable[[Sequence[Any], Repetitions], str],
    ) -> None:
        """
        Args:
            put, line_of: see :class:`Entries`.
            prepare: see :class:`~docker_registry.http.exchange.BatchObserver`. Responses of health checks are not
                cached, so they are never repeated.
            repeated_lines: makes the entries of repeated exchanges.
        """
        super().__init__(put, line_of)
        self.prepare = prepare
        self._repeated_lines = repeated_lines

    def observe_repeated(self, prepared: Sequence[Any], repeated: Repetitions) -> None:
        """Write the entries of repeated exchanges."""
        self._put(self._repeated_lines(prepared, repeated))


def _is_quiet(exchange: Exchange) -> bool:
    return exchange.route.startswith(_HEALTH_CHECKS) and not registry_logger.isEnabledFor(logging.DEBUG)


def _usual_line(exchange: Exchange) -> str:
    """Return an entry in gunicorn's default format, in a quarter of the time of gunicorn."""
    return f"{exchange.client}{_after_client(exchange)} {_when(int(time.time()))} {_ending(exchange)}\n"


def _prepare_usual_line(exchange: Exchange) -> tuple[str, str]:
    return f"{_after_client(exchange)} ", f" {_ending(exchange)}\n"


def _repeated_usual_lines(prepared: Sequence[tuple[str, str]], repeated: Repetitions) -> str:
    after_clients, endings = zip(*prepared, strict=True)
    columns = zip(repeated.clients, after_clients, map(_when, map(int, repeated.ended_at)), endings, strict=True)
    return "".join(chain.from_iterable(columns))


def _after_client(exchange: Exchange) -> str:
    return f" - {escape(_quoted(exchange.user))}"


def _ending(exchange: Exchange) -> str:
    request = f"{exchange.method} {exchange.target} {exchange.protocol}"
    return escape(
        f'"{_quoted(request)}" {exchange.status} {exchange.bytes_out} '
        f'"{_quoted(exchange.referrer)}" "{_quoted(exchange.user_agent)}"'
    )


def _quoted(text: str) -> str:
    """Return a text as gunicorn writes it into an entry."""
    return text.replace('"', '\\"') if text else "-"


@lru_cache(maxsize=1)
def _when(seconds: int) -> str:
    return time.strftime("[%d/%b/%Y:%H:%M:%S %z]", time.localtime(seconds))


def _printable(atoms: dict[str, Any]) -> dict[str, Any]:
    for name, text in atoms.items():
        if isinstance(text, str) and not text.isprintable():
            atoms[name] = escape(text)
    return atoms


def basic_user(authorization: str) -> str:
    """Return the user name in a Basic Authorization header, unverified; empty if there is none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials.strip()).partition(b":")[0].decode()
    except ValueError:
        return ""
