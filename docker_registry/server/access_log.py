"""gunicorn's logger, adapted: complete response sizes, single-line entries, and entries for cached responses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

from gunicorn.glogging import Logger

from docker_registry.server.client_socket import ClientSocket

#: Variables of the WSGI environment that an access log without headers uses.
_LOGGED: Final = (
    "REMOTE_ADDR", "REQUEST_METHOD", "RAW_URI", "SERVER_PROTOCOL", "PATH_INFO", "QUERY_STRING", "HTTP_REFERER",
    "HTTP_USER_AGENT", "HTTP_AUTHORIZATION",
)  # fmt: skip


def escape(text: str) -> str:
    """Return text from a client on one line, with control and other unprintable characters escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class AccessLog(Logger):  # type: ignore[misc]
    """gunicorn's logger; response sizes include bytes that the kernel sent of files, and each entry is one line."""

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> dict[str, Any]:
        """Return the values that the access log format may use for a request."""
        client = resp.sock
        sent = resp.sent + getattr(client, "file_bytes", 0)
        if "{" not in self.cfg.access_log_format:  # no headers are logged: keep gunicorn from copying them
            req, environ = (), {name: environ[name] for name in _LOGGED if name in environ}
            resp = SimpleNamespace(status=resp.status, sent=sent, headers=())
        atoms: dict[str, Any] = {**super().atoms(resp, req, environ, request_time), "b": str(sent), "B": sent}
        for name, text in atoms.items():
            if isinstance(text, str) and not text.isprintable():
                atoms[name] = escape(text)
        if isinstance(client, ClientSocket):
            client.logged = atoms
        return atoms

    def access_again(self, atoms: dict[str, Any], address: str, seconds: float) -> None:
        """
        Log a response that was sent from the cache.

        Args:
            atoms: those of the original response.
            address: of the client, which may be another one.
            seconds: time taken.
        """
        micros = int(seconds * 1_000_000)
        again = {"h": address, "t": self.now(), "T": 0, "D": micros, "M": micros // 1000, "L": f"{seconds:.6f}"}
        self.access_log.info(self.cfg.access_log_format, self.atoms_wrapper_class({**atoms, **again}))
