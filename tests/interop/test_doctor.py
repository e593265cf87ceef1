"""docker-registry doctor, with deliberately misconfigured proxies."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from docker_registry.cli import main
from docker_registry.doctor.connection import Target
from docker_registry.doctor.examination import Examination
from docker_registry.doctor.probes import examine
from tests.support.certificates import Authority
from tests.support.processes import free_port
from tests.support.servers.proxies import PASSWORD, PROXIES, USER, running_proxy
from tests.support.servers.registry import Server, TlsServer


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("examined") / "store") as server:
        yield server
        server.kill()  # rather than wait for the bodies that proxies have not ended


def faults(url, ca=None, expected="", path="", silence=0):
    target = Target(url, ca, USER, PASSWORD, path=path)
    early = 60 if expected == "body-limit" else 0.2
    patience = 10 if expected == "request-buffering" else 60
    silence = 600 if expected == "silence" else silence
    found = examine(Examination(target, "doctor/probe", silence, early_seconds=early, patience_seconds=patience))
    return [finding.probe for finding in found if finding.is_fault]


def replaced(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new)

    return change


class Relay(BaseHTTPRequestHandler):
    """
    Forwards whole requests to a registry; subclasses break it.

    Attributes:
        port: of the registry.
        accepts_chunks: whether bodies may be chunked.
        waits: whether it waits for the second half of the body of the silent upload.
    """

    protocol_version = "HTTP/1.1"
    port = 0
    number = 0
    accepts_chunks = True
    waits = True

    def request_headers(self, headers):
        """Return the headers that are forwarded."""
        return headers

    def response(self, number, status, headers, content):
        """Return what the client gets in place of the registry's response."""
        return status, headers, content

    def handle_expect_100(self):
        return super().handle_expect_100()

    def log_message(self, *_):
        pass

    def _body(self):
        """Return the parts of the body as they arrive."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self._parts(int(self.headers.get("Content-Length") or 0))

        def chunks():
            while size := int(self.rfile.readline() or b"0", 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        return chunks()

    def _parts(self, length):
        is_silent_upload = length == 128 * 1024
        while length:
            part = self.rfile.read1(min(length, 65536))
            length -= len(part)
            if not part or (is_silent_upload and not self.waits and length <= 64 * 1024):
                raise OSError("the body ends")
            yield part

    def _relay(self):
        if int(self.headers.get("Content-Length") or 0) > 2**20:
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = self.request_headers({name: value for name, value in self.headers.items() if name != "Expect"})
            chunked = "Transfer-Encoding" in headers
            if chunked and not self.accepts_chunks:
                self.close_connection = True
                self._send(411, {"Content-Length": "0", "Connection": "close"}, b"")
                return
            body = self._body() if chunked or "Content-Length" in headers else None
            upstream.request(self.command, self.path, body, headers, encode_chunked=chunked)
            response = upstream.getresponse()
            content = response.read()
            type(self).number += 1
            answered = {name: value for name, value in response.getheaders() if name != "Connection"}
            self._send(*self.response(self.number, response.status, answered, content))
        except (OSError, ValueError, http.client.HTTPException):
            self.close_connection = True
        finally:
            upstream.close()

    def _send(self, status, headers, content):
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _relay  # noqa: N815 - names of the base class


@contextmanager
def relay(port, *kinds):
    """Run a relay that is broken in each of these ways."""
    handler = type("Handler", (*kinds, Relay), {"port": port})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def changing(wanted, **headers):
    """A relay that sets headers of some responses, or removes them (None)."""

    def response(self, number, status, answered, content):
        status, answered, content = super(kind, self).response(number, status, answered, content)
        if wanted(self, answered):
            answered = {**answered, **{name.replace("_", "-"): value for name, value in headers.items()}}
            answered = {name: value for name, value in answered.items() if value is not None}
        return status, answered, content

    kind = type("Changing", (Relay,), {"response": response})
    return kind


def answering(status, wanted, **headers):
    """A relay that answers some requests by itself."""

    def response(self, number, *found):
        if not wanted(self, number):
            return super(kind, self).response(number, *found)
        return (
            status,
            {"Content-Length": "0", **{name.replace("_", "-"): value for name, value in headers.items()}},
            b"",
        )

    kind = type("Answering", (Relay,), {"response": response})
    return kind


def requesting(**headers):
    """A relay that sets headers of requests, or removes them (None)."""

    def request_headers(self, given):
        given = super(kind, self).request_headers(given)
        changed = {**given, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return {name: value for name, value in changed.items() if value is not None}

    kind = type("Requesting", (Relay,), {"request_headers": request_headers})
    return kind


class RefusingExpect(Relay):
    def handle_expect_100(self):
        self.send_response_only(417)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.close_connection = True
        return False


class ChangingBlobs(Relay):
    def response(self, number, status, headers, content):
        if "/blobs/sha256" in self.path and len(content) > 1024:
            content = content[:-1] + b"x"
        return super().response(number, status, headers, content)


class RefusingChunks(Relay):
    accepts_chunks = False


class Impatient(Relay):
    waits = False


class Redirecting(Relay):
    def response(self, number, status, headers, content):
        if self.command == "GET" and "/blobs/sha256" in self.path:
            status, headers = 307, {**headers, "Location": "http://127.0.0.1:1/x"}
        return super().response(number, status, headers, content)


#: Relays, each with one fault that other probes must not notice.
FAULTS = {
    "clock": changing(lambda relay, _: relay.path == "/v2/", Date="Sun, 01 Nov 2020 10:00:00 GMT"),
    "expect": RefusingExpect,
    "content": ChangingBlobs,
    "head": changing(lambda relay, _: relay.command == "HEAD" and "/blobs/" in relay.path, Content_Length=None),
    "warning-header": changing(lambda _, headers: "Warning" in headers, Warning=None),
    "resume": requesting(Content_Range=None),
    "scheme": requesting(X_Forwarded_Proto="https"),
    "digest-header": changing(lambda relay, _: "/blobs/" in relay.path, Docker_Content_Digest=None),
    "chunked": RefusingChunks,
}

#: Relays through which nothing can be pushed or pulled, so that few other probes are run.
FATAL = {
    "location": changing(lambda _, headers: "Location" in headers, Location="http://127.0.0.2:1/v2/lost"),
    "replicas": answering(
        404, lambda relay, number: relay.command == "GET" and "/uploads/" in relay.path and number % 2
    ),
    "realm": answering(
        401,
        lambda relay, _: relay.path == "/v2/",
        WWW_Authenticate='Bearer realm="https://127.0.0.1:1/v2/token",service="x"',
    ),
}

#: Further ones, not combined with others.
ALONE = {
    "host": requesting(Host="registry.internal:5000"),
    "replicas": answering(
        404, lambda relay, number: relay.command == "HEAD" and "manifests" in relay.path and number % 2
    ),
    "redirect": Redirecting,
    "silence": Impatient,
}


class TestAHealthyProxy:
    @pytest.mark.parametrize(
        "proxy", [PROXIES[0], *(pytest.param(proxy, marks=pytest.mark.slow) for proxy in PROXIES[1:])], ids=str
    )
    def test_has_no_fault(self, proxy, registry, authority, tmp_path):
        with running_proxy(proxy, tmp_path, registry.port, authority) as url:
            assert [] == faults(url, authority.file, silence=1)

    @pytest.mark.slow
    @pytest.mark.parametrize("proxy", PROXIES, ids=str)
    def test_has_no_fault_below_a_path(self, proxy, authority, tmp_path):
        (tmp_path / "proxy").mkdir()
        with (
            Server(tmp_path / "store", REGISTRY_EXTERNAL_URL="/my/registry") as server,
            running_proxy(proxy, tmp_path / "proxy", server.port, authority) as url,
        ):
            assert [] == faults(url, authority.file, path="/my/registry")
            server.kill()

    @pytest.mark.slow
    def test_that_removes_the_path_has_no_fault(self, registry, authority, tmp_path):
        change = replaced(
            "proxy_pass http://docker-registry;",
            "rewrite ^/below/(.*) /$1 break; proxy_pass http://docker-registry; proxy_set_header Host $http_host; "
            'proxy_set_header Connection ""; proxy_set_header X-Forwarded-Proto $scheme; '
            "proxy_set_header X-Forwarded-Prefix /below;",
        )
        with running_proxy(PROXIES[0], tmp_path, registry.port, authority, change) as url:
            assert [] == faults(url, authority.file, path="/below")
        silent = replaced(
            "proxy_pass http://docker-registry;", "rewrite ^/below/(.*) /$1 break; proxy_pass http://docker-registry;"
        )
        (tmp_path / "other").mkdir()
        with running_proxy(PROXIES[0], tmp_path / "other", registry.port, authority, silent) as url:
            assert "location" in faults(url, authority.file, path="/below")

    @pytest.mark.slow
    def test_waits_for_silent_clients(self, registry, authority, tmp_path):
        """Longer than the 60 s after which many servers end a connection by default."""
        with ExitStack() as opened, ThreadPoolExecutor() as threads:
            urls = []
            for proxy in PROXIES:
                (tmp_path / proxy.name).mkdir()
                running = running_proxy(proxy, tmp_path / proxy.name, registry.port, authority)
                urls.append(opened.enter_context(running))
            examined = threads.map(lambda url: faults(url, authority.file, silence=120), urls)
            assert {str(proxy): [] for proxy in PROXIES} == dict(zip(map(str, PROXIES), examined, strict=True))

    def test_that_sends_session_tickets_has_no_fault(self, authority, tmp_path):
        """Of TLS 1.3: they arrive while a client is silent."""
        certificate, key = authority.issue("registry")
        settings = {"REGISTRY_TLS_CERTIFICATE": str(certificate), "REGISTRY_TLS_KEY": str(key)}
        with TlsServer(tmp_path / "store", **settings) as server:
            assert [] == faults(server.url, authority.file, silence=1)
            server.kill()

    def test_is_reported_by_the_command(self, registry, capsys):
        url = registry.url.replace("127.0.0.1", "LOCALHOST")  # which clients send in lower case
        assert 0 == main(["doctor", url, "--json", "--silence", "0"])
        assert ["tls"] == [finding["probe"] for finding in json.loads(capsys.readouterr().out)]
        with urllib.request.urlopen(f"{registry.url}/v2/_catalog") as catalog:
            assert "docker-registry-doctor/probe" in json.load(catalog)["repositories"]


@pytest.mark.slow
class TestAMisconfiguredNginx:
    @pytest.mark.parametrize(
        ("fault", "change"),
        [
            ("request-buffering", replaced("proxy_request_buffering off", "proxy_request_buffering on")),
            ("body-limit", replaced("client_max_body_size 0", "client_max_body_size 1m")),
            (
                "compression",
                replaced("client_max_body_size", "gzip on; gzip_types *; gzip_proxied any; client_max_body_size"),
            ),
            ("ranges", replaced('Connection "";', 'Connection ""; proxy_set_header Range "";')),
            (
                "digest-header",
                replaced("client_max_body_size", "proxy_hide_header Docker-Content-Digest; client_max_body_size"),
            ),
            ("encoded-slash", replaced("location / {", 'location / { if ($request_uri ~ "%2F") { return 404; }')),
        ],
    )
    def test_has_exactly_its_fault_reported(self, fault, change, registry, authority, tmp_path):
        with running_proxy(PROXIES[0], tmp_path, registry.port, authority, change) as url:
            assert [fault] == faults(url, authority.file, fault)

    def test_with_an_unknown_authority_is_reported(self, registry, authority, tmp_path):
        with running_proxy(PROXIES[0], tmp_path, registry.port, authority) as url:
            assert ["certificate"] == faults(url)

    def test_with_an_expired_certificate_is_reported(self, authority, tmp_path):
        certificate, key = authority.issue("expired", days=-1)
        settings = {"REGISTRY_TLS_CERTIFICATE": str(certificate), "REGISTRY_TLS_KEY": str(key)}
        with TlsServer(tmp_path / "store", **settings) as server:
            found = examine(Examination(Target(server.url, authority.file, None, None), "doctor/probe"))
        assert [True] == [finding.message.endswith("expired. Renew it.") for finding in found if finding.is_fault]


class TestAnotherProxy:
    def test_has_all_its_faults_reported(self, registry):
        with relay(registry.port, *FAULTS.values()) as url:
            assert sorted(FAULTS) == sorted(faults(url))

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            *(pytest.param(*each, id=each[0]) for each in FATAL.items()),
            *(pytest.param(*each, id=f"{each[0]}-alone", marks=pytest.mark.slow) for each in ALONE.items()),
            *(pytest.param(*each, id=each[0], marks=pytest.mark.slow) for each in FAULTS.items()),
        ],
    )
    def test_has_exactly_its_fault_reported(self, fault, kind, registry):
        with relay(registry.port, kind) as url:
            assert [fault] == faults(url, expected=fault)


class TokenServer(BaseHTTPRequestHandler):
    """
    A registry that demands tokens, and the server that issues them.

    Attributes:
        realm: of the challenge, after the address of this server.
        content: the response to a request for a token.
        paths: of requests for a token.
    """

    realm, content, paths = "", b"", ()

    def do_GET(self):
        is_challenge = self.path == "/v2/"
        content = b"" if is_challenge else self.content
        self.send_response(401 if is_challenge else 200)
        if is_challenge:
            realm = f"http://{self.headers['Host']}{self.realm}" if self.realm is not None else "/token"
            self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="here"')
        else:
            self.paths.append(self.path)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def token_server(**attributes):
    """Run a token server, and yield its URL and the paths of the requests for a token."""
    paths = []
    handler = type("Handler", (TokenServer,), {"paths": paths, **attributes})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", paths
        finally:
            server.shutdown()
            thread.join()


class TestATokenServer:
    @pytest.mark.parametrize("content", [b"{}", b"[]", b'{"token": null}', b"<html>", b'{"access_token": 1}'])
    def test_that_issues_no_token_is_an_error(self, content, capsys):
        with token_server(content=content) as (url, _):
            assert 2 == main(["doctor", url])
        assert "the response of the token server has no token" in capsys.readouterr().err

    def test_is_asked_again_before_the_probes_are_removed(self):
        """Tokens may live for less than the pause of an upload; this one has expired at once."""
        with token_server(content=b'{"token": "expired"}') as (url, paths):
            assert 2 == main(["doctor", url])
        assert 2 == len(paths)

    def test_that_lets_anonymous_clients_push_nothing_needs_a_user(self, capsys):
        with token_server(content=b'{"token": "anonymous"}', do_POST=lambda server: server.send_error(401)) as (url, _):
            assert 2 == main(["doctor", url])
        assert "401; name a user that may push (--user)" in capsys.readouterr().err

    @pytest.mark.parametrize("realm", [None, "[::x/token"])
    def test_without_a_url_is_an_error(self, realm, capsys):
        with token_server(realm=realm) as (url, paths):
            assert main(["doctor", url]) in (1, 2)
        assert "no token for docker-registry-doctor/probe" in "".join(capsys.readouterr())
        assert [] == paths

    @pytest.mark.parametrize(
        ("realm", "path"), [("", "/?"), ("/token", "/token?"), ("/token?tenant=a", "/token?tenant=a&")]
    )
    def test_is_asked_at_the_whole_url_of_the_realm(self, realm, path):
        with token_server(content=b'{"access_token": "found"}') as (url, paths):
            challenge = f'Bearer realm="{url}{realm}",service="here"'
            assert "found" == Target(url).fetch_token(challenge, "repository:a:pull")
        assert [f"{path}service=here&scope=repository%3Aa%3Apull"] == paths


class TestAnAddress:
    def test_that_cannot_be_reached_is_an_error(self, capsys):
        assert 2 == main(["doctor", f"http://127.0.0.1:{free_port()}"])
        assert "cannot be examined" in capsys.readouterr().err

    def test_of_an_upload_that_is_malformed_is_an_error(self, registry, capsys):
        kind = changing(lambda _, headers: "Location" in headers, Location="http://[x")
        with relay(registry.port, kind) as url:
            assert 2 == main(["doctor", url, "--silence", "0"])
        assert "cannot be examined" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["http://127.0.0.1:5000/v2/"], "without /v2"),
            (["ftp://127.0.0.1"], "must be https://HOST"),
            (["http://[x"], "must be https://HOST"),
            (["http://127.0.0.1:99999"], "must be https://HOST"),
            (["http://me:s3cret@127.0.0.1:5000"], "without a user"),
            (["https://127.0.0.1:5000", "--ca", "/no/file"], "/no/file cannot be used: No such file"),
            (["http://127.0.0.1:5000", "--silence", "-1"], "--silence must be"),
            (["http://127.0.0.1:5000", "--silence", "nan"], "--silence must be"),
            (["http://127.0.0.1:5000", "--user", "me"], "DOCKER_REGISTRY_PASSWORD is not set"),
        ],
    )
    def test_that_is_wrong_is_an_error(self, arguments, said, capsys):
        assert 2 == main(["doctor", *arguments])
        assert said in capsys.readouterr().err
