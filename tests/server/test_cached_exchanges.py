"""Exchanges that were answered from the response cache, as observers receive them."""

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
from docker_registry.logs.exchange_lines import prepare_request_line, repeated_request_lines, request_line
from docker_registry.metrics.recorder import MirrorRecorder
from docker_registry.metrics.server_metrics import ServerMetrics
from docker_registry.registry.mirror.pulls import Pulls
from docker_registry.registry.read_only import ReadOnly
from docker_registry.server.access_log import (
    BatchEntries,
    _prepare_usual_line,
    _repeated_usual_lines,
    _usual_line,
)
from docker_registry.server.cached_exchanges import CachedExchanges
from docker_registry.server.client_socket import PlainSocket
from docker_registry.server.observation import MAX_RECORDED, Observation
from docker_registry.server.response_cache import ResponseCache
from docker_registry.services.mirrors import PullObserver
from tests.server.test_response_cache import head_of

MANIFEST = "/v2/acme/web/manifests/v1"
EXCHANGE = Exchange(
    "GET", "v2_manifests.get_manifest", "acme/web", "v1", "", 200, 0, 2, 0.0, 0.0, "anonymous", "1", "", False, "", "",
    "", MANIFEST, "HTTP/1.1", "", "", "", {},
)  # fmt: skip


def lines_of(texts):
    return "".join(texts).splitlines(keepends=True)


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

            hit, exchanges = cache.find(head_of(MANIFEST, *headers)), CachedExchanges(observation)

            def observe(seconds=0.0, **options):
                exchanges.report(hit, client, time.perf_counter() - seconds, **options)

            return observe

        return repeated

    @pytest.fixture
    def written(self):
        return []

    @pytest.fixture
    def entries(self, written):
        return BatchEntries(written.append, request_line, prepare_request_line, repeated_request_lines)

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
            for _ in range(4 * MAX_RECORDED):
                observe()
        finally:
            sys.setprofile(None)
        # For each of them two of the test, a report, a clock and a length; later up to four on a slow machine.
        assert sum(event in ("call", "c_call") for event in calls) < 10 * 4 * MAX_RECORDED
        observe(is_complete=False)
        count = 4 * MAX_RECORDED + 3
        lines = [json.loads(line) for line in lines_of(written)]
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
            observe(-1.0)  # in the first bucket, however long the report takes
        assert [] == written
        observation.report_refused(None, "10.9.9.9", 400)
        assert ["/a", "/b", "/a", "/b", "/a"] == [json.loads(line)["message"].split()[1] for line in lines_of(written)]
        reports[1](-1.0)
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
        for seconds in (-1.0, 0.3, 20.0, 100.0):  # in the middle of buckets, however long the report takes
            observe(seconds)
        row = metrics._numbers().series["manifest", "get", "200"]
        assert [1, 1, 1, 1] == [row.seconds_buckets[index] for index in (0, 6, 11, 12)]
        assert 119.3 < row.seconds < 150

    def test_is_audited_at_once_if_it_is_a_login(self, tmp_path, repeated, written, entries):
        observation, audit = Observation(), AuditLog(str(tmp_path / "audit.log"))
        observation.observers.append(entries)
        observation.observers.append(audit)
        observe = repeated(observation, route="v2_base.check_version", user="me")
        for _ in range(3):
            observe()
        assert 3 == len(lines_of(written))
        audit.close()
        assert 3 == (tmp_path / "audit.log").read_text().count('"event":"login"')
        (tmp_path / "audit.log").rename(tmp_path / "audit.log.1")
        observe()
        audit.close()
        assert 1 == (tmp_path / "audit.log").read_text().count('"event":"login"')

    @pytest.mark.parametrize("header", ["X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.7"])
    def test_names_the_client_behind_a_proxy(self, repeated, written, header):
        observation = Observation()
        observation.proxies = TrustedProxies(["10.0.0.0/8"])
        observation.observers.append(
            BatchEntries(written.append, _usual_line, _prepare_usual_line, _repeated_usual_lines)
        )
        observe = repeated(observation, header, 'User-Agent: a"\x1b')
        observe()
        observe()
        observe(is_complete=False)
        assert [True] * 3 == [line.startswith("192.0.2.7 - - [") for line in lines_of(written)]
        assert lines_of(written)[0].endswith('200 2 "-" "a\\"\\x1b"\n')
