"""The access log: gunicorn's logger as an observer of exchanges."""

from __future__ import annotations

import base64
import logging
import os
from typing import Any, Final
from urllib.parse import unquote

from gunicorn.glogging import Logger

from docker_registry.exchange import Exchange, Observer

registry_logger = logging.getLogger("docker_registry")

#: Beginnings of the routes that orchestrators request every few seconds; logged at level debug only.
_HEALTH_CHECKS: Final = ("health.", "status.show_status")


def escape(text: str) -> str:
    """Return text from a client on one line, with control and other unprintable characters escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class AccessLog(Logger):  # type: ignore[misc]
    """
    gunicorn's logger; response sizes include bytes that the kernel sent of files, and each entry is one line.

    Under :class:`~docker_registry.server.worker.RegistryWorker` it is an observer; elsewhere gunicorn calls it.
    """

    _is_observer = False

    def observer(self) -> Observer | None:
        """
        Return the observer that writes all further entries.

        Returns:
            None if nothing is logged, or the format contains headers or variables of the environment, which exchanges
            lack: then gunicorn writes the entries.
        """
        self._is_observer = self.access_log_enabled and "{" not in self.cfg.access_log_format
        return self._write if self._is_observer else None

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write the entry of a request, if no observer does; called by gunicorn."""
        if not self._is_observer:
            super().access(resp, req, environ, request_time)

    def _write(self, exchange: Exchange) -> None:
        if not exchange.method:  # an unparsable request; the error log contains it
            return
        if exchange.route.startswith(_HEALTH_CHECKS) and not registry_logger.isEnabledFor(logging.DEBUG):
            return
        micros = int(exchange.seconds * 1_000_000)
        path, _, query = exchange.target.partition("?")
        atoms = {
            "h": exchange.client,
            "l": "-",
            "u": exchange.user or "-",
            "t": self.now(),
            "r": f"{exchange.method} {exchange.target} {exchange.protocol}",
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
        self.access_log.info(self.cfg.access_log_format, self.atoms_wrapper_class(_printable(atoms)))

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> dict[str, Any]:
        """Return the values that gunicorn puts into an entry that it writes itself."""
        sent = resp.sent + getattr(resp.sock, "file_bytes", 0)
        return _printable({**super().atoms(resp, req, environ, request_time), "b": str(sent), "B": sent})


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
