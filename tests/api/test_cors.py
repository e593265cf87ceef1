"""Which pages of other sites may read the answers (Fetch standard, "CORS protocol")."""

from __future__ import annotations

import pytest

from tests.support.servers.registry import Server

ORIGIN = "https://ui.example.com"


def preflight(session, url, method="GET", origin=ORIGIN):
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    return session.options(url, headers=headers)


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory):
    settings = {
        "CORS_ORIGINS": f"{ORIGIN}, https://other.example.com",
        "CORS_METHODS": "GET, HEAD, DELETE",
        "CORS_HEADERS": "Authorization, Accept",
        "CORS_EXPOSE_HEADERS": "Docker-Content-Digest",
        "CORS_SUPPORTS_CREDENTIALS": "true",
        "CORS_MAX_AGE": "600",
    }
    with Server(tmp_path_factory.mktemp("cors") / "store", **settings) as server:
        yield server


class TestNoConfiguredOrigins:
    @pytest.mark.parametrize("path", ["/v2/", "/v1/_ping", "/v1/repositories/lab/x/tags"])
    def test_only_routes_that_were_open_in_0_7_are_readable(self, server, session, path):
        answer = session.get(server.url + path, headers={"Origin": ORIGIN})
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


class TestConfiguredOrigins:
    @pytest.mark.parametrize("path", ["/v2/", "/v2/nothing", "/v1/_ping", "/v1/search", "/v1/nothing"])
    def test_their_pages_may_read_every_response(self, open_registry, session, path):
        headers = session.get(open_registry.url + path, headers={"Origin": ORIGIN}).headers
        assert ORIGIN == headers["Access-Control-Allow-Origin"]
        assert "true" == headers["Access-Control-Allow-Credentials"]
        assert "Docker-Content-Digest" == headers["Access-Control-Expose-Headers"]
        assert "Origin" in headers["Vary"]

    @pytest.mark.parametrize("path", ["/v2/", "/v1/search"])
    def test_other_origins_may_not_read(self, open_registry, session, path):
        for headers in ({"Origin": "https://evil.example.com"}, {"Origin": "null"}, {}):
            answer = session.get(open_registry.url + path, headers=headers)
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert "Origin" in answer.headers["Vary"]

    def test_preflight_responses_list_methods_and_headers(self, open_registry, session):
        answer = preflight(session, f"{open_registry.url}/v2/lab/x/manifests/v1", "DELETE")
        assert 200 == answer.status_code
        assert "GET, HEAD, DELETE" == answer.headers["Access-Control-Allow-Methods"]
        assert "Authorization, Accept" == answer.headers["Access-Control-Allow-Headers"]
        assert "600" == answer.headers["Access-Control-Max-Age"]

    def test_other_origins_get_no_cors_headers(self, open_registry, session):
        answer = preflight(session, f"{open_registry.url}/v2/", origin="https://evil.example.com")
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


class TestAWildcardOrigin:
    @pytest.mark.parametrize(("credentials", "allowed"), [("false", "*"), ("true", ORIGIN)])
    def test_all_pages_may_read_every_response(self, tmp_path, session, credentials, allowed):
        settings = {"CORS_ORIGINS": "*", "CORS_SUPPORTS_CREDENTIALS": credentials}
        with Server(tmp_path / "store", **settings) as server:
            headers = session.get(f"{server.url}/v2/", headers={"Origin": ORIGIN}).headers
            assert allowed == headers["Access-Control-Allow-Origin"]
