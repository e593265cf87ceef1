"""gunicorn's logs, with what a registry knows better."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

from gunicorn.glogging import Logger

from docker_registry.sockets import ClientSocket

#: What a line of the access log is made of when it shows no headers.
_LOGGED: Final = (
    "REMOTE_ADDR", "REQUEST_METHOD", "RAW_URI", "SERVER_PROTOCOL", "PATH_INFO", "QUERY_STRING", "HTTP_REFERER",
    "HTTP_USER_AGENT", "HTTP_AUTHORIZATION",
)  # fmt: skip


def escape(text: str) -> str:
    """Return a text of a client on one line, with escapes for what a terminal or a reader of logs would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class AccessLog(Logger):  # type: ignore[misc]
    """gunicorn's logs; the bytes of a response include what the kernel sent of files, and each line is one line."""

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: Any) -> dict[str, Any]:
        """Return what the line of a request may be made of."""
        client = resp.sock
        sent = resp.sent + getattr(client, "file_bytes", 0)
        if "{" not in self.cfg.access_log_format:  # headers, of which gunicorn would make copies for every line
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
        """Log an answer that was given again, maybe to another client."""
        micros = int(seconds * 1_000_000)
        again = {"h": address, "t": self.now(), "T": 0, "D": micros, "M": micros // 1000, "L": f"{seconds:.6f}"}
        self.access_log.info(self.cfg.access_log_format, self.atoms_wrapper_class({**atoms, **again}))
