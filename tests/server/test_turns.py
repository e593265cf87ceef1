"""Many connections that arrive at once, beside one that is answered from the response cache."""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import ExitStack

import gevent
import gevent.socket
import pytest
import requests

from docker_registry.server.turns import Acceptor
from tests.support.gevent_program import under_gevent
from tests.support.servers.registry import Server

CONNECTIONS = 600

TURNS = """
from docker_registry.server.turns import Turns

turns, order = Turns(), []
def take(number):
    turns.wait()
    order.append(number)
gevent.joinall([gevent.spawn(take, number) for number in range(7)])
gevent.sleep(0)
take("alone")
print(*order)
"""


class TestTurns:
    def test_are_taken_by_the_newest_and_the_oldest_alternately(self):
        assert ["0", "6", "1", "5", "2", "4", "3", "alone"] == under_gevent(TURNS)


class TestManyNewConnections:
    def test_do_not_delay_a_response_from_the_cache(self, tmp_path):
        with Server(tmp_path / "store") as server, ExitStack() as stack:
            (worker,) = server.worker_pids()
            for _ in range(3):
                assert 200 == requests.get(f"{server.url}/v2/", timeout=60).status_code
            os.kill(worker, signal.SIGSTOP)
            try:
                crowd = []
                for number in range(CONNECTIONS):
                    one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
                    one.sendall(b"GET /v2/a/manifests/x%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
                    crowd.append(one)
                last = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
                last.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            finally:
                os.kill(worker, signal.SIGCONT)
            assert last.recv(100).startswith(b"HTTP/1.1 200 ")
            answered, _, _ = select.select(crowd, [], [], 0)
            assert len(answered) < CONNECTIONS // 2
            for one in crowd:
                assert one.recv(100).startswith(b"HTTP/1.1 404 ")


class TestAnAcceptorOfTwo:
    def test_accepts_half_of_the_queued_connections_at_a_time(self):
        listener = gevent.socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        acceptor = Acceptor(listener, lambda *_: None, workers=2)
        accepted = []
        with ExitStack() as stack:
            for _ in range(11):
                stack.enter_context(socket.create_connection(listener.getsockname(), timeout=60))
            for _ in range(6):
                accepted.append(0)
                while (connection := acceptor.do_read()) is not None:
                    stack.enter_context(connection[0])
                    accepted[-1] += 1
            acceptor.close()
        assert [6, 3, 1, 1, 0, 0] == accepted


class TestAClosingAcceptor:
    @pytest.mark.parametrize("is_last", [True, False])
    def test_accepts_queued_connections_unless_other_workers_do(self, is_last):
        served = []
        listener = gevent.socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        acceptor = Acceptor(
            listener, lambda client, _: served.append(client.recv(1)), workers=1, is_last=lambda: is_last
        )
        acceptor.start()  # accepts nothing before other greenlets run
        with socket.create_connection(address) as client:
            client.sendall(b"x")
            acceptor.close()
            gevent.idle()
            gevent.sleep(0.05)
        assert ([b"x"] if is_last else []) == served
