"""The exchanges that the worker reports to observers."""

from __future__ import annotations

import json
import socket
import sys
import time

import pytest

from docker_registry.dependencies import Dependencies
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.http.clients import TrustedProxies
from docker_registry.http.exchange import Exchange
from docker_registry.logs.audit import AuditLog
from docker_registry.logs.exchange_lines import (
    MAX_CHARACTERS,
    prepare_request_line,
    repeated_request_lines,
    request_line,
)
from docker_registry.metrics.recorder import MirrorRecorder
from docker_registry.metrics.server_metrics import ServerMetrics
from docker_registry.registry.mirror.pulls import Pulls
from docker_registry.registry.read_only import ReadOnly
from docker_registry.server.access_log import (
    BatchEntries,
    _prepare_usual_line,
    _repeated_usual_lines,
    _usual_line,
    basic_user,
)
from docker_registry.server.cached_exchanges import CachedExchanges
from docker_registry.server.client_socket import PlainSocket
from docker_registry.server.observation import _BATCH, Observation, RequestIds, trace_id
from docker_registry.server.response_cache import ResponseCache
from docker_registry.services.mirrors import PullObserver
from tests.server.test_response_cache import SETTLED_SECONDS, Connection, head_of
from tests.support.clients.v2 import Client, digest_of
from tests.support.images import make_image, push
from tests.support.servers.registry import Server

IMAGE = make_image("observed", layers=1)
MANIFEST = "/v2/acme/web/manifests/v1"
LAYER = next(iter(IMAGE.blobs))
BLOB = f"/v2/acme/web/blobs/{LAYER}"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
EXCHANGE = Exchange(
    "GET", "v2_manifests.get_manifest", "acme/web", "v1", "", 200, 0, 2, 0.0, 0.0, "anonymous", "1", "", False, "", "",
    "", MANIFEST, "HTTP/1.1", "", "", "", {},
)  # fmt: skip


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    return tmp_path_factory.mktemp("observed") / "exchanges"


@pytest.fixture(scope="module")
def server(observed):
    options = "tests.support.observed_application:application"
    with Server(observed.with_name("store"), OBSERVED=str(observed), GUNICORN_OPTS=options) as server:
        with Client(server.url) as client:
            push(client, "acme/web", "v1", IMAGE)
        time.sleep(SETTLED_SECONDS)
        yield server


@pytest.fixture
def exchange(server, observed):
    """Send one request, and return what was reported about it."""

    def exchange(request):
        before = observed.stat().st_size
        with Connection(server) as connection:
            connection.ask(request)
        return _reported(observed, before)[0]

    return exchange


def _reported(observed, before, count=1):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with observed.open() as file:
            file.seek(before)
            lines = file.read().splitlines()
        if len(lines) >= count:
            return [json.loads(line) for line in lines]
        time.sleep(0.01)
    raise AssertionError("nothing was reported")


def stable(exchange):
    """Return what is the same for a cached response."""
    changing = ("seconds", "first_byte_seconds", "request_id", "is_cached", "notes")
    return {name: value for name, value in exchange.items() if name not in changing}


