"""The exchanges that the worker reports to observers."""

from __future__ import annotations

import json
import time

import pytest

from docker_registry.http.exchange import Exchange
from docker_registry.logs.exchange_lines import (
    MAX_CHARACTERS,
    request_line,
)
from docker_registry.server.access_log import (
    basic_user,
)
from docker_registry.server.observation import RequestIds, trace_id
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
            lines = file.read().rpartition("\n")[0].splitlines()  # the last line may be incomplete
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
            "target": MANIFEST, "protocol": "HTTP/1.1", "referrer": "", "user": "", "traceparent": "", "scheme": "",
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
