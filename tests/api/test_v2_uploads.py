"""Uploads over real HTTP (OCI Distribution Specification, "Pushing blobs")."""

from __future__ import annotations

import socket
import uuid
from http.client import HTTPResponse

import pytest

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build
from tests.api.conftest import code, unique
from tests.api.test_v2_blobs import digest_of

GOOD = b"good bytes"


@pytest.fixture
def name():
    return unique("uploads")


@pytest.fixture
def start(session, server, name):
    """Start an upload and return its URL."""

    def start(query=""):
        answer = session.post(f"{server.url}/v2/{name}/blobs/uploads/{query}")
        assert 202 == answer.status_code
        return server.url + answer.headers["Location"]

    return start


def pulled(session, server, name, digest):
    return session.get(f"{server.url}/v2/{name}/blobs/{digest}").content


class TestAnUpload:
    def test_begins_with_a_relative_location_and_its_id(self, session, server, name):
        answer = session.post(f"{server.url}/v2/{name}/blobs/uploads/")
        upload_id = answer.headers["Docker-Upload-UUID"]
        assert f"/v2/{name}/blobs/uploads/{upload_id}" == answer.headers["Location"]
        assert ("0-0", str(uuid.UUID(upload_id))) == (answer.headers["Range"], upload_id)

    def test_in_one_patch_and_a_put_is_what_docker_does(self, session, server, name, start):
        answer = session.patch(start(), data=iter([b"good ", b"bytes"]))
        assert (202, "0-9") == (answer.status_code, answer.headers["Range"])
        answer = session.put(server.url + answer.headers["Location"], params={"digest": digest_of(GOOD)})
        assert (201, digest_of(GOOD)) == (answer.status_code, answer.headers["Docker-Content-Digest"])
        assert f"/v2/{name}/blobs/{digest_of(GOOD)}" == answer.headers["Location"]
        assert ("0", None) == (answer.headers["Content-Length"], answer.headers.get("Content-Type"))
        assert GOOD == pulled(session, server, name, digest_of(GOOD))

    def test_in_one_put_is_what_containerd_does(self, session, server, name, start):
        answer = session.put(start(), params={"digest": digest_of(GOOD)}, data=GOOD)
        assert (201, digest_of(GOOD)) == (answer.status_code, answer.headers["Docker-Content-Digest"])
        assert GOOD == pulled(session, server, name, digest_of(GOOD))

    def test_in_one_post_is_accepted(self, session, server, name):
        url = f"{server.url}/v2/{name}/blobs/uploads/"
        answer = session.post(url, params={"digest": digest_of(GOOD)}, data=GOOD)
        assert (201, digest_of(GOOD)) == (answer.status_code, answer.headers["Docker-Content-Digest"])

    def test_in_ranged_chunks_is_joined(self, session, server, name, start):
        url = start()
        for first in range(0, 10, 4):
            piece = GOOD[first : first + 4]
            answer = session.patch(url, data=piece, headers={"Content-Range": f"{first}-{first + len(piece) - 1}"})
            assert (202, f"0-{first + len(piece) - 1}") == (answer.status_code, answer.headers["Range"])
        assert 201 == session.put(url, params={"digest": digest_of(GOOD)}).status_code
        assert GOOD == pulled(session, server, name, digest_of(GOOD))

    def test_may_end_with_a_chunk_in_its_put(self, session, server, name, start):
        url = start()
        session.patch(url, data=GOOD[:4], headers={"Content-Range": "0-3"})
        answer = session.put(url, params={"digest": digest_of(GOOD)}, data=GOOD[4:], headers={"Content-Range": "4-9"})
        assert 201 == answer.status_code

    def test_reports_its_progress(self, session, start):
        url = start()
        session.patch(url, data=GOOD[:4])
        answer = session.get(url)
        assert (204, "0-3") == (answer.status_code, answer.headers["Range"])
        assert url.endswith(answer.headers["Location"])

    def test_may_be_of_sha512(self, session, server, name, start):
        from docker_registry.registry.names import Digest

        digest = str(Digest.of(GOOD, "sha512"))
        url = start("?digest-algorithm=sha512")
        session.patch(url, data=GOOD)
        assert 201 == session.put(url, params={"digest": digest}).status_code
        assert GOOD == pulled(session, server, name, digest)

    def test_may_be_empty(self, session, server, name, start):
        assert 201 == session.put(start(), params={"digest": digest_of(b"")}).status_code
        assert b"" == pulled(session, server, name, digest_of(b""))

    def test_whose_put_is_repeated_gets_the_same_response(self, session, start):
        url = start()
        first = session.put(url, params={"digest": digest_of(GOOD)}, data=GOOD)
        again = session.put(url, params={"digest": digest_of(GOOD)})
        assert (201, 201) == (first.status_code, again.status_code)
        assert first.headers["Location"] == again.headers["Location"]

    def test_is_unknown_after_it_was_cancelled(self, session, start):
        url = start()
        assert 204 == session.delete(url).status_code
        for answer in (session.get(url), session.patch(url, data=GOOD), session.delete(url)):
            assert (404, "BLOB_UPLOAD_UNKNOWN") == (answer.status_code, code(answer)) if answer.content else True
        assert 404 == session.get(url).status_code