class TestAnExchange:
    def test_has_the_facts_of_a_request(self, exchange):
        found = exchange(head_of(MANIFEST, "User-Agent: a client", "Accept: */*"))
        expected = {
            "method": "GET", "route": "v2_manifests.get_manifest", "repository": "acme/web", "reference": "v1",
            "digest": digest_of(IMAGE.manifest), "status": 200, "bytes_in": 0, "bytes_out": len(IMAGE.manifest),
            "principal": "anonymous", "trace_id": "", "client": "127.0.0.1", "user_agent": "a client", "upstream": "",
            "target": MANIFEST, "protocol": "HTTP/1.1", "referrer": "", "user": "", "traceparent": "",
        }  # fmt: skip
        assert expected == stable(found)
        assert 0 < found["first_byte_seconds"] <= found["seconds"] < 10

    @pytest.mark.parametrize("request_bytes", [head_of(MANIFEST), head_of(BLOB, method="HEAD"), head_of("/v2/")])
    def test_of_a_cached_response_has_the_same_facts_and_its_own_id(self, exchange, request_bytes):
        found = [exchange(request_bytes) for _ in range(4)]
        assert [False, True, True] == [each["is_cached"] for each in found[-3:]] or found[-3]["is_cached"]
        assert [stable(found[0])] * 4 == [stable(each) for each in found]
        assert 4 == len({each["request_id"] for each in found})

    def test_has_the_sizes_of_a_part_and_of_an_upload(self, exchange):
        part = exchange(head_of(BLOB, "Range: bytes=2-5"))
        assert (206, 4, LAYER) == (part["status"], part["bytes_out"], part["digest"])
        head = head_of(f"/v2/acme/up/blobs/uploads/?digest={digest_of(b'hello')}", "Content-Length: 5", method="POST")
        upload = exchange(head + b"hello")
        assert (201, 5, "acme/up", "v2_uploads.start_upload") == (
            upload["status"], upload["bytes_in"], upload["repository"], upload["route"],
        )  # fmt: skip

    def test_has_the_ids_that_the_client_sent_if_they_are_valid(self, exchange):
        for value, is_adopted in (("abc-1", True), ("a b", False), ("x" * 129, False), ('"', False)):
            found = exchange(head_of("/v2/none/manifests/x", f"X-Request-Id: {value}"))
            assert is_adopted == (value == found["request_id"]), value
            assert found["request_id"]
        assert (
            TRACE
            == exchange(head_of("/v2/none/manifests/x", f"traceparent: 00-{TRACE}-b7ad6b7169203331-01"))["trace_id"]
        )

    @pytest.mark.parametrize(
        ("target", "status", "repository", "reference"),
        [
            ("/v2/acme/web/manifests/none", 404, "acme/web", "none"),
            ("/v2/UPPER/manifests/x", 400, "UPPER", "x"),
            ("/v1/repositories/foo/tags", 404, "foo", ""),
            ("/nowhere", 404, "", ""),
        ],
    )
    def test_has_the_known_facts_of_a_failed_request(self, exchange, target, status, repository, reference):
        found = exchange(head_of(target))
        assert (status, repository, reference) == (found["status"], found["repository"], found["reference"])

    @pytest.mark.parametrize(
        ("request_bytes", "method", "status"),
        [(b"NOT HTTP\r\n\r\n", "", 400), (head_of("/v2/", f"X: {'x' * 70000}"), "", 431)],
    )
    def test_is_reported_of_an_unparsable_request(self, exchange, request_bytes, method, status):
        found = exchange(request_bytes)
        assert (method, status) == (found["method"], found["status"])

    def test_is_reported_of_each_request_once(self, server, observed, exchange):
        before = observed.stat().st_size
        with Connection(server) as connection:
            connection.ask(*[head_of(MANIFEST)] * 20)
        _reported(observed, before, 20)
        exchange(head_of("/v2/acme/web/manifests/last"))
        assert 21 == len(_reported(observed, before))


