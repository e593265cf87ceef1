"""A registry below a path, such as https://example.com/registry."""

from __future__ import annotations

import pytest
from werkzeug.test import create_environ

from docker_registry import dependencies
from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError
from docker_registry.http.external_url import ExternalUrl
from docker_registry.services import build
from tests.support.clients.v2 import OCI_MANIFEST, digest_of, encoded

NAME = "team/app"
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}


def make_client(**settings):
    return create_app(build(Config(storage="memory", search_backend=None, **settings), MemoryDriver())).test_client()


def push(client, prefix=""):
    """Push two tags, and return the Locations of all steps."""
    uploads = f"{prefix}/v2/{NAME}/blobs/uploads/"
    answers = [client.post(uploads), client.post(f"{uploads}?digest={EMPTY['digest']}", data=b"{}")]
    manifest = encoded({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": EMPTY, "layers": []})
    for tag in ("a", "b"):
        path = f"{prefix}/v2/{NAME}/manifests/{tag}"
        answers.append(client.put(path, data=manifest, content_type=OCI_MANIFEST))
    return [answer.headers["Location"] for answer in answers]


class TestARegistryBelowAPath:
    @pytest.mark.parametrize("sent", ["/my/registry", ""], ids=["kept-by-the-proxy", "removed-by-the-proxy"])
    @pytest.mark.parametrize("external_url", ["https://example.com/my/registry/", "/my/registry"])
    def test_is_there_in_all_urls(self, external_url, sent):
        client = make_client(external_url=external_url)
        for location in push(client, sent):
            assert location.startswith(f"/my/registry/v2/{NAME}/")
            assert 200 == client.head(location).status_code or "uploads" in location

        link = client.get(f"{sent}/v2/{NAME}/tags/list?n=1").headers["Link"]
        assert f'</my/registry/v2/{NAME}/tags/list?n=1&last=a>; rel="next"' == link

        # A part that starts elsewhere is told where the upload is.
        upload = client.post(f"{sent}/v2/{NAME}/blobs/uploads/").headers["Location"]
        answer = client.patch(upload, data=b"x", headers={"Content-Range": "5-5"})
        assert (416, upload) == (answer.status_code, answer.headers["Location"])

        # Errors keep the form of their API, and API V1 its slashes at the end.
        assert "NAME_UNKNOWN" in client.get(f"{sent}/v2/absent/tags/list").text
        assert {"error"} == set(client.get(f"{sent}/v1/absent").json)
        assert b"true" == client.get(f"{sent}/v1/_ping/").data

    def test_is_named_to_clients_that_need_absolute_urls(self):
        headers = {"User-Agent": "ollama/0.1", "Host": "r.example"}
        for external_url, expected in (("/r", "http://r.example/r"), ("https://e.example/r", "https://e.example/r")):
            client = make_client(external_url=external_url)
            answer = client.post(f"/v2/{NAME}/blobs/uploads/", headers=headers)
            assert answer.headers["Docker-Upload-Location"].startswith(f"{expected}/v2/{NAME}/")

    def test_does_not_change_urls_of_a_store(self):
        client = make_client(external_url="/r")
        assert "Location" not in client.get("/r/v2/").headers
        assert 404 == client.get("/registry/v2/").status_code


class TestThePrefixOfAProxy:
    @pytest.mark.parametrize(
        ("header", "peer", "expected"),
        [
            ("/r", "127.0.0.1", "/r/v2/"),
            ("/a, /r/", "127.0.0.1", "/r/v2/"),
            ("/r", "192.0.2.1", "/v2/"),
            ("//evil.example", "127.0.0.1", "/v2/"),
            ("/r/../x", "127.0.0.1", "/v2/"),
            ("/v2", "127.0.0.1", "/v2/"),
            ("r", "127.0.0.1", "/v2/"),
            ("/r\x7f", "127.0.0.1", "/v2/"),
            (f"/{'r' * 300}", "127.0.0.1", "/v2/"),
            ("", "127.0.0.1", "/v2/"),
        ],
    )
    def test_is_trusted_like_its_other_headers(self, header, peer, expected):
        client = make_client()
        found = client.post(
            f"/v2/{NAME}/blobs/uploads/",
            headers={"X-Forwarded-Prefix": header},
            environ_base={"REMOTE_ADDR": peer},
        )
        assert found.headers["Location"].startswith(f"{expected}{NAME}/")

    def test_is_not_cached(self):
        client = make_client()
        for headers, is_complete in (({}, True), ({"X-Forwarded-Prefix": "/r"}, False)):
            with dependencies.collected() as found:
                client.get("/v2/", headers=headers)
            assert is_complete == found.is_complete

    def test_may_be_that_of_the_wsgi_server(self):
        client = make_client()
        answer = client.post(f"/v2/{NAME}/blobs/uploads/", base_url="http://localhost/r")
        assert answer.headers["Location"].startswith("/r/v2/")


class TestAnExternalUrl:
    @pytest.mark.parametrize(
        "text",
        [
            "r.example",
            "ftp://r.example",
            "https://",
            "https://[::1",
            "https://r.example:http",
            "https://r.example:70000",
            "https://user:password@r.example",
            "https://bü cher.example",
            "https://r.example/v2",
            "/v1/x",
            "/a b",
            "/a/../b",
            "https://r/?x",
        ],
    )
    def test_that_is_invalid_prevents_the_start(self, text):
        with pytest.raises(ConfigError, match="external_url"):
            ExternalUrl.parse(text)

    def test_may_be_a_host_or_a_path(self):
        assert ExternalUrl("https://r.example:5000") == ExternalUrl.parse("https://r.example:5000/")
        assert ExternalUrl("http://[::1]:5000", "/a/b") == ExternalUrl.parse("http://[::1]:5000/a/b")
        assert ExternalUrl("https://r.example") == ExternalUrl.parse("https://r.example:/")
        assert ExternalUrl("https://xn--bcher-kva.example:5000") == ExternalUrl.parse("https://bücher.example:5000")
        assert ExternalUrl() == ExternalUrl.parse(None)


def test_a_slash_after_a_path_of_api_v1_is_ignored_and_left_in_the_environment():
    environ, answers = create_environ("/v1/_ping/"), []
    app = create_app(build(Config(storage="memory", search_backend=None), MemoryDriver()))
    app(environ, lambda status, headers: answers.append(status)).close()
    assert ["200 OK"] == answers
    assert "/v1/_ping/" == environ["PATH_INFO"]  # the server may log it
