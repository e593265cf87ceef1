"""Routes outside both APIs, and the headers of every response."""

from __future__ import annotations

import json
import os
import socket

import pytest

from docker_registry import __version__
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageError
from docker_registry.registry.oci_registry import OciRegistry
from tests.support.clients.v1 import Docker, done, error
from tests.support.processes import free_port
from tests.support.servers.redis import redis_server  # noqa: F401 - a fixture
from tests.support.servers.registry import Server
from tests.support.v1_images import make


class UnreadableDriver(MemoryDriver):
    """A store that can only be written."""

    def get_content(self, path):
        raise StorageError(path=path)


class DamagedDriver(MemoryDriver):
    """A store that returns other content than was written."""

    def get_content(self, path):
        return super().get_content(path)[1:]


@pytest.fixture(scope="module")
def old_registry(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("v1") / "store", REGISTRY_V2="false") as server:
        yield server


@pytest.fixture(scope="module")
def new_registry(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("v2") / "store", REGISTRY_V1="false") as server:
        yield server


class TestAPing:
    @pytest.mark.parametrize("path", ["/_ping", "/v1/_ping", "/v1/_ping/"])
    def test_reports_a_standalone_registry(self, server, session, path):
        answer = session.get(server.url + path)
        assert (200, "true", "True") == (
            answer.status_code, answer.text, answer.headers["X-Docker-Registry-Standalone"],
        )  # fmt: skip
        assert (200, b"") == ((head := session.head(server.url + path)).status_code, head.content)


class TestEveryResponse:
    @pytest.mark.parametrize("path", ["/", "/_ping", "/v1/_ping", "/v1/nothing", "/v2/", "/v2/nothing", "/nothing"])
    def test_has_version_and_flavor(self, server, session, path):
        headers = session.get(server.url + path).headers
        assert (__version__, "dev") == (headers["X-Docker-Registry-Version"], headers["X-Docker-Registry-Config"])

    @pytest.mark.parametrize("path", ["/", "/_ping", "/v1/_ping", "/v1/nothing", "/_status"])
    def test_with_changing_content_is_not_cached(self, server, session, path):
        headers = session.get(server.url + path).headers
        assert ("no-cache", "no-cache", "-1") == (headers["Cache-Control"], headers["Pragma"], headers["Expires"])
        assert "application/json" == headers["Content-Type"]
        assert not {"Set-Cookie", "ETag", "Vary"} & set(headers)


class TestTheBanner:
    def test_names_version_and_flavor(self, server, session):
        assert f'"docker-registry server (dev) (v{__version__})"' == session.get(server.url).text


class TestTheStatus:
    @pytest.mark.parametrize("path", ["/_status", "/v1/_status"])
    def test_is_ok_when_redis_is_not_configured(self, server, session, path):
        answer = done(session.get(server.url + path), 200)
        assert {"host": socket.gethostname(), "services": ["storage"], "failures": {}} == answer.json()

    def test_leaves_nothing_in_the_store(self, server, session):
        session.get(f"{server.url}/_status")
        assert not (server.store / "docker/registry/v2/_probes").exists()

    @pytest.mark.parametrize("driver", [UnreadableDriver(), DamagedDriver()], ids=["unreadable", "damaged"])
    def test_leaves_nothing_in_a_store_that_cannot_be_read(self, driver):
        with pytest.raises(StorageError):
            OciRegistry(driver).probe()
        assert [] == list(driver.walk())

    def test_includes_a_configured_redis(self, tmp_path, session, redis_server):  # noqa: F811
        with Server(tmp_path / "store", **redis_server.environment) as server:
            answer = done(session.get(f"{server.url}/_status"), 200)
            assert (["redis", "storage"], {}) == (answer.json()["services"], answer.json()["failures"])

    def test_reports_an_unavailable_redis_while_the_registry_serves(self, tmp_path, session):
        away = {"CACHE_REDIS_HOST": "127.0.0.1", "CACHE_REDIS_PORT": str(free_port())}
        with Server(tmp_path / "store", **away) as server, Docker(server.url) as docker:
            answer = done(session.get(f"{server.url}/_status"), 503)
            assert ["redis"] == list(answer.json()["failures"])
            assert answer.json()["failures"]["redis"].startswith("Redis cannot be reached")
            image = make(1)
            docker.push("lab/x", "v1", image)
            assert image.layer == docker.pull("lab/x", "v1")[0][2]
            diff = docker.get(f"/images/{image.text}/diff")
            assert (200, b"") == (diff.status_code, diff.content)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_reports_a_store_that_cannot_be_written(self, tmp_path, session):
        with Server(tmp_path / "store") as server:
            server.store.chmod(0o500)
            try:
                assert ["storage"] == list(session.get(f"{server.url}/_status").json()["failures"])
            finally:
                server.store.chmod(0o700)

    def test_reports_a_missing_store(self, tmp_path, session):
        with Server(tmp_path / "store") as server:
            server.store.rename(tmp_path / "elsewhere")
            server.store.write_text("no folder")
            answer = done(session.get(f"{server.url}/_status"), 503)
            assert ["storage"] == list(answer.json()["failures"])


class TestARegistryWithoutApiV2:
    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("path", ["/v2/", "/v2/lab/x/manifests/v1", "/v2/lab/x/blobs/uploads/"])
    def test_sends_nothing_that_makes_old_clients_choose_it(self, old_registry, session, method, path):
        answer = session.request(method, old_registry.url + path, headers={"User-Agent": "docker/1.12.6"})
        assert 404 == answer.status_code
        assert "Docker-Distribution-Api-Version" not in answer.headers

    def test_serves_api_v1(self, old_registry, session):
        assert 200 == session.get(f"{old_registry.url}/v1/_ping").status_code


class TestARegistryWithoutApiV1:
    @pytest.mark.parametrize("path", ["/v1/_ping", "/v1/_status", "/v1/search", "/v1/repositories/x/tags"])
    def test_serves_none_of_its_paths(self, new_registry, session, path):
        assert 404 == error(session.get(new_registry.url + path))[0]

    @pytest.mark.parametrize("path", ["/_ping", "/_status", "/", "/v2/"])
    def test_serves_the_other_paths(self, new_registry, session, path):
        assert 200 == session.get(new_registry.url + path).status_code


class TestTheRegistryEndpoint:
    def test_is_the_configured_one(self, tmp_path):
        endpoints = "registry.example.com,registry2.example.com"
        with Server(tmp_path / "store", REGISTRY_ENDPOINTS=endpoints) as server, Docker(server.url) as docker:
            answer = docker.put("/repositories/lab/x/", json.dumps([]))
            assert endpoints == answer.headers["X-Docker-Endpoints"]

    def test_defaults_to_the_host_of_the_request(self, server):
        with Docker(server.url) as docker:
            answer = docker.put("/repositories/lab/x/", "[]", headers={"Host": "registry.example.com:8443"})
            assert "registry.example.com:8443" == answer.headers["X-Docker-Endpoints"]
