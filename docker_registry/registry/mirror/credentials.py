"""Credentials for upstreams: from the configuration, a file, or a credential helper of Docker."""

from __future__ import annotations

import base64
import json
import logging
import shlex
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from docker_registry.errors import ConfigError, UpstreamUnavailable

logger = logging.getLogger(__name__)

#: How long the output of a credential helper is used; it is also run again when the upstream rejects it.
HELPER_SECONDS: Final = 300.0

#: Time in which a credential helper must end.
_HELPER_TIMEOUT_SECONDS: Final = 30

MAX_SECRET_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Login:
    """A user name and a password or token."""

    username: str
    password: str

    @property
    def header(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return f"Basic {base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()}"


class Credentials(Protocol):
    """Supplies the login of an upstream."""

    def get(self, *, renew: bool = False) -> Login:
        """
        Return the current login.

        Args:
            renew: the upstream has rejected the last one.

        Raises:
            UpstreamUnavailable: there is none for now.
        """
        ...


class FixedCredentials:
    """A password of the configuration."""

    def __init__(self, username: str, password: str) -> None:
        self._login = Login(username, password)

    def get(self, *, renew: bool = False) -> Login:  # noqa: ARG002
        """See :class:`Credentials`."""
        return self._login


class FileCredentials:
    """A password in a file, which is read whenever it is needed, so that a change applies at once."""

    def __init__(self, username: str, path: Path) -> None:
        """
        Raises:
            ConfigError: the file cannot be read.
        """
        self._username = username
        self._path = path
        try:
            self._read()
        except OSError as error:
            raise ConfigError(f"mirroring.upstreams: password_file {path} cannot be read: {error.strerror}") from None

    def get(self, *, renew: bool = False) -> Login:  # noqa: ARG002
        """See :class:`Credentials`."""
        try:
            return Login(self._username, self._read())
        except OSError as error:
            logger.warning("the password file %s of an upstream cannot be read: %s", self._path, error.strerror)
            raise UpstreamUnavailable("The password for the upstream registry cannot be read.") from None

    def _read(self) -> str:
        with self._path.open("rb") as file:
            return file.read(MAX_SECRET_BYTES).decode(errors="replace").strip("\r\n")


class HelperCredentials:
    """
    The output of a credential helper (https://github.com/docker/docker-credential-helpers).

    It is called as ``COMMAND get`` with the URL of the upstream on standard input, and prints
    ``{"Username": "…", "Secret": "…"}``.
    """

    def __init__(self, command: str, url: str) -> None:
        """
        Raises:
            ConfigError: the command is empty or its quotes are unbalanced.
        """
        try:
            self._command = [*shlex.split(command), "get"]
        except ValueError:
            self._command = ["get"]
        if len(self._command) < 2:
            raise ConfigError("mirroring.upstreams: command is no command line")
        self._url = url
        self._login: Login | None = None
        self._until = self._renewed = 0.0
        self._lock = threading.Lock()

    def get(self, *, renew: bool = False) -> Login:
        """See :class:`Credentials`."""
        began = time.monotonic()
        with self._lock:  # requests that need a login at the same time run the helper once
            if self._login is None or time.monotonic() > self._until or (renew and self._renewed < began):
                self._login = self._run()
                self._renewed = time.monotonic()
                self._until = self._renewed + HELPER_SECONDS
            return self._login

    def _run(self) -> Login:
        try:
            done = subprocess.run(
                self._command,
                input=self._url.encode(),
                capture_output=True,
                timeout=_HELPER_TIMEOUT_SECONDS,
                check=True,
            )
            document = json.loads(done.stdout[:MAX_SECRET_BYTES])
            return Login(str(document["Username"]), str(document["Secret"]))
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, RecursionError) as error:
            # Neither its output nor its errors are logged, because they may contain secrets.
            logger.warning("the credential helper %s failed (%s)", self._command[0], type(error).__name__)
            raise UpstreamUnavailable("The credential helper of the upstream registry failed.") from None
