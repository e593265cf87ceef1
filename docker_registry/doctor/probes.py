"""
Probes of a registry through its public address.

Each pushes or pulls a little content in the way that one kind of client does, and names the line that a proxy lacks.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import ipaddress
import json
import os
import ssl
import time
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urljoin, urlsplit
from uuid import uuid4

from docker_registry.doctor.connection import Answer, Target, read

#: Bytes of the probe's blob; less than any limit of bodies that a proxy has by default.
_BLOB_BYTES: Final = 256 * 1024

_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_GIB: Final = 1024**3

_MAX_SKEW_SECONDS: Final = 60.0

#: New connections that must find the same content.
_REPLICA_REQUESTS: Final = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """
    A fault, or something to know.

    Attributes:
        probe: its name.
        message: what is wrong, and what to change.
        is_fault: whether something must be changed.
    """

    probe: str
    message: str
    is_fault: bool = True


class CannotExamine(Exception):
    """The registry cannot be reached, or does not accept the probe's push."""


@dataclass(slots=True)
class Examination:
    """
    One examination of a registry.

    Attributes:
        repository: where the probe is pushed.
        silence_seconds: pause in an upload.
        early_seconds: how long to wait for a response that some proxies send before the body is complete.
        patience_seconds: how long the registry may take to store what a proxy has forwarded.
    """

    target: Target
    repository: str
    silence_seconds: float = 0
    early_seconds: float = 3.0
    patience_seconds: float = 10.0
    findings: list[Finding] = field(default_factory=list)
    blob: bytes = field(default_factory=lambda: os.urandom(_BLOB_BYTES))

    @property
    def digest(self) -> str:
        """Digest of the probe's blob."""
        return f"sha256:{hashlib.sha256(self.blob).hexdigest()}"

    @property
    def root(self) -> str:
        """Path of the probe's repository."""
        return f"/v2/{self.repository}"

    def fault(self, probe: str, message: str) -> None:
        """Record a fault; only the first of each probe."""
        if probe not in {finding.probe for finding in self.findings}:
            self.findings.append(Finding(probe, message))

    def note(self, probe: str, message: str) -> None:
        """Record something to know."""
        self.findings.append(Finding(probe, message, is_fault=False))

    def run(self) -> list[Finding]:
        """
        Run all probes, remove what they pushed, and return what they found.

        Raises:
            CannotExamine: the registry cannot be reached, or does not accept the push.
        """
        try:
            self._check_address()
            self._sign_in()
            self._check_uploads()
            self._check_downloads()
        except (OSError, http.client.HTTPException) as error:
            raise CannotExamine(f"{self.target.url}: {error or type(error).__name__}") from None
        finally:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._clean_up()
        return self.findings

    def _check_address(self) -> None:
        try:
            self.target.connect().close()
        except ssl.SSLCertVerificationError as error:
            self.fault(
                "certificate",
                f"The certificate is not trusted: {error.verify_message}. Serve it with its intermediates (nginx: "
                "ssl_certificate, a file with the whole chain), or give clients the authority "
                "(/etc/docker/certs.d/HOST/ca.crt; here: --ca).",
            )
            self.target.is_verified = False
        parts = urlsplit(self.target.url)
        if parts.scheme == "http":
            hint = "even on loopback since Docker 29.10" if _is_loopback(parts.hostname or "") else "in daemon.json"
            self.note("tls", f"Without TLS, Docker needs this host in insecure-registries, {hint}.")
        elif self.target.offers_http2():
            self.note("http2", "HTTP/2 is offered. The probes use HTTP/1.1, as Docker does for pushes over proxies.")

    def _sign_in(self) -> None:
        answer = self.target.ask("GET", "/v2/")
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
            answer = self.target.ask("GET", "/v2/")
        if answer.status not in (200, 401) or (answer.status == 401 and not self.target.authorization):
            needed = "; it needs --user" if answer.status == 401 else ""
            raise CannotExamine(f"{self.target.url}/v2/ answers {answer.status}{needed}")

    def _check_clock(self, answer: Answer) -> None:
        with contextlib.suppress(ValueError, TypeError):
            skew = email.utils.parsedate_to_datetime(answer.header("date")).timestamp() - time.time()
            if abs(skew) > _MAX_SKEW_SECONDS:
                self.fault(
                    "clock",
                    f"The server's clock differs by {skew:.0f} s. Tokens and signed URLs fail: synchronize them.",
                )

    def _check_realm(self, challenge: str) -> None:
        realm = challenge.partition('realm="')[2].partition('"')[0]
        here, there = urlsplit(self.target.url), urlsplit(realm)
        is_other_scheme = there.hostname == here.hostname and there.scheme != here.scheme
        if is_other_scheme or there.hostname in ("localhost", None):
            self.fault(
                "realm",
                f"Clients are sent to {realm} for tokens. Set external_url, or keep the header Host and set the scheme "
                "(nginx: proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;).",
            )

    def _start(self) -> str:
        answer = self.target.ask("POST", f"{self.root}/blobs/uploads/", b"")
        if answer.status == 413:
            self.fault("body-limit", "Even empty bodies are refused with 413.")
        if answer.status != 202:
            raise CannotExamine(f"a push to {self.repository} is refused with {answer.status}")
        return self._follow(answer)

    def _follow(self, answer: Answer) -> str:
        """Return the path of a Location, which must lead back to the same address."""
        location = answer.header("location")
        here, there = urlsplit(self.target.url), urlsplit(urljoin(self.target.url, location))
        if (there.scheme, there.netloc) != (here.scheme, here.netloc):
            self.fault(
                "location",
                f"Uploads continue at {there.scheme}://{there.netloc}. Rewrite no Location (nginx: proxy_redirect off; "
                "proxy_set_header Host $http_host;).",
            )
        return there.path + (f"?{there.query}" if there.query else "")

    def _check_uploads(self) -> None:
        self._check_announced()
        self._check_expect()
        self._check_streaming()
        location = self._start()
        answer = self._send_chunked(location, self.silence_seconds)
        if answer is None:
            self.fault(
                "silence",
                f"The connection ends when a client is silent for {self.silence_seconds:.0f} s (nginx: "
                "proxy_read_timeout, proxy_send_timeout, client_body_timeout 900s; Apache: ProxyTimeout 900; HAProxy: "
                "timeout client, timeout server).",
            )
            location = self._start()
        elif answer.status != 202 or not self._has_all(answer):
            self.fault(
                "chunked",
                f"Chunked bodies are refused or lost ({answer.status}) (nginx: proxy_http_version 1.1; nginx 1.3.9 or "
                "later).",
            )
            answer, location = None, self._start()
        if answer is None:
            answer = self.target.ask("PATCH", location, self.blob)
        location = self._follow(answer)
        separator = "&" if "?" in location else "?"
        answer = self.target.ask("PUT", f"{location}{separator}digest={quote(self.digest)}", b"")
        if answer.status != 201:
            raise CannotExamine(f"the end of an upload is refused with {answer.status}")
        answer = self.target.ask(
            "PUT", f"{self.root}/manifests/probe", self._manifest(), {"Content-Type": _MANIFEST_TYPE}
        )
        if answer.status != 201:
            raise CannotExamine(f"a manifest is refused with {answer.status}")

    def _has_all(self, answer: Answer) -> bool:
        return answer.header("range").endswith(f"-{len(self.blob) - 1}")

    def _manifest(self) -> bytes:
        described = {"mediaType": "application/octet-stream", "digest": self.digest, "size": len(self.blob)}
        document = {"schemaVersion": 2, "mediaType": _MANIFEST_TYPE, "config": described, "layers": []}
        return json.dumps(document).encode()

    def _check_announced(self) -> None:
        """Announce 2 GiB, and do not send them."""
        connection = self._begin("PATCH", f"{self.root}/blobs/uploads/{uuid4()}", {"Content-Length": str(2 * _GIB)})
        with contextlib.closing(connection):
            connection.send(b"x")
            answer = self._early(connection)
        if answer is not None and answer.status == 413:
            self.fault(
                "body-limit",
                "A body of 2 GiB is refused with 413 (nginx: client_max_body_size 0; Apache: LimitRequestBody 0).",
            )

    def _check_expect(self) -> None:
        headers = {"Content-Length": "1", "Expect": "100-continue"}
        connection = self._begin("PATCH", self._start(), headers)
        with contextlib.closing(connection):
            assert connection.sock is not None
            connection.sock.settimeout(self.patience_seconds)
            try:
                said = connection.sock.recv(64)
            except TimeoutError:
                said = b""
        if not said or said[9:12] == b"417":
            self.fault("expect", "Expect: 100-continue is not answered, so curl waits a second for each body.")

    def _check_streaming(self) -> None:
        """Break an upload, and see whether the registry has received the part that was sent."""
        location = self._start()
        connection = self._begin("PATCH", location, {"Transfer-Encoding": "chunked"})
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.send(b"%x\r\n%b\r\n" % (len(self.blob), self.blob))
            time.sleep(0.5)  # else the proxy may find the end of the connection before it has forwarded anything
        until = time.monotonic() + self.patience_seconds
        while time.monotonic() < until:
            answer = self.target.ask("GET", location)
            if answer.header("range").rpartition("-")[2] not in ("", "0"):
                break
            time.sleep(0.2)
        else:
            self.fault(
                "request-buffering",
                "A broken upload leaves nothing to resume: the proxy stores bodies before it forwards them (nginx: "
                "proxy_request_buffering off; proxy_http_version 1.1; HAProxy: no option http-buffer-request).",
            )
        self.target.ask("DELETE", location)

    def _send_chunked(self, location: str, pause_seconds: float) -> Answer | None:
        """Send the blob in two chunks with a pause between them; return None if the connection ended in it."""
        half = len(self.blob) // 2
        connection = self._begin("PATCH", location, {"Transfer-Encoding": "chunked"})
        with contextlib.closing(connection):
            try:
                connection.send(b"%x\r\n%b\r\n" % (half, self.blob[:half]))
                time.sleep(pause_seconds)
                connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (half, self.blob[half:]))
                return read(connection)
            except (OSError, http.client.HTTPException):
                if pause_seconds:
                    return None
                raise

    def _begin(self, method: str, path: str, headers: dict[str, str]) -> http.client.HTTPConnection:
        connection = self.target.connect()
        connection.putrequest(method, path)
        for name, value in {**self.target.credentials(), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection

    def _early(self, connection: http.client.HTTPConnection) -> Answer | None:
        """Return a response that comes before the body is complete."""
        assert connection.sock is not None
        connection.sock.settimeout(self.early_seconds)
        try:
            return read(connection)
        except (OSError, http.client.HTTPException):
            return None

    def _check_downloads(self) -> None:
        path = f"{self.root}/blobs/{self.digest}"
        answer = self._get(path)
        if answer.body != self.blob:
            self.fault("content", "A blob comes back changed.")
        if answer.header("docker-content-digest") != self.digest:
            self.fault(
                "digest-header",
                "Docker-Content-Digest is lost (nginx: no proxy_hide_header; with X-Accel-Redirect: add_header "
                "Docker-Content-Digest $upstream_http_docker_content_digest always;).",
            )
        head = self.target.ask("HEAD", path)
        if head.status == 200 and head.header("content-length") != str(len(self.blob)):
            self.fault("head", "HEAD has no Content-Length: do not compress, cache or convert responses.")
        if self._get(path, {"Accept-Encoding": "gzip, br, zstd"}).header("content-encoding"):
            self.fault(
                "compression", "Blobs are compressed again (nginx: gzip off; Caddy: no encode; Traefik: no compress)."
            )
        for asked in ("bytes=10-19", "bytes=10-19,100-109"):
            answer = self._get(path, {"Range": asked})
            if answer.status != 206 or self.blob[10:20] not in answer.body:
                self.fault(
                    "ranges", f"Range: {asked} is answered with {answer.status}: forward Range and Content-Range."
                )
        encoded = self.repository.replace("/", "%2F")
        for each in dict.fromkeys((self.repository, encoded)):
            status = self.target.ask("GET", f"/v2/{each}/tags/list").status
            if each == encoded and status != 200:
                self.fault(
                    "encoded-slash",
                    f"A path with %2F is answered with {status} (Apache: AllowEncodedSlashes NoDecode, ProxyPass … "
                    "nocanon; Traefik: allowEncodedSlash; nginx: proxy_pass without a path).",
                )
        self._check_replicas()

    def _get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        answer = self.target.ask("GET", path, headers={"Accept-Encoding": "identity", **(headers or {})})
        if answer.status not in (302, 307):
            return answer
        location = urljoin(self.target.url, answer.header("location"))
        parts = urlsplit(location)
        try:
            with contextlib.closing(self.target.connect(location)) as connection:
                connection.request("GET", f"{parts.path}?{parts.query}", headers=headers or {})
                found = read(connection)
        except (OSError, http.client.HTTPException) as error:
            self.fault(
                "redirect",
                f"Downloads are redirected to {parts.scheme}://{parts.netloc}, which this client cannot reach "
                f"({error}). Set storage_redirect: false, or make the store reachable.",
            )
            return Answer(206 if (headers or {}).get("Range") else 200, {**answer.headers}, self.blob)
        return Answer(found.status, {**found.headers, **_digest_of(answer)}, found.body)

    def _check_replicas(self) -> None:
        path = f"{self.root}/manifests/probe"
        answers = [self.target.ask("HEAD", path, headers={"Accept": _MANIFEST_TYPE}) for _ in range(_REPLICA_REQUESTS)]
        missing = sum(answer.status == 404 for answer in answers)
        if missing:
            self.fault(
                "replicas",
                f"{missing} of {len(answers)} requests do not find what was pushed: the servers behind this address "
                "do not share a store.",
            )

    def _clean_up(self) -> None:
        for path in (f"manifests/sha256:{hashlib.sha256(self._manifest()).hexdigest()}", f"blobs/{self.digest}"):
            self.target.ask("DELETE", f"{self.root}/{path}")


def _digest_of(answer: Answer) -> dict[str, str]:
    digest = answer.header("docker-content-digest")
    return {"docker-content-digest": digest} if digest else {}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
