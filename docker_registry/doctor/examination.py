"""
Examination of a registry through its public address.

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
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from docker_registry.doctor import downloads, uploads
from docker_registry.doctor.connection import Answer, Target
from docker_registry.doctor.findings import CannotExamine, Finding, Findings
from docker_registry.doctor.probe_image import ProbeImage

_MAX_SKEW_SECONDS: Final = 60.0


@dataclass(slots=True)
class Examination:
    """
    One examination of a registry.

    Attributes:
        repository: where the probe is pushed.
        silence_seconds: pause in an upload; 0 to leave this probe out.
        early_seconds: how long to wait for a response that some proxies send before the body is complete.
        patience_seconds: how long the registry may take to store what a proxy has forwarded.
    """

    target: Target
    repository: str
    silence_seconds: float = 0
    early_seconds: float = 3.0
    patience_seconds: float = 10.0
    findings: Findings = field(default_factory=Findings)
    image: ProbeImage = field(default_factory=ProbeImage)

    @property
    def root(self) -> str:
        """Path of the probe's repository."""
        return f"{self.target.path}/v2/{self.repository}"

    def run(self) -> list[Finding]:
        """
        Run all probes, remove what they pushed, and return what they found.

        Raises:
            CannotExamine: the registry cannot be reached, or does not accept the push, and no fault explains it.
        """
        try:
            self._run_probes()
        except CannotExamine as error:
            if not self.findings.has():
                raise
            self.findings.note("incomplete", f"The other probes were not run: {error}.")
        finally:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._clean_up()
        return self.findings

    def _run_probes(self) -> None:
        try:
            self._check_address()
            self._sign_in()
            uploads.check_sessions(self)
            silence = uploads.SilentUpload(self) if self.silence_seconds else None
            thread = threading.Thread(target=silence.run, daemon=True) if silence is not None else None
            if thread is not None:
                thread.start()
            uploads.check(self)
            downloads.check(self)
            if silence is not None and thread is not None:
                thread.join()
                silence.report()
        except (OSError, http.client.HTTPException) as error:
            raise CannotExamine(f"{self.target.url}: {error or type(error).__name__}") from None

    def _check_address(self) -> None:
        try:
            self.target.connect().close()
        except ssl.SSLCertVerificationError as error:
            self.findings.fault(
                "certificate",
                f"The certificate is not trusted: {error.verify_message}. Serve it with its intermediates (nginx: "
                "ssl_certificate, a file with the whole chain), or give clients the authority "
                "(/etc/docker/certs.d/HOST/ca.crt; here: --ca).",
            )
            self.target.is_verified = False
        parts = urlsplit(self.target.url)
        if parts.scheme == "http":
            hint = "even on loopback since Docker 29.10" if _is_loopback(parts.hostname or "") else "in daemon.json"
            self.findings.note("tls", f"Without TLS, Docker needs this host in insecure-registries, {hint}.")
        elif self.target.offers_http2():
            self.findings.note(
                "http2", "HTTP/2 is offered. The probes use HTTP/1.1, as Docker does for pushes over proxies."
            )

    def _sign_in(self) -> None:
        answer = self.target.ask("GET", f"{self.target.path}/v2/")
        self._check_clock(answer)
        challenge = answer.header("www-authenticate")
        if answer.status == 401 and challenge.lower().startswith("bearer"):
            self._check_realm(challenge)
            try:
                token = self.target.fetch_token(challenge, f"repository:{self.repository}:pull,push,delete")
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise CannotExamine(f"no token for {self.repository}: {error}") from None
            self.target.authorization = f"Bearer {token}"
        elif answer.status == 401 and self.target.user:
            self.target.authorization = self.target.basic()
            answer = self.target.ask("GET", f"{self.target.path}/v2/")
        if answer.status not in (200, 401) or (answer.status == 401 and not self.target.authorization):
            needed = "; it needs --user" if answer.status == 401 else ""
            raise CannotExamine(f"{self.target.url}{self.target.path}/v2/ answers {answer.status}{needed}")

    def _check_clock(self, answer: Answer) -> None:
        with contextlib.suppress(ValueError, TypeError):
            skew = email.utils.parsedate_to_datetime(answer.header("date")).timestamp() - time.time()
            if abs(skew) > _MAX_SKEW_SECONDS:
                self.findings.fault(
                    "clock",
                    f"The server's clock differs by {skew:.0f} s. Tokens and signed URLs fail: synchronize them.",
                )

    def _check_realm(self, challenge: str) -> None:
        realm = challenge.partition('realm="')[2].partition('"')[0]
        here, there = urlsplit(self.target.url), urlsplit(realm)
        is_other_scheme = there.hostname == here.hostname and there.scheme != here.scheme
        is_lost = there.hostname is None or (_is_loopback(there.hostname) and not _is_loopback(here.hostname or ""))
        if is_other_scheme or is_lost:
            self.findings.fault(
                "realm",
                f"Clients are sent to {realm} for tokens. Set external_url, or keep the header Host and set the scheme "
                "(nginx: proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;).",
            )

    def _clean_up(self) -> None:
        for path in (*(f"manifests/{digest}" for digest in self.image.manifests), f"blobs/{self.image.digest}"):
            self.target.ask("DELETE", f"{self.root}/{path}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