class TestAMount:
    @pytest.fixture
    def source(self, session, server):
        name = unique("source")
        session.post(f"{server.url}/v2/{name}/blobs/uploads/?digest={digest_of(GOOD)}", data=GOOD)
        return name

    def test_takes_a_blob_from_another_repository(self, session, server, name, source):
        query = {"mount": digest_of(GOOD), "from": source}
        answer = session.post(f"{server.url}/v2/{name}/blobs/uploads/", params=query)
        assert (201, digest_of(GOOD)) == (answer.status_code, answer.headers["Docker-Content-Digest"])
        assert GOOD == pulled(session, server, name, digest_of(GOOD))

    def test_uses_any_repository_when_none_is_named(self, session, server, name, source):
        answer = session.post(f"{server.url}/v2/{name}/blobs/uploads/", params={"mount": digest_of(GOOD)})
        assert 201 == answer.status_code

    @pytest.mark.parametrize(
        "query",
        [
            {"mount": digest_of(b"nowhere"), "from": "a"},
            {"mount": digest_of(GOOD), "from": "not/there"},
            {"mount": digest_of(GOOD), "from": "NOT A NAME"},
            {"mount": "nonsense", "from": "a"},
        ],
    )
    def test_of_a_missing_blob_starts_an_upload(self, session, server, name, source, query):
        answer = session.post(f"{server.url}/v2/{name}/blobs/uploads/", params=query)
        assert 202 == answer.status_code
        assert "Docker-Upload-UUID" in answer.headers


class TestAChunkOutOfOrder:
    @pytest.mark.parametrize("content_range", ["0-4", "9-13", "4-8"])
    def test_is_answered_with_the_current_range(self, session, start, content_range):
        url = start()
        session.patch(url, data=b"good ")
        answer = session.patch(url, data=b"bytes", headers={"Content-Range": content_range})
        assert (416, "BLOB_UPLOAD_INVALID", "0-4") == (answer.status_code, code(answer), answer.headers["Range"])

    def test_is_answered_alike_on_the_last_put(self, session, start):
        url = start()
        session.patch(url, data=b"good ")
        query = {"digest": digest_of(GOOD)}
        answer = session.put(url, params=query, data=b"bytes", headers={"Content-Range": "9-13"})
        assert (416, "0-4") == (answer.status_code, answer.headers["Range"])


