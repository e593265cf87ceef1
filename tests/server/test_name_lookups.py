"""Lookups of host names by a worker whose name server does not answer."""

from __future__ import annotations

import _socket
import threading

import gevent
import gevent.socket
import pytest

from docker_registry.server import name_lookups


@pytest.fixture
def _own_threads():
    resolver = gevent.get_hub().resolver
    before = resolver.pool
    name_lookups.use_own_threads()
    yield
    resolver.pool.kill()
    resolver.pool = before


@pytest.mark.usefixtures("_own_threads")
def test_lookups_that_hang_do_not_hold_up_files(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(_socket, "getaddrinfo", lambda *_, **__: answered.wait(60))
    lookups = [gevent.spawn(gevent.socket.getaddrinfo, "registry.example", 443) for _ in range(30)]
    try:
        gevent.sleep(0)  # they begin
        with gevent.Timeout(30):  # also while the pool has no free thread
            assert 7 == gevent.get_hub().threadpool.spawn(lambda: 7).get()
    finally:
        answered.set()
        gevent.joinall(lookups)
