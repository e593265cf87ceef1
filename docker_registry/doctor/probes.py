"""
Runs the probes of an examination through the registry's public address.

Each probe pushes or pulls a little content in the way that one kind of client does, and names the line that a proxy
lacks.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import ipaddress
import ssl
import threading
import time
from typing import Final
from urllib.parse import urlsplit

from docker_registry.doctor import downloads, uploads
from docker_registry.doctor.connection import Answer
from docker_registry.doctor.examination import CannotExamine, Examination, Finding

_MAX_SKEW_SECONDS: Final = 60.0

#: ``X509_V_ERR_CERT_HAS_EXPIRED`` of OpenSSL.
_EXPIRED: Final = 10


def examine(examination: Examination) -> list[Finding]:
    """
    Run all probes, remove what they pushed, and return what they found.

    Raises:
        CannotExamine: the registry cannot be reached, or does not accept the push, and no fault explains it.
    """
    try:
        _run_probes(examination)
    except CannotExamine as error:
        if not examination.findings.has():
            raise
        examination.findings.note("incomplete", f"The other probes were not run: {error}.")
    finally:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            if examination.target.authorization:
                _renew_token(examination)
            examination.clean_up()
    return examination.findings


def _run_probes(examination: Examination) -> None:
    try:
        _check_address(examination)
        _sign_in(examination)
        uploads.check_sessions(examination)
        silence = uploads.SilentUpload(examination) if examination.silence_seconds else None
        thread = threading.Thread(target=silence.run, daemon=True) if silence is not None else None
        if thread is not None:
            thread.start()
        uploads.check(examination)
        downloads.check(examination)
        if silence is not None and thread is not None:
            thread.join()
            silence.report()
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a URL in a header is malformed
        raise CannotExamine(f"{examination.target.url}: {error or type(error).__name__}") from None


def _check_address(examination: Examination) -> None:
    try:
        examination.target.connect().close()
    except ssl.SSLCertVerificationError as error:
        advice = (
            "Renew it."
            if error.verify_code == _EXPIRED
            else "Serve it with its intermediates (nginx: ssl_certificate, a file with the whole chain), or give "
            "clients the authority (/etc/docker/certs.d/HOST/ca.crt; here: --ca)."
        )
        examination.findings.fault("certificate", f"The certificate is not trusted: {error.verify_message}. {advice}")
        examination.target.is_verified = False
    parts = urlsplit(examination.target.url)
    if parts.scheme == "http":
        hint = "even on loopback since Docker 29.10" if _is_loopback(parts.hostname or "") else "in daemon.json"
        examination.findings.note("tls", f"Without TLS, Docker needs this host in insecure-registries, {hint}.")
    elif examination.target.offers_http2():
        examination.findings.note(
            "http2", "HTTP/2 is offered. The probes use HTTP/1.1, as Docker does for pushes over proxies."
        )


def _sign_in(examination: Examination) -> None:
    answer = examination.target.ask("GET", f"{examination.target.path}/v2/")
    _check_clock(examination, answer)
    challenge = answer.header("www-authenticate")
    if answer.status == 401 and challenge.lower().startswith("bearer"):
        try:
            _check_realm(examination, challenge)
            _fetch_token(examination, challenge)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise CannotExamine(f"no token for {examination.repository}: {error}") from None
    elif answer.status == 401 and examination.target.user:
        examination.target.authorization = examination.target.basic()
        answer = examination.target.ask("GET", f"{examination.target.path}/v2/")
    if answer.status not in (200, 401) or (answer.status == 401 and not examination.target.authorization):
        needed = "; it needs --user" if answer.status == 401 else ""
        raise CannotExamine(f"{examination.target.url}{examination.target.path}/v2/ answers {answer.status}{needed}")


def _fetch_token(examination: Examination, challenge: str) -> None:
    scope = f"repository:{examination.repository}:pull,push,delete"
    examination.target.authorization = f"Bearer {examination.target.fetch_token(challenge, scope)}"


def _renew_token(examination: Examination) -> None:
    """Get another token if that of the probes has expired, as during the pause of an upload."""
    answer = examination.target.ask("GET", f"{examination.target.path}/v2/")
    challenge = answer.header("www-authenticate")
    if answer.status == 401 and challenge.lower().startswith("bearer"):
        _fetch_token(examination, challenge)


def _check_clock(examination: Examination, answer: Answer) -> None:
    with contextlib.suppress(ValueError, TypeError):
        skew = email.utils.parsedate_to_datetime(answer.header("date")).timestamp() - time.time()
        if abs(skew) > _MAX_SKEW_SECONDS:
            examination.findings.fault(
                "clock",
                f"The server's clock differs by {skew:.0f} s. Tokens and signed URLs fail: synchronize them.",
            )


def _check_realm(examination: Examination, challenge: str) -> None:
    realm = challenge.partition('realm="')[2].partition('"')[0]
    here, there = urlsplit(examination.target.url), urlsplit(realm)
    is_other_scheme = there.hostname == here.hostname and there.scheme != here.scheme
    is_lost = there.hostname is None or (_is_loopback(there.hostname) and not _is_loopback(here.hostname or ""))
    if is_other_scheme or is_lost:
        examination.findings.fault(
            "realm",
            f"Clients are sent to {realm} for tokens. Set external_url, or keep the header Host and set the scheme "
            "(nginx: proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;).",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