class TestBadInput:
    @pytest.mark.parametrize("content_range", ["", "a-b", "5-1", "-5", "5-", "0-4,5-6", "0-" + "9" * 30])
    def test_a_malformed_chunk_range(self, session, start, content_range):
        answer = session.patch(start(), data=b"x", headers={"Content-Range": content_range})
        assert (400, "BLOB_UPLOAD_INVALID") == (answer.status_code, code(answer))

    def test_a_chunk_range_of_another_length_than_the_body(self, session, start):
        answer = session.patch(start(), data=b"xyz", headers={"Content-Range": "0-9"})
        assert (400, "SIZE_INVALID") == (answer.status_code, code(answer))

    def test_a_wrong_digest_leaves_nothing(self, session, server, name, start):
        url = start()
        session.patch(url, data=b"evil")
        answer = session.put(url, params={"digest": digest_of(GOOD)})
        assert (400, "DIGEST_INVALID") == (answer.status_code, code(answer))
        assert 404 == session.get(url).status_code
        for content in (GOOD, b"evil"):
            assert 404 == session.head(f"{server.url}/v2/{name}/blobs/{digest_of(content)}").status_code

    @pytest.mark.parametrize("digest", ["", "x", "sha256:xyz", "md5:" + "0" * 32])
    def test_a_malformed_digest(self, session, start, digest):
        url = start()
        for answer in (session.put(url, params={"digest": digest}), session.put(url)):
            assert (400, "DIGEST_INVALID") == (answer.status_code, code(answer))
        assert 204 == session.get(url).status_code

    def test_an_unknown_algorithm(self, session, server, name):
        answer = session.post(f"{server.url}/v2/{name}/blobs/uploads/?digest-algorithm=md5")
        assert (400, "DIGEST_INVALID") == (answer.status_code, code(answer))

    @pytest.mark.parametrize("upload_id", ["x", str(uuid.UUID(int=0)), "..", "%00"])
    def test_an_unknown_upload(self, session, server, name, upload_id):
        url = f"{server.url}/v2/{name}/blobs/uploads/{upload_id}"
        answer = session.patch(url, data=b"x")
        assert 404 == answer.status_code

    def test_a_body_that_ends_early_is_kept_and_resumed(self, session, server, name, start):
        url = start()
        path = url.removeprefix(server.url)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = f"PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nContent-Range: 0-9\r\n\r\n"
            connection.sendall(head.encode() + b"good ")
            connection.shutdown(socket.SHUT_WR)
            answer = HTTPResponse(connection)
            answer.begin()
            assert 400 == answer.status
            assert b"SIZE_INVALID" in answer.read()
        assert "0-4" == session.get(url).headers["Range"]
        session.patch(url, data=b"bytes", headers={"Content-Range": "5-9"})
        assert 201 == session.put(url, params={"digest": digest_of(GOOD)}).status_code

    def test_a_chunked_body_that_ends_early_is_kept_and_resumed(self, session, server, start):
        url = start()
        path = url.removeprefix(server.url)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = f"PATCH {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode() + b"5\r\ngood \r\n")
            connection.shutdown(socket.SHUT_WR)
            answer = HTTPResponse(connection)
            answer.begin()
            assert 400 == answer.status
        assert "0-4" == session.get(url).headers["Range"]


class TestAnEmptyClosingPut:
    def test_may_repeat_the_range_of_the_last_chunk(self, session, server):
        name, content = unique("closing"), b"0123456789"
        for text in ("0-9", "bytes=0-9", "Bytes 0-9/10", "5-9"):
            location = session.post(f"{server.url}/v2/{name}/blobs/uploads/").headers["Location"]
            assert 202 == session.patch(f"{server.url}{location}", data=content).status_code
            url = f"{server.url}{location}?digest={digest_of(content)}"
            for wrong in ("0-8", "0-10", "3-12"):
                assert 416 == session.put(url, headers={"Content-Range": wrong}).status_code
            assert 201 == session.put(url, headers={"Content-Range": text}).status_code


class TestTheAbsoluteLocationForOllama:
    @pytest.mark.parametrize(("peer", "scheme"), [("127.0.0.1", "https"), ("192.0.2.7", "http")])
    def test_has_the_forwarded_scheme_of_trusted_proxies_only(self, peer, scheme):
        headers = {"User-Agent": "ollama/0.5.7", "Host": "registry.example.com", "X-Forwarded-Proto": "https"}
        location = absolute_location(Config(storage="memory"), headers, peer)
        assert location.startswith(f"{scheme}://registry.example.com/v2/acme/model/blobs/uploads/")

    def test_begins_with_the_external_url(self):
        config = Config(storage="memory", external_url="https://registry.example.com/")
        location = absolute_location(config, {"User-Agent": "ollama/0.5.7"}, "192.0.2.7")
        assert location.startswith("https://registry.example.com/v2/acme/model/blobs/uploads/")


def absolute_location(config, headers, peer):
    """Start an upload in a registry in this process; return the absolute URL of the response."""
    client = create_app(build(config, MemoryDriver())).test_client()
    answer = client.post("/v2/acme/model/blobs/uploads/", headers=headers, environ_overrides={"REMOTE_ADDR": peer})
    assert 202 == answer.status_code
    return answer.headers["Docker-Upload-Location"]
