"""The requests of one connection, answered in this process over a real socket pair."""

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
from docker_registry.server.inflight import InflightRequests
from docker_registry.server.observation import Observation
from docker_registry.server.request_head import CommonParts, HeadParser
from docker_registry.server.request_loop import RequestLoop
from docker_registry.server.response_cache import ResponseCache
from docker_registry.server.turns import Turns

GET = b"GET / HTTP/1.1\r\n\r\n"


@pytest.fixture
def called():
    """The number of times that the application was called, as the length of a list."""
    return []


@pytest.fixture
def connection(called):
    """Serve one connection; return the sockets of client and server."""

    def application(_environ, start_response):
        called.append(None)
        dependencies.declare_cacheable()
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    cfg, observation = Config(), Observation()
    worker = SimpleNamespace(
        alive=True, cfg=cfg, is_replaced=False, log=Logger(cfg), max_requests=sys.maxsize, nr=0, silence_seconds=20
    )
    worker.wsgi = observation.connect(application, None)
    cache, inflight, clients = ResponseCache(), InflightRequests(), []
    loop = RequestLoop(worker, cache, observation, inflight, clients, Turns(), None)
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


class TestTheRestOfAHead:
    def test_has_its_own_time_after_an_idle_connection(self, connection):
        _, server = connection
        server.active_since = 0.0
        with server.limited_head():
            assert server.active_since > 0
