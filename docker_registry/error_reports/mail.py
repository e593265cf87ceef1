"""Reports errors by mail: one mail for each kind of error and hour."""

from __future__ import annotations

import hashlib
import logging
import os
import smtplib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Final, Protocol

from docker_registry.error_reports.limiter import KindLimiter
from docker_registry.error_reports.report import ErrorReport
from docker_registry.errors import ConfigError, StorageError
from docker_registry.settings import BOOLEANS

logger = logging.getLogger(__name__)

#: The period in which one mail for each kind of error is sent, by all workers and hosts together.
PERIOD_SECONDS: Final = 3600

#: Time limit of each step of a conversation with the mail server.
_TIMEOUT_SECONDS: Final = 10

#: After a failure, the next error of this kind is tried after this time.
_RETRY_SECONDS: Final = 60


class Lease(Protocol):
    """The rights to do some work that processes share; see :class:`docker_registry.registry.leases.Leases`."""

    def take(self, work: str, seconds: float) -> bool:
        """Take the right for some time; return False if another process has it."""

    def release(self, work: str) -> None:
        """Give it back."""


@dataclass(frozen=True, kw_only=True, repr=False)
class MailServer:
    """
    How mails are sent.

    Attributes:
        login: user name; None for no authentication.
        secure: whether STARTTLS is required.
        key_file: PEM file with the client's key and certificate; None for none.
        ca_file: PEM file with the certificates that sign the server's; None for those of the system.
        to_addrs: the receivers.
    """

    host: str
    port: int
    login: str | None
    password: str | None
    secure: bool
    key_file: Path | None
    ca_file: Path | None
    from_addr: str
    to_addrs: tuple[str, ...]

    @classmethod
    def parse(
        cls,
        *,
        host: str,
        port: int,
        login: str | None,
        password: str | None,
        secure: str,
        ca_file: Path | None,
        from_addr: str,
        to_addr: str,
    ) -> MailServer:
        """
        Check the settings of ``email_exceptions``.

        Args:
            secure: true or false, or the path of a key file.
            to_addr: one address, or several, separated by commas.

        Raises:
            ConfigError: a value is invalid, or a file cannot be read.
        """
        is_secure = BOOLEANS.get(secure.strip().lower())
        key_file = Path(os.path.expanduser(secure)).absolute() if is_secure is None else None
        if port > 65535:
            raise ConfigError("email_exceptions.smtp_port must be at most 65535.")
        if (login is None) != (password is None):
            raise ConfigError("email_exceptions.smtp_login and smtp_password must be set together.")
        server = cls(
            host=host,
            port=port,
            login=login,
            password=password,
            secure=is_secure is not False,
            key_file=key_file,
            ca_file=ca_file,
            from_addr=_address("from_addr", from_addr),
            to_addrs=tuple(_address("to_addr", one) for one in to_addr.split(",")),
        )
        server.tls_context()
        return server

    def tls_context(self) -> ssl.SSLContext:
        """
        Return the context for STARTTLS; the server's certificate is verified.

        Raises:
            ConfigError: a file cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
            raise ConfigError(f"email_exceptions.smtp_ca: {self.ca_file} cannot be used: {error}.") from None
        if self.key_file is not None:
            try:
                context.load_cert_chain(self.key_file)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    "email_exceptions.smtp_secure must be true, false, or the path of a PEM file with a key and a "
                    f"certificate; {self.key_file} cannot be used: {error}."
                ) from None
        return context

    def send(self, mail: EmailMessage) -> None:
        """
        Send a mail.

        Raises:
            OSError, smtplib.SMTPException: the server is not reachable, or refuses the login or the mail.
        """
        with smtplib.SMTP(self.host, self.port, timeout=_TIMEOUT_SECONDS) as connection:
            if self.secure:
                connection.starttls(context=self.tls_context())
            if self.login is not None and self.password is not None:
                connection.login(self.login, self.password)
            connection.send_message(mail, self.from_addr, self.to_addrs)


class MailReporter:
    """Sends one mail for each kind of error and hour, whichever worker or host sees the error first."""

    name = "email_exceptions"

    def __init__(self, server: MailServer, lease: Lease, *, flavor: str, release: str) -> None:
        """
        Args:
            lease: held for a kind of error during its hour.
            flavor: of the configuration.
            release: version of the registry.
        """
        self._server = server
        self._lease = lease
        self._origin = f"docker-registry {release}, flavor {flavor}, host {socket.gethostname()}"
        self._flavor = flavor
        self._limiter = KindLimiter(PERIOD_SECONDS)

    def send(self, report: ErrorReport) -> None:
        """Send a mail unless one for this kind of error was sent within the hour."""
        missed = self._limiter.allow(report.kind)
        work = f"mail-{hashlib.sha256(report.kind.encode()).hexdigest()[:32]}"
        if missed is None or not _granted(lambda: self._lease.take(work, PERIOD_SECONDS)):
            return
        try:
            self._server.send(self._mail(report, missed))
        except Exception:
            self._limiter.retry_after(report.kind, _RETRY_SECONDS)
            _granted(lambda: self._lease.release(work))
            raise

    def _mail(self, report: ErrorReport, missed: int) -> EmailMessage:
        mail = EmailMessage()
        mail["Subject"] = f"[docker-registry {self._flavor}] {report.kind}"[:200]
        mail["From"] = self._server.from_addr
        mail["To"] = ", ".join(self._server.to_addrs)
        mail["Date"] = formatdate(report.time)
        mail["Message-ID"] = make_msgid(domain="docker-registry.invalid")
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies
        when = datetime.fromtimestamp(report.time, timezone.utc).isoformat(timespec="seconds")
        lines = [self._origin, f"time: {when}", f"logged: {report.logged}"]
        if missed:
            lines.append(f"since the last mail about this kind: {missed} more in this worker")
        lines += ["", report.traceback, "The next mail about this kind of error follows after an hour at the earliest."]
        mail.set_content("\n".join(lines))
        return mail


def _granted(take: Callable[[], object]) -> bool:
    """Take a lease; without a store, whose failure may be the error to report, every process sends its mail."""
    try:
        return take() is not False
    except StorageError as error:
        logger.warning("mails about errors are limited by this process alone: %s", error)
        return True


def _address(name: str, text: str) -> str:
    try:
        address = Address(addr_spec=text.strip())
    except (ValueError, IndexError, MessageError) as error:
        raise ConfigError(f"email_exceptions.{name} must be a mail address: {error}.") from None
    if not address.username or not address.domain:
        raise ConfigError(f"email_exceptions.{name} must be a mail address such as ops@example.com.")
    return text.strip()
