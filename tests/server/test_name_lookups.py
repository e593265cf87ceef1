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
def test_lookups_that_hang_hold_up_neither_files_nor_other_names(monkeypatch):
    answered, asked = threading.Event(), []

    def look_up(host, *_, **__):
        asked.append(host)
        if host.startswith("hanging"):
            answered.wait(60)
        if host.endswith("missing"):
            raise _socket.gaierror(_socket.EAI_NONAME, "unknown")
        return [(_socket.AF_INET, _socket.SOCK_STREAM, 6, "", (host, 443))]

    def find(host):
        try:
            ((*_, (address, _)),) = gevent.socket.getaddrinfo(host, 443)
        except OSError as error:
            return error.errno
        return address

    monkeypatch.setattr(_socket, "getaddrinfo", look_up)
    lookups = [gevent.spawn(find, host) for host in ("hanging", "hanging.missing") * 30]
    try:
        gevent.sleep(0)  # they begin
        lookups[0].kill()
        assert 7 == gevent.get_hub().threadpool.spawn(lambda: 7).get(timeout=30)
        assert "other" == gevent.spawn(find, "other").get(timeout=30)
    finally:
        answered.set()
        gevent.joinall(lookups)
    assert ["hanging", _socket.EAI_NONAME] * 29 == [each.value for each in lookups[2:]]
    assert ["hanging", "hanging.missing", "other"] == sorted(asked)
    assert "other" == find("other")
    assert 4 == len(asked), "a later request looks the name up again"
