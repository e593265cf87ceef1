"""The audit log: who was refused, who logged in, and who changed what; a stream of its own, one line of JSON each."""

from __future__ import annotations

import getpass
import os
from typing import Final

from docker_registry.errors import ConfigError
from docker_registry.http.exchange import Exchange
from docker_registry.logs.exchange_lines import audit_line, system_line
from docker_registry.logs.line_writer import LineWriter, append_to, is_regular, write_all

STDOUT: Final = "-"

#: Routes that change tags, manifests, blobs or the visibility of repositories. Chunks of uploads change nothing yet.
#: The start of an upload only does with status 201: then it has mounted or stored a blob.
_CHANGES: Final = frozenset(
    {
        "v1_properties.put_properties",
        "v1_pushes.put_checksum",
        "v1_pushes.put_json",
        "v1_pushes.put_layer",
        "v1_repositories.begin_delete",
        "v1_repositories.begin_push",
        "v1_repositories.delete_repository",
        "v1_repositories.put_images",
        "v1_tags.delete_tag",
        "v1_tags.put_tag",
        "v2_blobs.delete_blob",
        "v2_manifests.delete_manifest",
        "v2_manifests.put_manifest",
        "v2_uploads.commit_upload",
    }
)

#: Routes on which clients present credentials for the first time.
_LOGINS: Final = frozenset(
    {"v1_users.create_user", "v1_users.log_in", "v2_base.check_version", "v2_token.get_token", "v2_token.post_token"}
)

#: Where users log in by a form.
_FORM_LOGIN: Final = "v2_token.post_token"

_START_UPLOAD: Final = "v2_uploads.start_upload"

_ANONYMOUS: Final = "anonymous"

_METHODS: Final = frozenset({"PUT", "POST", "DELETE"})
_REFUSED: Final = frozenset({401, 403, 405, 429})


class AuditLog:
    """Writes the audited exchanges of a worker; an observer."""

    def __init__(self, path: str) -> None:
        """
        Args:
            path: of the file, which is only appended to and may be rotated; ``-`` for standard output.

        Raises:
            ConfigError: the file cannot be written.
        """
        append = append_to(path)
        if path == STDOUT:
            self._writer = LineWriter("audit_log", lambda content: write_all(1, content), is_file=is_regular(1))
            return
        try:
            append(b"")
        except OSError as error:
            raise ConfigError(f"audit_log: {path} cannot be written: {error.strerror}.") from None
        self._writer = LineWriter("audit_log", append, is_file=is_regular(path))

    def __call__(self, exchange: Exchange) -> None:
        """Write the line of an exchange if it is audited."""
        event = event_of(exchange)
        if event:
            self._writer.write(audit_line(exchange, event))

    def ignores(self, exchange: Exchange) -> bool:
        """Return whether an exchange is not audited, as most that are answered from the response cache."""
        return not event_of(exchange)

    def record_housekeeping(self, message: str) -> None:
        """Write a line for a change that the registry made of itself."""
        self._writer.write(system_line(message, "gc"))

    def record_reload(self, message: str) -> None:
        """Write a line for users or rules that were reloaded."""
        self._writer.write(system_line(message, "reload"))

    def close(self) -> None:
        """Write the remaining lines."""
        self._writer.close()


def record_command(path: str, message: str) -> None:
    """
    Append the line of a change that a command has made; with :data:`STDOUT` to standard error.

    Args:
        path: of the log.

    Raises:
        OSError: the file cannot be written.
    """
    line = system_line(message, "cli", _operator()).encode()
    if path == STDOUT:
        write_all(2, line)
    else:
        append_to(path)(line)


def _operator() -> str:
    """Return the user of the operating system who runs this process: the name, or the number if it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return str(os.getuid())


def event_of(exchange: Exchange) -> str:
    """Return the kind of an audited exchange: ``refusal``, ``login`` or ``change``; empty for others."""
    if exchange.status in _REFUSED:
        # A client without credentials is challenged first; that is no refusal.
        is_challenge = exchange.status == 401 and not exchange.user and exchange.route in _LOGINS - {_FORM_LOGIN}
        return "" if is_challenge else "refusal"
    if exchange.status >= 400:
        return ""
    has_stored_blob = exchange.route == _START_UPLOAD and exchange.status == 201
    if exchange.method in _METHODS and (exchange.route in _CHANGES or has_stored_blob):
        return "change"
    # The user of a form or certificate; that of a header is known before it is verified.
    is_named = exchange.principal not in ("", _ANONYMOUS)
    is_login = exchange.user or (is_named and (exchange.route == _FORM_LOGIN or not exchange.scheme))
    return "login" if is_login and exchange.route in _LOGINS else ""
