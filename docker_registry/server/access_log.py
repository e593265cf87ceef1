"""The access log: gunicorn's logger as an observer of exchanges."""

from __future__ import annotations

import base64
import logging
import os
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from gunicorn.config import AccessLogFormat
from gunicorn.glogging import Logger

from docker_registry.http.exchange import Exchange, Observer
from docker_registry.logs.exchange_lines import request_line
from docker_registry.logs.line_writer import LineStream, LineWriter, write_all
from docker_registry.logs.redaction import redact_query
from docker_registry.logs.setup import JSON, JsonFormatter

#: Attribute of gunicorn's configuration: the format of messages.
FORMAT: Final = "registry_log_format"

registry_logger = logging.getLogger("docker_registry")

#: Beginnings of the routes that orchestrators and Prometheus request every few seconds; logged at level debug only.
_HEALTH_CHECKS: Final = ("health.", "metrics.", "status.show_status")


def escape(text: str) -> str:
    """Return text from a client on one line, with control and other unprintable characters escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class AccessLog(Logger):  # type: ignore[misc]
    """
    gunicorn's logger; response sizes include bytes that the kernel sent of files, and each entry is one line.

    Under :class:`~docker_registry.server.worker.RegistryWorker` it is an observer; elsewhere gunicorn calls it.
    """

    _is_observer = False
    _put: Callable[[str], object]

    def __init__(self, cfg: Any) -> None:
        self._writers: list[LineWriter] = []
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
        self._is_observer = self.access_log_enabled and (is_json or "{" not in self.cfg.access_log_format)
        self._put = self._open()
        if not self._is_observer:
            return None
        if is_json:
            return self._write_json
        return self._write_usual if self.cfg.access_log_format == AccessLogFormat.default else self._write

    def divert(self) -> None:
        """Write the messages of this worker outside the event loop, too."""
        for handler in self.error_log.handlers:
            if type(handler) is logging.StreamHandler:
                handler.setStream(LineStream(self._writer("error log", handler.stream)))

    def finish(self) -> None:
        """Write the remaining lines."""
        for writer in self._writers:
            writer.close()

    def _open(self) -> Callable[[str], object]:
        """Return the function that writes a line of the access log."""
        handlers = self.access_log.handlers
        if len(handlers) != 1 or not isinstance(handlers[0], logging.StreamHandler):  # such as syslog
            return lambda line: self.access_log.info("%s", line.rstrip("\n"))
        handler = handlers[0]
        writer = LineWriter("access log", lambda content: write_all(handler.stream.fileno(), content))
        self._writers.append(writer)
        return writer.write

    def _writer(self, name: str, stream: Any) -> LineWriter:
        self._writers.append(LineWriter(name, lambda content: write_all(stream.fileno(), content)))
        return self._writers[-1]

    def _write_json(self, exchange: Exchange) -> None:
        if exchange.method and not self._is_quiet(exchange):
            self._put(request_line(exchange))

    def _write_usual(self, exchange: Exchange) -> None:
        """Write an entry in gunicorn's default format, in a quarter of the time of :meth:`_write`."""
        if not exchange.method or self._is_quiet(exchange):
            return
        request = f"{exchange.method} {redact_query(exchange.target)} {exchange.protocol}"
        line = (
            f'{exchange.client} - {_quoted(exchange.user)} {_when(int(time.time()))} "{_quoted(request)}" '
            f'{exchange.status} {exchange.bytes_out} "{_quoted(exchange.referrer)}" "{_quoted(exchange.user_agent)}"'
        )
        self._put(f"{line if line.isprintable() else escape(line)}\n")

    def _is_quiet(self, exchange: Exchange) -> bool:
        return exchange.route.startswith(_HEALTH_CHECKS) and not registry_logger.isEnabledFor(logging.DEBUG)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write the entry of a request, if no observer does; called by gunicorn."""
        if not self._is_observer:
            super().access(resp, req, environ, request_time)

    def _write(self, exchange: Exchange) -> None:
        if not exchange.method or self._is_quiet(exchange):  # without a method: unparsable, see the error log
            return
        micros = int(exchange.seconds * 1_000_000)
        target = redact_query(exchange.target)
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
        self._put(self.cfg.access_log_format % self.atoms_wrapper_class(_printable(atoms)) + "\n")

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> dict[str, Any]:
        """Return the values that gunicorn puts into an entry that it writes itself."""
        sent = resp.sent + getattr(resp.sock, "file_bytes", 0)
        return _printable({**super().atoms(resp, req, environ, request_time), "b": str(sent), "B": sent})


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
