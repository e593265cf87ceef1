"""
TLS of the server itself: its sockets, and contexts made of the operator's files and again when the files change.

A connection keeps the context with which it began, so a renewed certificate interrupts nothing.
"""

from __future__ import annotations

import hashlib
import logging
import ssl as plain_ssl
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Protocol

import gevent
from gevent import socket, ssl

from docker_registry import dependencies
from docker_registry.errors import ConfigError
from docker_registry.server.client_socket import ClientSocket
from docker_registry.server.sending_socket import SLICE_BYTES

logger = logging.getLogger(__name__)

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

#: Bytes sent to one client before other greenlets run. Encrypting them takes about a millisecond.
_TURN_BYTES: Final = 512 * 1024

_Signature = tuple[tuple[int, int, int, int, int], ...]


class TlsSettings(Protocol):
    """
    The settings of the section ``tls``.

    Attributes:
        certificate: PEM file of the server's certificate and its intermediates; None turns TLS off.
        key: PEM file of its private key; None if *certificate* contains the key.
        minimum_version: ``1.2`` or ``1.3``.
        client_ca: PEM file of the authorities of client certificates; None to ask for no client certificate.
        client_certificates: ``required``, or ``optional`` to accept clients without one.
    """

    @property
    def certificate(self) -> Path | None: ...

    @property
    def key(self) -> Path | None: ...

    @property
    def minimum_version(self) -> str: ...

    @property
    def client_ca(self) -> Path | None: ...

    @property
    def client_certificates(self) -> str: ...


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """
    Create the context of new connections.

    Raises:
        ConfigError: a file cannot be read or used, or key and certificate do not belong together.
    """
    certificate, key = settings.certificate, settings.key or settings.certificate
    if certificate is None or key is None:
        raise ConfigError("tls.certificate is not set.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.minimum_version]
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("tls.certificate", certificate), ("tls.key", key), ("tls.client_ca", settings.client_ca)):
        _check_readable(name, path)

    def refuse_password() -> str:
        raise ConfigError(f"tls.key: {key} is encrypted; the server cannot ask for its password.")

    try:
        context.load_cert_chain(certificate, key, refuse_password)
    except plain_ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"tls.key: {key} is not the key of {certificate}.") from None
        if settings.key is None and b"PRIVATE KEY" not in certificate.read_bytes():
            raise ConfigError(f"tls.key is not set, and {certificate} contains no private key.") from None
        raise ConfigError(
            f"tls.certificate: {certificate} with the key {key} is not a usable pair of PEM files: {_reason(error)}."
        ) from None
    if settings.client_ca is not None:
        try:
            context.load_verify_locations(settings.client_ca)
        except plain_ssl.SSLError as error:
            raise ConfigError(
                f"tls.client_ca: {settings.client_ca} is not a PEM file of certificates: {_reason(error)}."
            ) from None
        is_required = settings.client_certificates == "required"
        context.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
    return context


def warn_if_expired(certificate: Path) -> None:
    """Log a warning if a certificate has expired; called by the check of a start, not by each worker."""
    from cryptography import x509  # takes time and memory, which workers without users need not spend

    try:
        end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError, x509.InvalidVersion):  # replaced meanwhile, or in a form that only OpenSSL reads
        return
    if end < datetime.now(timezone.utc):
        logger.warning("tls.certificate: %s expired on %s; clients refuse it", certificate, end.date())


def _check_readable(name: str, path: Path | None) -> None:
    if path is None:
        return
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{name}: {path} cannot be read by the user of the workers: {error.strerror}.") from None


