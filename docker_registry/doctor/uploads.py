"""Probes that push."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from typing import Final
from urllib.parse import quote, urljoin, urlsplit
from uuid import uuid4

from docker_registry.doctor.connection import TIMEOUT_SECONDS, Answer, host_and_port, read
from docker_registry.doctor.examination import CannotExamine, Examination
from docker_registry.doctor.probe_image import INDEX_TYPE, MANIFEST_TYPE

_GIB: Final = 1024**3

#: New connections that must find the same content.
REPLICA_REQUESTS: Final = 12

REPLICAS: Final = (
    "{missing} of {asked} requests do not find what was pushed: the servers behind this address do not share a store."
)


def check_sessions(examination: Examination) -> None:
    """
    Check that every request finds an upload that was started.

    Raises:
        CannotExamine: the push is refused, or uploads cannot be continued.
    """
    location = _start(examination)
    statuses = [examination.target.ask("GET", location).status for _ in range(REPLICA_REQUESTS)]
    missing = statuses.count(404)
    if 0 < missing < len(statuses):
        examination.findings.fault("replicas", REPLICAS.format(missing=missing, asked=len(statuses)))
    if missing:
        raise CannotExamine("an upload that was started is not found")
    examination.target.ask("DELETE", location)


def check(examination: Examination) -> None:
    """
    Run the probes that push, and push the image.

    Raises:
        CannotExamine: the registry does not accept it.
    """
    _check_public_url(examination)
    _check_announced(examination)
    _check_expect(examination)
    location = _push_chunked(examination)
    _check_streaming(examination)
    _commit(examination, location)


def _start(examination: Examination, user_agent: str = "docker-registry-doctor") -> str:
    answer = _post(examination, user_agent)
    return _follow(examination, answer)


def _post(examination: Examination, user_agent: str) -> Answer:
    headers = {"User-Agent": user_agent}
    answer = examination.target.ask("POST", f"{examination.root}/blobs/uploads/", b"", headers)
    if answer.status == 413:
        examination.findings.fault("body-limit", "Even empty bodies are refused with 413.")
    if answer.status != 202:
        advice = "; name a user that may push (--user)" if answer.status == 401 and not examination.target.user else ""
        raise CannotExamine(f"a push to {examination.repository} is refused with {answer.status}{advice}")
    return answer


def _follow(examination: Examination, answer: Answer) -> str:
    """Return the path of a Location, which must lead back to the same address."""
    url, location = examination.target.url, answer.header("location")
    here, there = urlsplit(url), urlsplit(urljoin(url, location))
    if (there.scheme, host_and_port(there)) != (here.scheme, host_and_port(here)):
        examination.findings.fault(
            "location",
            f"Uploads continue at {there.scheme}://{there.netloc}. Rewrite no Location (nginx: proxy_redirect off; "
            "proxy_set_header Host $http_host;).",
        )
    elif not there.path.startswith(f"{examination.target.path}/"):
        examination.findings.fault(
            "location",
            f"Uploads continue at {there.path}, which is not below {examination.target.path}. Set external_url to "
            f"{url}{examination.target.path}, or X-Forwarded-Prefix in the proxy.",
        )
    return there.path + (f"?{there.query}" if there.query else "")


def _check_public_url(examination: Examination) -> None:
    """Compare this address with that of an absolute URL of the registry, which it sends to ollama."""
    answer = _post(examination, "ollama/0 docker-registry-doctor")
    told = urlsplit(answer.header("docker-upload-location"))
    here = urlsplit(examination.target.url)
    examination.target.ask("DELETE", _follow(examination, answer))
    if not told.netloc or examination.findings.has("realm", "location"):
        return
    if host_and_port(told) != host_and_port(here):
        examination.findings.fault(
            "host",
            f"URLs of the registry name the address {told.netloc}. Keep the header Host with its port (nginx: "
            "proxy_set_header Host $http_host; Apache: ProxyPreserveHost On), or set external_url.",
        )
    elif told.scheme != here.scheme:
        examination.findings.fault(
            "scheme",
            f"URLs of the registry begin with {told.scheme}://. Set the scheme (nginx: proxy_set_header "
            "X-Forwarded-Proto $scheme; Apache: RequestHeader set X-Forwarded-Proto https; HAProxy: http-request "
            "set-header X-Forwarded-Proto https) and trusted_proxies, or external_url.",
        )


def _check_announced(examination: Examination) -> None:
    """Announce 2 GiB, and do not send them."""
    path = f"{examination.root}/blobs/uploads/{uuid4()}"
    connection = _begin(examination, "PATCH", path, {"Content-Length": str(2 * _GIB)})
    with contextlib.closing(connection):
        connection.send(b"x")
        answer = _early(connection, examination.early_seconds)
    if answer is not None and answer.status == 413:
        examination.findings.fault(
            "body-limit",
            "A body of 2 GiB is refused with 413 (nginx: client_max_body_size 0; Apache: LimitRequestBody 0).",
        )


def _check_expect(examination: Examination) -> None:
    location = _start(examination)
    connection = _begin(examination, "PATCH", location, {"Content-Length": "1", "Expect": "100-continue"})
    with contextlib.closing(connection):
        sock = _socket(connection)
        sock.settimeout(examination.patience_seconds)
        try:
            said = sock.recv(64)
        except TimeoutError:
            said = b""
    if not said or said[9:12] == b"417":
        examination.findings.fault(
            "expect", "Expect: 100-continue is not answered, so curl waits a second for each body."
        )


def _push_chunked(examination: Examination) -> str:
    """Push the blob with chunked encoding, else with a length; return the path of the upload."""
    blob, location = examination.image.blob, _start(examination)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = _begin(examination, "PATCH", location, {"Transfer-Encoding": "chunked"})
        with contextlib.closing(connection):
            connection.send(_chunk(blob[: len(blob) // 2]))
            connection.send(_chunk(blob[len(blob) // 2 :]) + b"0\r\n\r\n")
            answer = read(connection)
            if answer.status == 202 and _received(answer) == len(blob):
                return _follow(examination, answer)
    examination.findings.fault(
        "chunked",
        "Chunked bodies are refused or lost (nginx: proxy_http_version 1.1; nginx 1.3.9 or later).",
    )
    return _follow(examination, examination.target.ask("PATCH", _start(examination), blob))


def _check_streaming(examination: Examination) -> None:
    """Break an upload, see whether the registry has received the part that was sent, and resume it."""
    blob, location = examination.image.blob, _start(examination)
    is_chunked = not examination.findings.has("chunked")
    headers = {"Transfer-Encoding": "chunked"} if is_chunked else {"Content-Length": str(2 * len(blob))}
    with contextlib.suppress(OSError):
        connection = _begin(examination, "PATCH", location, headers)
        with contextlib.closing(connection):
            connection.send(_chunk(blob) if is_chunked else blob)
            time.sleep(0.5)  # else the proxy may find the end of the connection before it has forwarded anything
    until = time.monotonic() + examination.patience_seconds
    while not (received := _received(examination.target.ask("GET", location))):
        if time.monotonic() > until:
            examination.findings.fault(
                "request-buffering",
                "A broken upload leaves nothing to resume: the proxy stores bodies before it forwards them (nginx: "
                "proxy_request_buffering off; proxy_http_version 1.1; HAProxy: no option http-buffer-request).",
            )
            break
        time.sleep(0.2)
    if received:
        # A part that does not start where the upload ends must be refused, else Content-Range was lost.
        elsewhere = {"Content-Range": f"{received + 1000}-{received + 1000}"}
        answer = examination.target.ask("PATCH", location, b"x", elsewhere)
        if answer.status != 416:
            examination.findings.fault(
                "resume",
                f"Resumed uploads are corrupted: Content-Range is not forwarded in requests (PATCH: {answer.status}).",
            )
    examination.target.ask("DELETE", location)


def _commit(examination: Examination, location: str) -> None:
    separator = "&" if "?" in location else "?"
    path = f"{location}{separator}digest={quote(examination.image.digest)}"
    answer = examination.target.ask("PUT", path, b"")
    if answer.status != 201:
        raise CannotExamine(f"the end of an upload is refused with {answer.status}")
    path = f"{examination.root}/manifests/probe"
    answer = examination.target.ask("PUT", path, examination.image.manifest, {"Content-Type": MANIFEST_TYPE})
    if answer.status != 201:
        raise CannotExamine(f"a manifest is refused with {answer.status}")
    path = f"{examination.root}/manifests/{examination.image.manifests[1]}"
    answer = examination.target.ask("PUT", path, examination.image.index, {"Content-Type": INDEX_TYPE})
    if answer.status == 201 and not answer.header("warning"):
        examination.findings.fault(
            "warning-header", "The header Warning is lost: clients do not learn that a mirrored image is out of date."
        )


class SilentUpload:
    """An upload with a pause, in a thread beside the other probes."""

    def __init__(self, examination: Examination) -> None:
        self._examination = examination
        self._is_cut_off = False

    def run(self) -> None:
        """Send a part of a body, wait, and send the rest."""
        half = self._examination.image.blob[: 64 * 1024]
        try:
            location = _start(self._examination)
            headers = {"Content-Length": str(2 * len(half))}
            with contextlib.closing(_begin(self._examination, "PATCH", location, headers)) as connection:
                connection.send(half)
                # No response and no end of the connection may come. TLS sends session tickets, so a socket that is
                # readable does not tell.
                _socket(connection).settimeout(self._examination.silence_seconds)
                try:
                    answer = read(connection)
                except TimeoutError:
                    _socket(connection).settimeout(TIMEOUT_SECONDS)
                    connection.send(half)
                    answer = read(connection)
                self._is_cut_off = answer.status != 202
            self._examination.target.ask("DELETE", location)
        except (OSError, ValueError, http.client.HTTPException, CannotExamine):
            self._is_cut_off = True

    def report(self) -> None:
        """Record the fault, once :meth:`run` has ended."""
        if self._is_cut_off:
            self._examination.findings.fault(
                "silence",
                f"The connection ends when a client is silent for {self._examination.silence_seconds:.0f} s (nginx: "
                "proxy_read_timeout, proxy_send_timeout, client_body_timeout 900s; Apache: ProxyTimeout 900; HAProxy: "
                "timeout client, timeout server).",
            )


def _begin(examination: Examination, method: str, path: str, headers: dict[str, str]) -> http.client.HTTPConnection:
    connection = examination.target.connect()
    connection.putrequest(method, path)
    for name, value in {**examination.target.credentials(), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection


def _socket(connection: http.client.HTTPConnection) -> socket.socket:
    assert connection.sock is not None
    return connection.sock


def _early(connection: http.client.HTTPConnection, seconds: float) -> Answer | None:
    """Return a response that comes before the body is complete."""
    _socket(connection).settimeout(seconds)
    try:
        return read(connection)
    except (OSError, http.client.HTTPException):
        return None


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def _received(answer: Answer) -> int:
    """Return the bytes of an upload that the registry has."""
    end = answer.header("range").rpartition("-")[2]
    return int(end) + 1 if end.isascii() and end.isdigit() and end != "0" else 0
