"""docker-registry doctor, with deliberately misconfigured proxies."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from docker_registry.cli import main
from docker_registry.doctor.connection import Target
from docker_registry.doctor.probes import CannotExamine, Examination
from tests.support.certificates import Authority
from tests.support.processes import free_port
from tests.support.servers.proxies import PASSWORD, PROXIES, USER, running_proxy
from tests.support.servers.registry import Server


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("examined") / "store") as server:
        yield server
        server.kill()  # rather than wait for the bodies that proxies have not ended


def faults(url, ca=None, expected=""):
    target = Target(url, ca, USER, PASSWORD)
    early = 60 if expected == "body-limit" else 0.2
    patience = 10 if expected == "request-buffering" else 60
    found = Examination(target, "doctor/probe", early_seconds=early, patience_seconds=patience).run()
    return [finding.probe for finding in found if finding.is_fault]


def replaced(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new)

    return change


class Relay(BaseHTTPRequestHandler):
    """Forwards whole requests to a registry, and changes responses."""

    protocol_version = "HTTP/1.1"
    port = 0
    change = staticmethod(lambda number, method, path, status, headers: (status, headers))
    number = 0

    def log_message(self, *_):
        pass

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return iter([self.rfile.read(int(self.headers.get("Content-Length") or 0))])

        def chunks():
            while size := int(self.rfile.readline() or b"0", 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        return chunks()

    def _relay(self):
        if int(self.headers.get("Content-Length") or 0) > 2**20:
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name not in ("Host", "Expect")}
            chunked = "Transfer-Encoding" in headers
            body = self._body() if chunked else b"".join(self._body())
            upstream.request(self.command, self.path, body, headers, encode_chunked=chunked)
            response = upstream.getresponse()
            content = response.read()
            type(self).number += 1
            answered = {name: value for name, value in response.getheaders() if name != "Connection"}
            status, answered = self.change(self.number, self.command, self.path, response.status, answered)
            self.send_response_only(status)
            for name, value in answered.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except (OSError, ValueError, http.client.HTTPException):
            self.close_connection = True
        finally:
            upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _relay  # noqa: N815 - names of the base class


@contextmanager
def relay(port, change):
    handler = type("Handler", (Relay,), {"port": port, "change": staticmethod(change)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def with_header(wanted, name, value):
    def change(_number, _method, path, status, headers):
        return status, {**headers, name: value} if wanted(path, headers) else headers

    return change


class TestAHealthyProxy:
    @pytest.mark.parametrize(
        "proxy", [PROXIES[0], *(pytest.param(proxy, marks=pytest.mark.slow) for proxy in PROXIES[1:])], ids=str
    )
    def test_has_no_fault(self, proxy, registry, authority, tmp_path):
        with running_proxy(proxy, tmp_path, registry.port, authority) as url:
            assert [] == faults(url, authority.file)

    def test_is_reported_by_the_command(self, registry, capsys):
        assert 0 == main(["doctor", registry.url, "--json"])
        assert ["tls"] == [finding["probe"] for finding in json.loads(capsys.readouterr().out)]


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


class TestAnotherProxy:
    @pytest.mark.parametrize(
        ("fault", "change"),
        [
            pytest.param(
                "location",
                with_header(lambda _, headers: "Location" in headers, "Location", "http://127.0.0.2:1/v2/lost"),
                marks=pytest.mark.slow,  # waits for a minute
            ),
            ("clock", with_header(lambda path, _: path == "/v2/", "Date", "Sun, 01 Nov 2020 10:00:00 GMT")),
            (
                "replicas",
                lambda number, method, path, status, headers: (
                    404 if method == "HEAD" and "manifests" in path and number % 2 else status,
                    headers,
                ),
            ),
            (
                "redirect",
                lambda _, method, path, status, headers: (
                    (307, {**headers, "Location": f"http://127.0.0.1:{free_port()}/x"})
                    if method == "GET" and "/blobs/sha256" in path
                    else (status, headers)
                ),
            ),
        ],
        ids=["location", "clock", "replicas", "redirect"],
    )
    def test_has_its_fault_reported(self, fault, change, registry):
        with relay(registry.port, change) as url:
            try:
                assert fault in faults(url)
            except CannotExamine:
                assert fault == "location"  # an upload that continues elsewhere cannot be completed


class TestAnAddress:
    def test_that_cannot_be_reached_is_an_error(self, capsys):
        assert 2 == main(["doctor", f"http://127.0.0.1:{free_port()}"])
        assert "cannot be examined" in capsys.readouterr().err

    def test_with_a_path_is_an_error(self, capsys):
        assert 2 == main(["doctor", "http://127.0.0.1:5000/v2/"])
        assert "without a path" in capsys.readouterr().err
