"""Every way to connect to Redis, with real servers; no password is ever shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("redis", reason="redis is not installed")

from redis.exceptions import RedisError

from docker_registry.drivers.cache.connection import RedisAddress, connect
from docker_registry.errors import ConfigError
from tests.support import processes
from tests.support.clients import programs
from tests.support.servers.redis import PASSWORD, own_redis, redis_server, sentinel

__all__ = ["redis_server"]


def says(place):
    with connect(place, "cache_lru", timeout_seconds=2) as redis:
        redis.set("a", "b")
        return redis.get("a"), int(redis.client_info()["db"])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a self-signed certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = programs.require("openssl", "openssl")
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def tls_port(certificate):
    port = processes.free_port()
    options = [
        "--tls-port", str(port), "--tls-cert-file", str(certificate / "cert.pem"),
        "--tls-key-file", str(certificate / "key.pem"), "--tls-auth-clients", "no",
    ]  # fmt: skip
    with own_redis(*options):
        yield port


class TestARedisAddress:
    def test_may_be_a_host_and_port(self, redis_server):
        place = RedisAddress(host="127.0.0.1", port=redis_server.port, password=PASSWORD, db=3)
        assert (b"b", 3) == says(place)

    def test_may_name_a_user(self, redis_server):
        with redis_server.connect() as redis:
            redis.execute_command("ACL", "SETUSER", "registry", "on", ">pw", "~*", "+@all")
        assert (b"b", 0) == says(
            RedisAddress(host="127.0.0.1", port=redis_server.port, username="registry", password="pw")
        )

    @pytest.mark.parametrize(
        "url", ["redis://:{0}@127.0.0.1:{1}/2", "redis://127.0.0.1:{1}/2", "redis://127.0.0.1:{1}"]
    )
    def test_may_be_a_url(self, redis_server, url):
        place = RedisAddress(url=url.format(PASSWORD, redis_server.port), password=PASSWORD, db=2)
        assert (b"b", 2) == says(place)

    def test_may_be_a_unix_socket(self, tmp_path):
        with own_redis("--unixsocket", str(tmp_path / "redis")):
            assert (b"b", 1) == says(RedisAddress(url=f"unix://{tmp_path}/redis?db=1", password=PASSWORD))

    def test_may_use_tls(self, tls_port, certificate):
        ca = certificate / "cert.pem"
        place = RedisAddress(host="127.0.0.1", port=tls_port, password=PASSWORD, tls=True, tls_ca=ca)
        assert (b"b", 0) == says(place)
        assert (b"b", 0) == says(RedisAddress(url=f"rediss://:{PASSWORD}@127.0.0.1:{tls_port}", tls_ca=ca))

    def test_requires_a_valid_certificate(self, tls_port):
        with pytest.raises(RedisError):
            says(RedisAddress(host="127.0.0.1", port=tls_port, password=PASSWORD, tls=True))

    def test_may_name_sentinels(self):
        with own_redis() as master, sentinel(master) as port:
            place = RedisAddress(
                sentinels=(f"127.0.0.1:{processes.free_port()}", f"127.0.0.1:{port}"),
                sentinel_service="registry",
                sentinel_password=PASSWORD,
                password=PASSWORD,
                db=1,
            )
            assert (b"b", 1) == says(place)

    def test_of_a_sentinel_may_be_of_ipv6(self):
        place = RedisAddress(sentinels=("[::1]", "[::1]:5", "fd00::1:5", "fe80::1%lo:5"))
        clients = connect(place, "cache", timeout_seconds=1).connection_pool.sentinel_manager.sentinels
        found = [tuple(each.connection_pool.connection_kwargs[name] for name in ("host", "port")) for each in clients]
        assert [("::1", 26379), ("::1", 5), ("fd00::1", 5), ("fe80::1%lo", 5)] == found


class TestAnInvalidConfiguration:
    @pytest.mark.parametrize(
        ("expected", "place"),
        [
            ("cache.host and cache.url are both set", RedisAddress(host="h", url="redis://h")),
            ("cache.url and cache.sentinels are both set", RedisAddress(sentinels=("h",), url="redis://h")),
            ("cache.url must be redis://", RedisAddress(url="s3cret@h")),
            ("cache.url must be redis://", RedisAddress(url="redis://:s3cret@h:port/x")),
            ("cache.url must be redis://", RedisAddress(url="rediss://:s3cret@[h", tls_ca=Path("ca.pem"))),
            ("cache.url must be redis://", RedisAddress(url="redis://:s3cret@h?unknown=1")),
            ("cache.url must not set decode_responses", RedisAddress(url="redis://:s3cret@h?decode_responses=true")),
            ("cache.tls is true, so cache.url must begin with rediss", RedisAddress(url="redis://:s3cret@h", tls=True)),
            ("cache.host must be the name or address", RedisAddress(host="s3cret..h")),
            ("cache.url must be redis://", RedisAddress(url="rediss://:s3cret@h..x")),
            ("cache.sentinels must be a list of HOST", RedisAddress(sentinels=("s3cret..h",))),
            ("cache.sentinels must be a list of HOST", RedisAddress(sentinels=("h:s3cret",))),
            ("cache.sentinels must be a list of HOST", RedisAddress(sentinels=("::1",))),
            ("cache.sentinels must be a list of HOST", RedisAddress(sentinels=("h", ":1"))),
        ],
    )
    def test_is_reported_in_one_sentence_without_secrets(self, expected, place):
        with pytest.raises(ConfigError, match=expected) as raised:
            connect(place, "cache", timeout_seconds=1)
        assert "s3cret" not in str(raised.value)

    def test_may_be_a_missing_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "redis", None)
        with pytest.raises(ConfigError, match=r"^cache_lru.url: .* pip install 'docker-registry\[redis\]'$"):
            connect(RedisAddress(url="redis://h"), "cache_lru", timeout_seconds=1)


class TestTheTextOfAnAddress:
    @pytest.mark.parametrize(
        ("expected", "place"),
        [
            ("h:6379", RedisAddress(host="h", password="s3cret", username="s3cret")),
            ("h:1", RedisAddress(url="redis://me:s3cret@h:1/0?password=s3cret")),
            ("/run/redis", RedisAddress(url="unix://me:s3cret@/run/redis?password=s3cret")),
            ("mymaster of a, b:1", RedisAddress(sentinels=("a", "b:1"), sentinel_password="s3cret")),
        ],
    )
    def test_contains_no_secrets(self, expected, place):
        assert expected == str(place)
        assert "s3cret" not in repr(place)

    def test_shows_whether_it_is_set(self):
        assert not RedisAddress(password="a", port=1).is_set
