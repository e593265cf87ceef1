"""The logs: one line for each request, whatever happens to the log, and no secrets."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time

import pytest
import requests

from docker_registry import services
from docker_registry.api.routes import ACTIONS
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError
from docker_registry.http.clients import TrustedProxies
from docker_registry.http.exchange import Exchange
from docker_registry.logs.audit import event_of
from docker_registry.registry.access import Action
from tests.support.clients.v2 import Client
from tests.support.gevent_program import under_gevent
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

FIELDS = """
    time level message request_id trace_id method route status bytes_in bytes_out seconds first_byte_seconds cached
    client principal repository reference digest upstream user_agent
"""
MANIFEST = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
TYPE = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def lines_of(path, last):
    """Return the lines of a log once one of them contains a text and is complete."""

    def complete():
        lines = path.read_text().rpartition("\n")[0]
        return lines if last in lines else ""

    return [json.loads(line) for line in wait_until(complete, path.read_text).splitlines()]


class TestALogAsJson:
    def test_has_one_line_for_each_request_and_an_audit_beside_it(self, tmp_path):
        audit = tmp_path / "audit.log"
        environment = {
            "REGISTRY_LOG_FORMAT": "json",
            "REGISTRY_AUDIT_LOG": str(audit),
            "REGISTRY_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8",
            "REGISTRY_DELETE_TAGS": "false",
            "REGISTRY_WITHOUT_EFFECT": "1",
        }
        with Server(tmp_path / "store", **environment) as server, requests.Session() as session:
            url = f"{server.url}/v2/acme/web/manifests/v1"
            forwarded = {"X-Forwarded-For": "192.0.2.7, 198.51.100.1, 10.1.2.3"}
            assert 201 == session.put(url, data=MANIFEST, headers={**TYPE, **forwarded}, timeout=20).status_code
            time.sleep(0.3)  # files that changed just now make no cached response
            for _ in range(3):
                session.get(url, headers={"User-Agent": 'a\tb\x85"', "Authorization": "Basic czNjcmV0"}, timeout=20)
            trace = {"Traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-Id": "mine", "Cookie": "s3cret=1"}
            error = session.get(f"{server.url}/v2/acme/web/manifests/none?token=s3cret&n=1", headers=trace, timeout=20)
            assert 405 == session.delete(url, auth=("me", "s3cret"), timeout=20).status_code
            audited = lines_of(audit, "refusal")
            lines = lines_of(server.log, '"method":"DELETE"')

        assert ("mine", trace["Traceparent"]) == (error.headers["X-Request-Id"], error.headers["Traceparent"])
        text = server.log.read_text() + audit.read_text()
        assert [] == [secret for secret in ("s3cret", "czNj", "Basic") if secret in text.replace("token=********", "")]
        assert any("Booting worker" in line["message"] for line in lines)
        logged = [line for line in lines if "method" in line and line["repository"]]
        assert set(FIELDS.split()) == set(logged[0])
        assert ["PUT", "GET", "GET", "GET", "GET", "DELETE"] == [line["method"] for line in logged]
        assert len(logged) == len({line["request_id"] for line in logged})
        put, *gets, missing, _ = logged
        assert (201, "198.51.100.1", len(MANIFEST)) == (put["status"], put["client"], put["bytes_in"])
        assert [True, 'a\tb\x85"', "127.0.0.1"] == [gets[-1][name] for name in ("cached", "user_agent", "client")]
        assert gets[0]["digest"] == gets[-1]["digest"] != ""
        assert len(MANIFEST) == gets[0]["bytes_out"]
        assert ("mine", TRACE, 404) == (missing["request_id"], missing["trace_id"], missing["status"])
        assert "GET /v2/acme/web/manifests/none?token=********&n=1 404" == missing["message"]
        events = [(line["event"], line["method"], line["client"], line["reference"]) for line in audited]
        assert [("change", "PUT", "198.51.100.1", "v1"), ("refusal", "DELETE", "127.0.0.1", "v1")] == events
        assert "me" == audited[-1]["principal"] or "anonymous" == audited[-1]["principal"]


class TestTheAuditLog:
    def test_has_every_route_that_changes_something(self):
        exchange = Exchange("PUT", "", "", "", "", 201, 0, 0, 0, 0, "", "", "", False, "", "", "", "", "", "", "")
        routes = {route for route, action in ACTIONS.items() if action is not Action.PULL}
        unaudited = {route for route in routes if event_of(exchange._replace(route=route)) != "change"}
        assert unaudited == {
            "v1_repositories.authorize", "v2_uploads.append_chunk", "v2_uploads.cancel_upload", "v2_uploads.get_upload",
        }  # fmt: skip
        assert not event_of(exchange._replace(route="v2_uploads.start_upload", status=202))


class TestAnUnwritableLog:
    def test_fails_no_request(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # which never reads
        logs = {"GUNICORN_ACCESS_LOG_FILE": str(pipe), "REGISTRY_AUDIT_LOG": "/dev/full"}
        with Server(tmp_path / "store", **logs) as server, Client(server.url) as client:
            for turn in range(200):
                answer = client.session.get(f"{server.url}/v2/", headers={"User-Agent": "x" * 2000}, timeout=20)
                assert 200 == answer.status_code
                if turn == 100:  # more than a pipe holds
                    os.close(reader)
            put = client.session.put(f"{server.url}/v2/a/manifests/v1", data=MANIFEST, headers=TYPE, timeout=20)
            assert 201 == put.status_code
            wait_until(lambda: "lines were lost" in server.log.read_text(), server.log.read_text)
        assert "audit_log: 1 lines were lost" in server.log.read_text()

    def test_of_errors_delays_no_request_and_can_be_opened_again(self, tmp_path):
        path = tmp_path / "errors"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # which never reads
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
        with Server(tmp_path / "store", GUNICORN_ERROR_LOG_FILE=str(path)) as server:

            def is_refused():
                with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
                    connection.sendall(b"NOT HTTP\r\n\r\n")
                    return connection.recv(100).startswith(b"HTTP/1.1 400 ")

            assert all(is_refused() for _ in range(50))  # each is logged
            os.close(reader)
            path.rename(tmp_path / "pipe")
            server.process.send_signal(signal.SIGUSR1)
            wait_until(path.is_file)
            wait_until(lambda: is_refused() and "Invalid request" in path.read_text())

    def test_of_errors_can_be_opened_again_while_that_is_in_progress(self, tmp_path):
        program = """
