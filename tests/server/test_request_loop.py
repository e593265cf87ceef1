"""The requests of one connection, over a real socket pair in this process, and the requests in progress."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import gevent
import pytest
from gevent import socket
from gunicorn.config import Config
from gunicorn.glogging import Logger

from docker_registry import dependencies
from docker_registry.server.client_socket import PlainSocket
from docker_registry.server.observation import Observation
from docker_registry.server.request_head import CommonParts, HeadParser
from docker_registry.server.request_loop import InflightRequests, RequestLoop
from docker_registry.server.response_cache import ResponseCache
from docker_registry.server.turns import Turns
from tests.support.clock import Clock

GET = b"GET / HTTP/1.1\r\n\r\n"


@pytest.fixture
def called():
    """The number of times that the application was called, as the length of a list."""
    return []


@pytest.fixture
def connection(called):
    """Serve one connection; return the sockets of client and server."""

    def application(environ, start_response):
        called.append(None)
        if environ["PATH_INFO"] == "/short":
            start_response("200 OK", [("Content-Length", "3")])
            return [b"ok"]
        dependencies.declare_cacheable()
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    cfg, observation = Config(), Observation()
    worker = SimpleNamespace(
        alive=True,
        cfg=cfg,
        is_replaced=False,
        keeps_alive=True,
        log=Logger(cfg),
        max_requests=sys.maxsize,
        nr=0,
        silence_seconds=20,
    )
    worker.wsgi = observation.connect(application, None)
    cache, clients = ResponseCache(), []
    loop = RequestLoop(worker, cache, observation, clients, Turns(), None)
    client, server = socket.socketpair()
    client.settimeout(20)
    server = PlainSocket(server.family, server.type, server.proto, fileno=server.detach())
    server.parser = HeadParser(CommonParts(cfg, lambda: None), server, ("", 0), ("", 0))
    with client, server:
        greenlet = gevent.spawn(loop.run, server)
        yield client, server
        greenlet.kill()


class TestAConnectionThatIsEnded:
    def test_is_not_promised_to_be_kept(self, connection, called):
        client, server = connection
        for _ in range(2):
            client.sendall(GET)
            assert b"\r\nConnection: keep-alive\r\n" in client.recv(1000)
        assert 1 == len(called)  # the second response came from the cache

        client.sendall(GET)
        server.end()  # the request has arrived, but was not received yet
        assert b"\r\nConnection: close\r\n" in client.recv(1000)


class TestAResponseThatIsShorterThanAnnounced:
    def test_is_the_last_one(self, connection, called):
        client, _ = connection
        client.sendall(b"GET /short HTTP/1.1\r\n\r\n" + GET)
        assert client.recv(1000).endswith(b"\r\n\r\nok")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):  # the next one would be taken for the rest of the body
            client.recv(1000)
        assert 1 == len(called)


class TestTheRestOfAHead:
    def test_has_its_own_time_after_an_idle_connection(self, connection):
        _, server = connection
        server.active_since = 0.0
        with server.limited_head():
            assert server.active_since > 0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def inflight(clock):
    return InflightRequests(clock)


class TestALoneClient:
    def test_sends_the_only_request(self, inflight):
        inflight.begin(7)
        assert inflight.has_lone_client()

    def test_is_not_alone_beside_another_request(self, inflight, clock):
        inflight.begin(7)
        clock.now += 60
        inflight.begin(8)
        clock.now += 60
        assert not inflight.has_lone_client()
        inflight.end()
        assert inflight.has_lone_client()

    def test_is_not_alone_while_connections_alternate(self, inflight, clock):
        for connection in (7, 8, 7, 8):
            inflight.begin(connection)
            found = inflight.has_lone_client()
            inflight.end()
            clock.now += 0.1
        assert not found

    @pytest.mark.parametrize(("seconds", "expected"), [(0.9, False), (1.1, True)])
    def test_is_alone_after_a_second_without_requests_of_others(self, inflight, clock, seconds, expected):
        inflight.begin(7)
        inflight.end()
        inflight.begin(8)
        clock.now += seconds
        assert expected == inflight.has_lone_client()

    def test_is_not_alone_just_after_a_cached_response_to_another(self, inflight):
        inflight.saw(7)
        inflight.begin(8)
        assert not inflight.has_lone_client()

    def test_is_alone_after_a_cached_response_to_itself(self, inflight):
        inflight.saw(7)
        inflight.begin(7)
        assert inflight.has_lone_client()

    def test_is_not_alone_if_no_requests_are_reported(self, inflight):
        assert not inflight.has_lone_client()