class TestARepeatedExchange:
    ANSWER = b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok"

    @pytest.fixture
    def client(self):
        ours, theirs = socket.socketpair()
        with theirs, PlainSocket(ours.family, ours.type, ours.proto, fileno=ours.detach()) as client:
            client.address = "10.1.2.3"
            yield client

    @pytest.fixture
    def repeated(self, client):
        """Observe a response from the cache once more, and return nothing."""

        def repeated(observation, *headers, **changes):
            cache, made_of = ResponseCache(), Dependencies()
            made_of.is_cacheable = True
            cache.add(head_of(MANIFEST), self.ANSWER, made_of, EXCHANGE._replace(**changes))

            hit = cache.find(head_of(MANIFEST, *headers))

            def observe(seconds=0.0, **options):
                CachedExchanges(observation).report(hit, client, time.perf_counter() - seconds, **options)

            return observe

        return repeated

    @pytest.fixture
    def written(self):
        return []

    @pytest.fixture
    def entries(self, written):
        return BatchEntries(written.extend, request_line, prepare_request_line, repeated_request_lines)

    def test_costs_few_calls(self, tmp_path, repeated, written, entries):
        metrics, observation = ServerMetrics(None, lambda _: None), Observation()
        for observer in (entries, metrics, AuditLog(str(tmp_path / "audit.log"))):
            observation.observers.append(observer)
        observe = repeated(observation, "User-Agent: a client")
        observe(is_complete=False)
        observe()
        calls = []
        sys.setprofile(lambda frame, event, argument: calls.append(event))
        try:
            for _ in range(4 * _BATCH):
                observe()
        finally:
            sys.setprofile(None)
        # For each of them two of the test, a report, two clocks and a length; later up to four if the machine is slow.
        assert sum(event in ("call", "c_call") for event in calls) < 10 * 4 * _BATCH
        observe(is_complete=False)
        count = 4 * _BATCH + 3
        lines = [json.loads(line) for line in written]
        assert [count] * 2 == [len(lines), len({line.pop("request_id") for line in lines})]
        times = [[line.pop(name) for name in ("time", "seconds", "first_byte_seconds")] for line in lines]
        assert times == sorted(times, key=lambda each: each[0])
        assert [lines[0]] * count == lines
        assert ("10.1.2.3", "a client", True) == tuple(lines[0][name] for name in ("client", "user_agent", "cached"))
        (row,) = metrics._recorder.series.values()
        assert (count, count, 2 * count) == (row.requests, row.cached, row.bytes_out)
        assert [count] * 3 == [sum(row.seconds_buckets), sum(row.bytes_in_buckets), sum(row.bytes_out_buckets)]

    def test_keeps_its_place_among_others(self, repeated, written, entries):
        metrics, observation = ServerMetrics(None, lambda numbers: observation.deliver()), Observation()
        observation.observers.append(entries)
        observation.observers.append(metrics)
        sizes = {"/a": 2, "/b": 3000}
        reports = [repeated(observation, target=path, bytes_out=size, notes={}) for path, size in sizes.items()]
        for observe in (*reports, *reports, reports[0]):
            observe()
        assert [] == written
        observation.report_refused(None, "10.9.9.9", 400)
        assert ["/a", "/b", "/a", "/b", "/a"] == [json.loads(line)["message"].split()[1] for line in written]
        reports[1]()
        row = metrics._numbers().series["manifest", "get", "200"]
        assert (6, 6 + 9000, [3, 3]) == (row.requests, row.bytes_out, row.bytes_out_buckets[:2])
        assert row.seconds_buckets[0] == 6

    def test_of_mirrored_content_is_counted_with_others(self, repeated):
        driver, observation, recorder = MemoryDriver(), Observation(), MirrorRecorder(["hub"])
        pulls = Pulls(driver, lambda name: name.startswith("hub/"), ReadOnly(driver))
        observation.observers.append(recorder)
        observation.observers.append(PullObserver(pulls))
        reports = [repeated(observation, repository=name, digest="sha256:0") for name in ("hub/a", "acme/web")]
        for observe in 3 * reports:
            observe()
        counts = [("requests", "manifest", "hub"), ("hits", "manifest", "hub"), ("pushed_bytes", "manifest", "hub")]
        assert ([0, 0, 0], set()) == ([recorder.counts[each] for each in counts], set(pulls._pulled))
        observation.deliver()
        assert ([3, 3, 6], {"mhub/a@sha256:0"}) == ([recorder.counts[each] for each in counts], set(pulls._pulled))

    def test_that_was_slow_counts_as_such(self, repeated):
        metrics, observation = ServerMetrics(None, lambda numbers: observation.deliver()), Observation()
        observation.observers.append(metrics)
        observe = repeated(observation)
        for seconds in (0.0, 0.007, 0.02, 70.0):
            observe(seconds)
        row = metrics._numbers().series["manifest", "get", "200"]
        assert [1, 1, 1, 1] == [row.seconds_buckets[index] for index in (0, 1, 2, -2)]
        assert 70.027 < row.seconds < 71

    def test_is_audited_at_once_if_it_is_a_login(self, tmp_path, repeated, written, entries):
        observation, audit = Observation(), AuditLog(str(tmp_path / "audit.log"))
        observation.observers.append(entries)
        observation.observers.append(audit)
        observe = repeated(observation, route="v2_base.check_version", user="me")
        for _ in range(3):
            observe()
        assert 3 == len(written)
        audit.close()
        assert 3 == (tmp_path / "audit.log").read_text().count('"event":"login"')

    @pytest.mark.parametrize("header", ["X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.7"])
    def test_names_the_client_behind_a_proxy(self, repeated, written, header):
        observation = Observation()
        observation.proxies = TrustedProxies(["10.0.0.0/8"])
        observation.observers.append(
            BatchEntries(written.extend, _usual_line, _prepare_usual_line, _repeated_usual_lines)
        )
        observe = repeated(observation, header, 'User-Agent: a"\x1b')
        observe()
        observe()
        observe(is_complete=False)
        assert [True] * 3 == [line.startswith("192.0.2.7 - - [") for line in written]
        assert written[0].endswith('200 2 "-" "a\\"\\x1b"\n')


class TestALineOfJson:
    @pytest.mark.parametrize("name", ["principal", "user", "repository", "reference", "digest", "user_agent"])
    def test_bounds_texts_of_clients(self, name):
        line = request_line(EXCHANGE._replace(principal="", notes={})._replace(**{name: "x" * 70_000}))
        assert max(len(each) for each in json.loads(line).values() if isinstance(each, str)) <= MAX_CHARACTERS


class TestIds:
    def test_are_unique(self):
        generators = [RequestIds(), RequestIds()]
        assert 200 == len({each.new() for each in generators for _ in range(100)})

    @pytest.mark.parametrize(
        ("expected", "header"),
        [
            ("", ""),
            ("", "00-0"),
            ("", f"0-{TRACE}"),
            (TRACE, f"00-{TRACE}-{SPAN}-01"),
            (TRACE, f"cc-{TRACE}-{SPAN}-01-later"),
            ("", f"00-{TRACE}-{SPAN}-01-later"),
            ("", f"cc-{TRACE}-{SPAN}-01x"),
            ("", f"ff-{TRACE}-{SPAN}-01"),
            ("", f"00-{'0' * 32}-{SPAN}-01"),
            ("", f"00-{TRACE}-{'0' * 16}-01"),
            ("", f"00-{TRACE.upper()}-{SPAN}-01"),
        ],
    )
    def test_of_traces_are_valid(self, expected, header):
        assert expected == trace_id(header)


class TestTheUserOfAnAuthorizationHeader:
    @pytest.mark.parametrize(
        ("header", "user"),
        [("", ""), ("Basic dXNlcjpwYXNz", "user"), ("basic dXNlcg==", "user"), ("Basic %", ""), ("Bearer x", "")],
    )
    def test_is_read_from_basic_credentials(self, header, user):
        assert user == basic_user(header)