import sys

from gunicorn.config import Config

from docker_registry.server.access_log import AccessLog

cfg = Config()
cfg.set("errorlog", sys.argv[1])
log = AccessLog(cfg)
log.divert()
gevent.joinall([gevent.spawn(log.reopen_files) for _ in range(2)], raise_error=True)
log.error("later")
log.finish()
"""
        under_gevent(program, str(tmp_path / "errors"))
        assert (tmp_path / "errors").read_text().endswith("later\n")


#: A log in a worker, and the lines that were written to it.
LINE_WRITER = """
from docker_registry.concurrency import run_in_thread
from docker_registry.logs.line_writer import LineWriter

written = []
def wait_for(count):
    with gevent.Timeout(40):
        while len(written) < count:
            gevent.sleep(0.01)
"""


class TestALineWriter:
    def test_accepts_lines_from_a_native_thread(self):
        program = """
writer = LineWriter("log", written.append)
run_in_thread(writer.write, "first ")
wait_for(1)
writer.write("second")
wait_for(2)
print(*map(bytes.decode, written))
"""
        assert ["first", "second"] == under_gevent(LINE_WRITER + program)

    def test_is_closed_after_the_block_that_is_being_written(self):
        program = """
begun = []
def write(content):
    begun.append(content)
    native_sleep(0.3 if len(begun) == 1 else 0)
    written.append(content)
writer = LineWriter("log", write)
writer.write("first ")
with gevent.Timeout(40):
    while not begun:
        gevent.sleep(0.01)
writer.write("second")
writer.close()
print(*map(bytes.decode, written))
"""
        assert ["first", "second"] == under_gevent(LINE_WRITER + program)

    def test_that_hangs_does_not_delay_the_end(self):
        program = """
def write(content):
    native_sleep(50)
    written.append(content)
writer = LineWriter("log", write)
writer.write("line")
writer.close()
print(written)
"""
        assert ["[]"] == under_gevent(LINE_WRITER + program)


class TestAnAddressBehindProxies:
    @pytest.mark.parametrize(
        ("expected", "peer", "header"),
        [
            ("203.0.113.9", "203.0.113.9", "192.0.2.1"),  # not trusted: its header is ignored
            ("192.0.2.1", "10.0.0.1", "192.0.2.1"),
            ("192.0.2.1", "10.0.0.1", "6.6.6.6, 192.0.2.1, 10.0.0.2"),
            ("192.0.2.1", "::ffff:10.0.0.1", "192.0.2.1:4711"),
            ("2001:db8::1", "10.0.0.1", "[2001:db8::1]:4711"),
            ("2001:db8::1", "10.0.0.1", 'for=192.0.2.1, for="[2001:db8::1]:4711";proto=https'),
            ("192.0.2.1", "10.0.0.1", "for=6.6.6.6, 192.0.2.1"),  # the client wrote the first part
            ("192.0.2.1", "10.0.0.1", "6.6.6.6," * 1000 + "192.0.2.1"),
            ("10.0.0.1", "10.0.0.1", "6.6.6.6," + 1020 * " " + "unknown"),
            ("10.0.0.1", "10.0.0.1", "for=6.6.6.6, for=unknown"),
            ("10.0.0.1", "10.0.0.1", "unknown"),
            ("10.0.0.1", "10.0.0.1", "192.0.2.1, junk"),
            ("fe80::1", "10.0.0.1", 'fe80::1%eth0" 200 "forged'),
            ("192.0.2.1", "10.0.0.1", "::ffff:192.0.2.1"),
            ("10.0.0.1", "10.0.0.1", ""),
            ("", "", "192.0.2.1"),  # a Unix socket: trusted only if configured
            ("junk", "junk", "192.0.2.1"),
            ("10.0.0.1", "10.0.0.1", "192.0.2.1," * 1000),
        ],
    )
    def test_is_the_first_that_is_not_a_proxy(self, expected, peer, header):
        assert expected == TrustedProxies(["10.0.0.0/8"]).client_of(peer, header)

    def test_behind_a_unix_socket_is_reported_by_the_proxy(self):
        assert "192.0.2.1" == TrustedProxies(["unix"]).client_of("", "192.0.2.1")

    @pytest.mark.parametrize("peer", ["10.0.0.1", ""])
    def test_is_that_of_the_connection_without_proxies(self, peer):
        assert peer == TrustedProxies([]).client_of(peer, "192.0.2.1")


class TestAnInvalidSetting:
    @pytest.mark.parametrize(
        ("expected", "settings"),
        [("trusted_proxies: 10.0.0", {"trusted_proxies": ("10.0.0",)}), ("audit_log", {"audit_log": "/no/x"})],
    )
    def test_prevents_the_start(self, expected, settings):
        with pytest.raises(ConfigError, match=expected):
            services.build(Config(storage="memory", **settings), MemoryDriver())