def _reason(error: plain_ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


class ReloadedContext:
    """
    The context of new connections, current at every call of :meth:`get`.

    Paths are followed through symbolic links at each check, so replacing a link (as Kubernetes and certbot do) reloads
    the files too. Files that cannot be used, such as a certificate whose key is replaced a moment later, are logged
    once, and the last usable ones stay in force.
    """

    def __init__(self, settings: TlsSettings) -> None:
        """
        Read the files.

        Raises:
            ConfigError: as for :func:`make_context`.
        """
        self._settings = settings
        self._paths = [path for path in (settings.certificate, settings.key, settings.client_ca) if path is not None]
        self._failure = ""
        self._signature = self._sign()
        self._context = make_context(settings)

    def get(self) -> ssl.SSLContext:
        """Return the context for a new connection; reads the files if they have changed."""
        signature = self._sign()
        if signature is not None and signature == self._signature:
            return self._context
        try:
            self._context = make_context(self._settings)
        except ConfigError as error:
            if str(error) != self._failure:
                logger.error("%s The last usable TLS files stay in force.", error)
                self._failure = str(error)
        else:
            if signature is not None:  # else every connection within a tick of the clock would log this
                logger.info("The TLS files were reloaded.")
            self._failure = ""
        self._signature = signature
        return self._context

    def _sign(self) -> _Signature | None:
        """Return what changes with the files; None if that cannot be told, because they changed just now."""
        try:
            found = [path.stat() for path in self._paths]
        except OSError:
            return ()
        if any(dependencies.may_change_unnoticed(each) for each in found):
            return None
        return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found)


class TlsSocket(ClientSocket, ssl.SSLSocket):  # type: ignore[misc] # gevent's own signatures differ
    """A TLS client socket."""

    sends_segments = False
    _turn_bytes = 0  # sent since other greenlets ran

    def shake_hands(self, log: Any) -> bool:
        """
        Do the TLS handshake; if it fails, close the connection and return False.

        Args:
            log: gunicorn's.
        """
        try:
            self.do_handshake()
            self._identify()
        except OSError as error:
            log.debug("TLS handshake with %s failed: %s", self.address, error)
            self.close()
            return False
        return True

    def _identify(self) -> None:
        """Record the identity of the client's certificate."""
        certificate = self.getpeercert(binary_form=True)
        if certificate:
            self.identity = hashlib.sha256(certificate).digest()

    def _wait_for_turn(self) -> None:
        # As for a plain socket, unless a request is left in a record that was received already.
        if self.pending():
            super()._wait_for_turn()
        else:
            self._wait(self._read_event)  # type: ignore[attr-defined]

    def _send_all(self, data: Any, flags: int) -> None:
        super()._send_all(data, flags)
        self._turn_bytes += len(data)
        if self._turn_bytes >= _TURN_BYTES:  # a client that receives as fast as OpenSSL encrypts never has to wait
            self._turn_bytes = 0
            gevent.sleep(0)

    def _send_at_once(self, data: Any, flags: int) -> int:  # noqa: ARG002 - TLS has no flags
        encrypted = self._sslobj  # type: ignore[attr-defined] # of ssl.SSLSocket
        if encrypted is None or not data:
            return 0
        try:
            return int(encrypted.write(data if len(data) <= SLICE_BYTES else memoryview(data)[:SLICE_BYTES]))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0


class TlsContext:
    """Creates the worker's TLS sockets and leaves the handshake to the worker."""

    def __init__(self, current: Callable[[], ssl.SSLContext]) -> None:
        """
        Args:
            current: returns the SSL context to use for a new connection.
        """
        self._current = current

    def wrap_socket(self, connection: socket.socket, server_side: bool = True) -> TlsSocket:
        """Return the TLS socket for an accepted connection, with the handshake still to be done."""
        context = self._current()
        context.sslsocket_class = TlsSocket
        made: TlsSocket = context.wrap_socket(  # type: ignore[assignment]
            connection, server_side=server_side, do_handshake_on_connect=False
        )
        return made


def configure(cfg: Any, settings: TlsSettings | None) -> None:
    """
    Configure TLS from the section ``tls`` or, if that has no certificate, from gunicorn's own settings.

    The worker does the handshakes, so that the connection limits apply to them.

    Args:
        cfg: gunicorn's configuration.
    """
    if settings is not None and settings.certificate is not None:
        current = ReloadedContext(settings).get
        cfg.__dict__["certfile"] = str(settings.certificate)
        cfg.__dict__["ssl_context"] = lambda config, default: TlsContext(current)  # noqa: ARG005
    elif cfg.is_ssl:
        make_gunicorn_context = cfg.ssl_context

        def once(config: Any, default: Any) -> TlsContext:
            context = make_gunicorn_context(config, default)
            return TlsContext(lambda: context)

        cfg.__dict__["ssl_context"] = once
